"""Small local servers that speak the protocols of the model hubs, for the real clients to talk to.

Each logs its requests, and can cut a transfer in the middle.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import sys
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Request(NamedTuple):
    """What was asked."""

    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Hub:
    """The state of a server: repositories, what was asked, and where transfers are cut."""

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])
    commit: str = "c0ffee" + "0" * 34
    gated: set[str] = field(default_factory=set[str])
    token: str | None = None
    cut_after: int | None = None
    """Bytes of a body after which the connection is closed, once."""
    fail: int | None = None
    """A status that everything is answered with."""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    """More headers for files."""
    redirects: dict[str, str] = field(default_factory=dict[str, str])
    requests: list[Request] = field(default_factory=list[Request])

    def ranges(self, name: str) -> list[str | None]:
        """The ranges asked of the file, in order."""
        return [
            item.range for item in self.requests if item.method == "GET" and name in unquote(item.path) and item.range
        ]


class Answering(BaseHTTPRequestHandler):
    """What the servers share: logs, JSON, files with ranges, cuts."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        return

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.hub.requests.append(
            Request(self.command, self.path, self.headers.get("Range"), self.headers.get("Authorization"))
        )
        if self.hub.fail is not None:
            self.json({"error": "failed on purpose"}, status=self.hub.fail)
            return
        self.route(
            urlsplit(self.path).path, {key: item[0] for key, item in parse_qs(urlsplit(self.path).query).items()}
        )

    def route(self, path: str, query: Mapping[str, str]) -> None:
        raise NotImplementedError

    def json(self, content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def file(self, content: bytes, *, headers: Mapping[str, str], etag: str) -> None:
        """The file or the wanted range of it (RFC 9110), cut off if that was asked for."""
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        fresh = self.headers.get("If-Range", etag) == etag
        if self.headers.get("If-None-Match") == etag and etag:
            self.send_response(304)
            self.end_headers()
            return
        start = int(match[1]) if match and fresh else 0
        if start >= len(content) and start > 0:
            self.json({}, status=416, headers={"Content-Range": f"bytes */{len(content)}"})
            return
        end = min(int(match[2]) + 1, len(content)) if match and fresh and match[2] else len(content)
        body = content[start:end]
        self.send_response(206 if match and fresh else 200)
        if match and fresh:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        for key, value in {**headers, **({"ETag": etag} if etag else {}), **self.hub.headers}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.body(body)

    def body(self, body: bytes) -> None:
        """Send the body, or the part of it before the cut; a client that went away is no error."""
        with suppress(ConnectionError):
            self._send(body)

    def _send(self, body: bytes) -> None:
        cut = self.hub.cut_after
        if cut is not None and len(body) > cut:
            self.hub.cut_after = None
            self.wfile.write(body[:cut])
            self.close_connection = True
            return
        self.wfile.write(body)


class HuggingFace(Answering):
    """`/api/models/...`, `/api/models/.../tree/...` and `/{repository}/resolve/...`."""

    def route(self, path: str, query: Mapping[str, str]) -> None:
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            self._describe("/".join(parts[2:4]), parts[4:])
        elif len(parts) > 4 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self.json({}, status=404)

    def _describe(self, repository: str, rest: list[str]) -> None:
        files = self._files(repository, rest[1] if len(rest) > 1 else "main")
        if files is None:
            return
        if rest[:1] == ["tree"]:
            self.json([{"type": "file", "path": name, **facts(content)} for name, content in files.items()])
            return
        siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
        self.json({"id": repository, "modelId": repository, "sha": self.hub.commit, "siblings": siblings})

    def _resolve(self, repository: str, revision: str, name: str) -> None:
        files = self._files(repository, revision)
        if files is None:
            return
        content = files[name]
        oid = facts(content)["oid"]
        headers = {"X-Repo-Commit": self.hub.commit, "X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{oid}"'}
        self.file(content, headers=headers, etag=f'"{oid}"')

    def _files(self, repository: str, revision: str) -> dict[str, bytes] | None:
        """The files; None after an error was answered."""
        authorized = self.hub.token is not None and self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if repository not in self.hub.files:
            self.json({}, status=404, headers={"X-Error-Code": "RepoNotFound"})
        elif repository in self.hub.gated and not authorized:
            self.json({}, status=403, headers={"X-Error-Code": "GatedRepo"})
        elif revision not in ("main", self.hub.commit):
            self.json({}, status=404, headers={"X-Error-Code": "RevisionNotFound"})
        else:
            return self.hub.files[repository]
        return None


class ModelScope(Answering):
    """`/api/v1/models/{repository}/repo/files` and `/api/v1/models/{repository}/repo`."""

    def route(self, path: str, query: Mapping[str, str]) -> None:
        parts = [unquote(part) for part in path.strip("/").split("/")]
        repository = "/".join(parts[3:5])
        files = self.hub.files.get(repository)
        if parts[:3] != ["api", "v1", "models"] or files is None or query.get("Revision", "master") != "master":
            self.json({"Code": 10010205001, "Message": "not found", "Success": False}, status=404)
        elif repository in self.hub.gated:
            self.json({"Code": 403, "Message": "forbidden", "Success": False}, status=403)
        elif parts[5:] == ["repo", "files"]:
            root = query.get("Root", "").strip("/")
            listed = [
                {"Path": name, "Name": name, "Type": "blob", "Size": len(content), "Sha256": sha256(content)}
                for name, content in files.items()
                if not root or name.startswith(f"{root}/") or name == root
            ]
            self.json({"Code": 200, "Success": True, "Data": {"Files": listed}})
        elif parts[5:] == ["repo"]:
            content = files[query["FilePath"]]
            self.file(content, headers={}, etag=f'"{sha256(content)}"')
        else:
            self.json({"Code": 200, "Success": True, "Data": {"Name": repository}})


class Files(Answering):
    """A plain web server of the files of the repository `web`."""

    def route(self, path: str, query: Mapping[str, str]) -> None:
        name = unquote(path.lstrip("/"))
        content = self.hub.files.get("web", {}).get(name)
        if name in self.hub.redirects:
            self.send_response(302)
            self.send_header("Location", self.hub.redirects[name])
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif content is None:
            self.json({}, status=404)
        else:
            self.file(content, headers={}, etag="" if self.hub.token == "no-etag" else f'"{sha256(content)}"')


class Proxy(Answering):
    """Passes everything on to another server (its address in `hub.token`), and can cut the answers."""

    def route(self, path: str, query: Mapping[str, str]) -> None:
        assert self.hub.token is not None
        connection = http.client.HTTPConnection(urlsplit(self.hub.token).netloc, timeout=30)
        try:
            connection.request(self.command, self.path, headers=dict(self.headers.items()))
            answer = connection.getresponse()
            body = answer.read()
            self.send_response(answer.status)
            for key, value in answer.getheaders():
                if key.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                    self.send_header(key, value)
            self.send_header("Content-Length", answer.headers.get("Content-Length") or str(len(body)))
            self.end_headers()
            self.body(body)
        finally:
            connection.close()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def facts(content: bytes) -> dict[str, Any]:
    """Size and ids as the hub lists them."""
    return {"size": len(content), "oid": hashlib.sha1(content).hexdigest()}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of a test."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving(kind: type[Answering]) -> Generator[Hub]:
    """A hub of this kind on a free port of this machine."""
    hub = Hub()
    handler = type("Handler", (kind,), {"hub": hub})
    server = _Server(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def address(hub: Hub, name: str) -> str:
    return f"{hub.url}/{quote(name)}"
