"""One HTTP exchange with the engine, small enough to stay in every runner, that a signal can cut short."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time
from typing import NamedTuple

from hostler.runner.waiting import Pause

KEPT_BYTES = 4096
LARGEST_BYTES = 16 * 1024 * 1024


class Endpoint(NamedTuple):
    """Where the engine listens, and its bearer token if it checks one."""

    host: str
    port: int
    token: str | None = None


class Answer(NamedTuple):
    """The status and the first bytes of the body."""

    status: int
    body: bytes


def connect(endpoint: Endpoint, *, deadline: float, pause: Pause) -> socket.socket:
    """A connected non-blocking socket. Raises OSError; TimeoutError past `deadline` (monotonic)."""
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        code = connection.connect_ex((endpoint.host, endpoint.port))
        if code == errno.EINPROGRESS:
            _until_ready(connection, select.POLLOUT, deadline=deadline, pause=pause)
            code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))  # noqa: TRY301 - the socket is closed in one place
    except BaseException:
        connection.close()
        raise
    return connection


def request(endpoint: Endpoint, path: str, *, deadline: float, pause: Pause, body: bytes | None = None) -> Answer:
    """GET `path`, or POST `body` as JSON, and read the whole answer.

    Raises OSError if there is none (TimeoutError past `deadline`, monotonic), and whatever `pause` raises.
    """
    connection = connect(endpoint, deadline=deadline, pause=pause)
    with contextlib.closing(connection):
        pending = memoryview(_head(endpoint, path, body=body) + (body or b""))
        while pending:
            try:
                pending = pending[connection.send(pending) :]
            except BlockingIOError:
                _until_ready(connection, select.POLLOUT, deadline=deadline, pause=pause)
        return _read_answer(connection, deadline=deadline, pause=pause)


def _head(endpoint: Endpoint, path: str, *, body: bytes | None) -> bytes:
    lines = [
        f"{'GET' if body is None else 'POST'} {path} HTTP/1.1",
        f"Host: {endpoint.host}:{endpoint.port}",
        "User-Agent: hostler-runner",
        "Accept: */*",
        "Connection: close",
    ]
    if endpoint.token is not None:
        lines.append(f"Authorization: Bearer {endpoint.token}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _read_answer(connection: socket.socket, *, deadline: float, pause: Pause) -> Answer:
    head = bytearray()
    body_start = -1
    received = 0
    length: int | None = None
    while received < LARGEST_BYTES and (length is None or received - body_start < length):
        try:
            chunk = connection.recv(65536)
        except BlockingIOError:
            _until_ready(connection, select.POLLIN, deadline=deadline, pause=pause)
            continue
        if not chunk:
            break
        received += len(chunk)
        if body_start < 0 or len(head) < body_start + KEPT_BYTES:
            head += chunk
        if body_start < 0 and (end := head.find(b"\r\n\r\n")) >= 0:
            body_start = end + 4
            length = _content_length(bytes(head[:end]))
    if body_start < 0:
        raise ConnectionResetError(errno.ECONNRESET, "the engine closed the connection without an answer")
    return Answer(_status(bytes(head)), bytes(head[body_start : body_start + KEPT_BYTES]))


def _content_length(head: bytes) -> int | None:
    for line in head.lower().split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name == b"content-length" and value.strip().isdigit():
            return int(value)
    return None


def _status(head: bytes) -> int:
    parts = head.split(b"\r\n", 1)[0].split()
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/") or not parts[1].isdigit():
        raise ConnectionResetError(errno.EPROTO, "the engine did not answer in HTTP")
    return int(parts[1])


def _until_ready(connection: socket.socket, events: int, *, deadline: float, pause: Pause) -> None:
    while True:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the engine did not answer in time")
        if pause(left_s, descriptor=connection.fileno(), events=events):
            return
