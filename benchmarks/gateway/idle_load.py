"""Connections that are kept and do nothing: `python -m benchmarks.gateway.idle_load PORT COUNT [--silent]`.

Each makes one request, unless `--silent`. Prints how many there are, waits for its input to end, prints how many are
still open.
"""

from __future__ import annotations

import argparse
import socket
import struct
import sys

from benchmarks.gateway.machine import raise_file_limit
from benchmarks.gateway.traffic import plain_body, request

_WAIT_S = 5.0
_TOGETHER = 64
_END_NOW = struct.pack("ii", 1, 0)


def main() -> None:
    """Open, report, wait, report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--silent", action="store_true")
    arguments = parser.parse_args()
    raise_file_limit()
    asked = b"" if arguments.silent else request(plain_body(), port=arguments.port)
    files: list[socket.socket] = []
    for first in range(0, arguments.count, _TOGETHER):
        opened = [_connection(arguments.port, asked) for _ in range(min(_TOGETHER, arguments.count - first))]
        files += [file for file in opened if file is not None and _answered(file, asked=bool(asked))]
    print(len(files), flush=True)
    sys.stdin.read()
    print(sum(_open(file) for file in files), flush=True)
    for file in files:
        file.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _END_NOW)
        file.close()


def _connection(port: int, asked: bytes) -> socket.socket | None:
    try:
        file = socket.create_connection(("127.0.0.1", port), timeout=_WAIT_S)
        file.sendall(asked)
    except OSError:
        return None
    return file


def _answered(file: socket.socket, *, asked: bool) -> bool:
    """Read the answer, if there is to be one."""
    answer = b""
    try:
        while asked and not answer.endswith(b"}"):
            data = file.recv(65536)
            if not data:
                return False
            answer += data
    except OSError:
        return False
    file.setblocking(False)
    return True


def _open(file: socket.socket) -> bool:
    try:
        return bool(file.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False


if __name__ == "__main__":
    main()
