"""An engine for tests: a small HTTP server that behaves as its arguments say."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


def say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--say", default="")
    parser.add_argument("--exit", type=int)
    parser.add_argument("--hang", action="store_true")
    parser.add_argument("--children", type=Path, help="start a child and an escaped grandchild, write their ids here")
    parser.add_argument("--not-ready", action="store_true", help="answer 503")
    parser.add_argument("--silent", type=Path, help="answer nothing once this file exists")
    parser.add_argument("--refuse", default="", help="answer 400 to this path")
    parser.add_argument("--slow-path", default="", help="take a minute to answer this path")
    parser.add_argument("--taken", type=Path, help="complain that the port is taken until this file has three lines")
    options = parser.parse_args()
    if options.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.children is not None:
        sleeper = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
        child = subprocess.Popen(sleeper)
        # Its output goes nowhere, else this process would wait for it to end.
        code = (
            "import subprocess as s, sys\n"
            "print(s.Popen(sys.argv[1:], stdout=s.DEVNULL, stderr=s.DEVNULL, start_new_session=True).pid)"
        )
        escaped = subprocess.run(
            [sys.executable, "-S", "-c", code, *sleeper], capture_output=True, text=True, check=True
        )
        options.children.write_text(f"{child.pid} {escaped.stdout}")
    for line in options.say.split("|") if options.say else ():
        say(line)
    if options.taken is not None:
        with options.taken.open("a") as tries:
            tries.write(os.environ["PORT"] + "\n")
        if len(options.taken.read_text().splitlines()) < 3:
            sys.exit("OSError: [Errno 98] Address already in use")
    if options.exit is not None:
        sys.exit(options.exit)
    if options.hang:
        time.sleep(600)
    say(f"engine {os.getpid()} in {Path.cwd()}")
    serve(options)


def serve(options: argparse.Namespace) -> None:
    with socket.create_server((os.environ["HOST"], int(os.environ["PORT"]))) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                head = connection.recv(65536).decode()
                while "\r\n\r\n" not in head:
                    head += connection.recv(65536).decode()
                path = head.split(" ", 2)[1]
                if options.silent is not None and options.silent.exists():
                    time.sleep(600)
                if options.slow_path and path == options.slow_path:
                    time.sleep(60)
                expected = os.environ.get("TOY_TOKEN")
                status = "200 OK"
                if options.not_ready:
                    status = "503 Loading"
                if options.refuse and path == options.refuse:
                    status = "400 No"
                if expected and f"Authorization: Bearer {expected}" not in head:
                    status = "401 No"
                body = head.partition("\r\n\r\n")[2]
                say(f"asked {head.split(' ', 1)[0]} {path} {body}")
                answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(status)}\r\n\r\n{status}"
                connection.sendall(answer.encode())


if __name__ == "__main__":
    main()
