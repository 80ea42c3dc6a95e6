"""A client that writes bytes and reads answers, with nothing in between."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any


@dataclass
class Reply:
    """One answer; `headers` by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """OpenAI's error object."""
        found: dict[str, Any] = self.json["error"]
        return found


class Wire:
    """One connection to the front door."""

    def __init__(self, port: int, *, timeout_s: float = 15.0, receive_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(timeout_s)
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise
        self._file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def request(
        self, method: str, path: str, *, key: str | None = None, body: bytes | None = None, **headers: str
    ) -> None:
        """Send a request; header names in `headers` have '_' for '-'."""
        lines = [f"{method} {path} HTTP/1.1", "host: door"]
        if key is not None:
            lines.append(f"authorization: Bearer {key}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"content-length: {len(body)}")
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))

    def head(self) -> Reply:
        """The next answer's head."""
        status_line = self._file.readline()
        if not status_line:
            raise EOFError
        headers: dict[str, str] = {}
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return Reply(int(status_line.split()[1]), headers)

    def chunk(self) -> bytes:
        """The next chunk of the answer; empty at the end."""
        line = self._file.readline()
        if not line:
            raise EOFError
        size = int(line, 16)
        data = self._file.read(size)
        if len(data) < size or len(self._file.read(2)) < 2:
            raise EOFError
        return data

    def reply(self, *, method: str = "GET") -> Reply:
        """The next whole answer. Raises `EOFError` if it is cut off."""
        reply = self.head()
        if method == "HEAD" or reply.status in (100, 204, 304):
            return reply
        if reply.headers.get("transfer-encoding") == "chunked":
            while data := self.chunk():
                reply.body += data
        elif "content-length" in reply.headers:
            size = int(reply.headers["content-length"])
            reply.body = self._file.read(size)
            if len(reply.body) < size:
                raise EOFError
        else:
            reply.body = self._file.read()
        return reply

    def ends(self) -> bool:
        """Whether the gateway ends the connection, without another byte."""
        try:
            return self._file.read(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
