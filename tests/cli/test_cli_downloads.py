"""Commands that fetch a model from the web."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from running import Cli

BODY = pickle.dumps({"w": [1.0]})


class OneFile(BaseHTTPRequestHandler):
    """Serves one pickle under any path, and counts in the server how often its bytes were sent."""

    def do_GET(self) -> None:
        known = self.headers.get("if-none-match") == '"v1"'
        self.send_response(304 if known else 200)
        self.send_header("etag", '"v1"')
        self.send_header("content-length", "0" if known else str(len(BODY)))
        self.end_headers()
        if not known:
            assert isinstance(self.server, CountingServer)
            self.server.sent += 1
            self.wfile.write(BODY)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return


class CountingServer(ThreadingHTTPServer):
    sent = 0


@pytest.fixture
def server() -> Generator[CountingServer]:
    with CountingServer(("127.0.0.1", 0), OneFile) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            yield serving
        finally:
            serving.shutdown()
            thread.join()


def test_a_download_that_the_scan_refuses_is_kept_for_a_retry_that_allows_it(
    cli: Cli, server: CountingServer, tmp_path: Path
) -> None:
    arguments = ["model", "create", "mine", "--from", f"http://127.0.0.1:{server.server_port}/weights.pkl"]
    refused = cli(*arguments)
    assert refused.code == 4
    (kept,) = (path for path in (tmp_path / "home/downloads").iterdir() if path.is_dir())
    assert f"the download is kept in {kept}" in refused.err
    cli.ok(*arguments, "--allow", "pickle")
    assert server.sent == 1
    assert not kept.exists()
