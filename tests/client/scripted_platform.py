"""A small real HTTP server that speaks the parts of the API the client's tests need, and can cut connections."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from hostler.spec.model import ModelSpec
from hostler.spec.version import ModelFacts, ModelFile, ModelVersion

PREFIX = "/api/v1"


@dataclass
class Request:
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Platform:
    """What the server holds and what it was told to do; `requests` is all it was asked."""

    url: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    partial: dict[str, bytes] = field(default_factory=dict)
    versions: list[ModelVersion] = field(default_factory=list)
    answers: dict[tuple[str, str], tuple[int, bytes, dict[str, str]]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    """Bytes after which the next transfers of a blob are cut, first come first served."""
    busy: int = 0
    """How many uploads are refused because another sender holds the blob."""
    ignore_range: bool = False
    forget_blobs_once: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, method: str, path: str, body: Any, status: int = 200, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers[method, path] = (status, content, headers)

    def next_cut(self) -> int | None:
        with self.lock:
            return self.cuts.pop(0) if self.cuts else None

    def asked(self, method: str, part: str = "") -> list[Request]:
        return [request for request in self.requests if request.method == method and part in request.path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    platform: Platform

    def do_any(self) -> None:
        parts = urlsplit(self.path)
        self.query = parts.query
        path = parts.path
        canned = self.platform.answers.get((self.command, path))
        if canned is not None:
            self.record(path, self.read_body())
            self.reply(*canned)
        elif path.startswith(f"{PREFIX}/blobs/sha256:"):
            getattr(self, f"blob_{self.command.lower()}")(path, path.rsplit("/", 1)[1])
        elif path == f"{PREFIX}/blobs/missing":
            body = self.read_body()
            self.record(path, body)
            asked = json.loads(body)["digests"]
            self.reply(200, json.dumps({"digests": [d for d in asked if d not in self.platform.blobs]}).encode(), {})
        elif path.startswith(f"{PREFIX}/models/") and path.endswith("/versions"):
            body = self.read_body()
            self.record(path, body)
            self.finalise(body)
        else:
            self.record(path, self.read_body())
            error = {"error": {"message": f"{path}: unknown.", "type": "x", "param": "path", "code": "not_found"}}
            self.reply(404, json.dumps(error).encode(), {})

    def __getattr__(self, name: str) -> Any:
        """The standard library asks for `do_GET` and its like."""
        if name.startswith("do_"):
            return self.do_any
        raise AttributeError(name)

    def finalise(self, body: bytes) -> None:
        version = ModelVersion.model_validate_json(body)
        if self.platform.forget_blobs_once:
            self.platform.forget_blobs_once = False
            self.platform.blobs.clear()
            error = {"error": {"message": "1 blob is missing.", "type": "x", "param": None, "code": "missing_blobs"}}
            self.reply(409, json.dumps(error).encode(), {})
            return
        created = version not in self.platform.versions
        self.platform.versions.append(version)
        told = {"version": json.loads(version.model_dump_json()), "created": created}
        self.reply(201 if created else 200, json.dumps(told).encode(), {})

    def blob_head(self, path: str, digest: str) -> None:
        self.record(path, b"")
        if digest in self.platform.blobs:
            self.reply(200, self.platform.blobs[digest], {})
        else:
            self.reply(404, b"", {"Upload-Offset": str(len(self.platform.partial.get(digest, b"")))})

    def blob_put(self, path: str, digest: str) -> None:
        length = int(self.headers["content-length"])
        cut = self.platform.next_cut()
        body = self.rfile.read(length if cut is None else min(cut, length))
        self.record(path, body)
        if cut is None and len(body) < length:
            self.close_connection = True
            return
        there = self.platform.partial.get(digest, b"")
        if self.platform.busy:
            self.platform.busy -= 1
            error = {"error": {"message": "Busy.", "type": "x", "param": None, "code": "upload_busy"}}
            self.reply(409, json.dumps(error).encode(), {})
            return
        if int(self.headers["upload-offset"]) != len(there):
            error = {"error": {"message": "Wrong offset.", "type": "x", "param": None, "code": "wrong_offset"}}
            self.reply(409, json.dumps(error).encode(), {"Upload-Offset": str(len(there))})
            return
        there += body
        self.platform.partial[digest] = there
        if cut is not None:
            self.drop()
        elif len(there) < int(self.headers["upload-length"]):
            self.reply(202, b"", {"Upload-Offset": str(len(there))})
        elif "sha256:" + hashlib.sha256(there).hexdigest() != digest:
            del self.platform.partial[digest]
            error = {"error": {"message": "Another digest.", "type": "x", "param": None, "code": "digest_mismatch"}}
            self.reply(422, json.dumps(error).encode(), {})
        else:
            self.platform.blobs[digest] = self.platform.partial.pop(digest)
            self.reply(201, b"", {})

    def blob_get(self, path: str, digest: str) -> None:
        self.record(path, b"")
        content = self.platform.blobs[digest]
        wanted = self.headers.get("range")
        ranged = wanted is not None and not self.platform.ignore_range
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if ranged and wanted else 0
        cut = self.platform.next_cut()
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:] if cut is None else content[start : start + cut])
        if cut is not None:
            self.drop()

    def drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def read_body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def record(self, path: str, body: bytes) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.platform.requests.append(Request(self.command, path, self.query, headers, body))

    def reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the name is the standard library's
        return


def build_version(contents: dict[str, bytes]) -> ModelVersion:
    files = tuple(
        ModelFile(path=path, digest="sha256:" + hashlib.sha256(content).hexdigest(), size=len(content))
        for path, content in contents.items()
    )
    return ModelVersion.build(
        ModelSpec(name="demo"), files=files, facts=ModelFacts(), created_at=datetime(2026, 1, 2, tzinfo=UTC)
    )
