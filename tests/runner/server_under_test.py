"""The model server as a real process, and models for it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from replica_under_test import PATIENCE_S, until

from hostler.runner.launching import free_port

EXAMPLES = Path(__file__).parents[2] / "examples"
DIGITS = EXAMPLES / "digits"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """One model server on a free port of loopback."""

    def __init__(self, *arguments: str, folder: Path, log: Path, token: str | None = None) -> None:
        self.port = free_port()
        self.token = token
        self.log_path = log
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HOSTLER_")}
        if token is not None:
            environment["HOSTLER_REPLICA_TOKEN"] = token
        argv: Sequence[str] = (
            sys.executable, "-P", "-m", "hostler.runner.model_server", "--name", "m", "--dir", str(folder),
            "--port", str(self.port), *arguments,
        )  # fmt: skip
        with log.open("wb") as output:
            self.process = subprocess.Popen(argv, stdout=output, stderr=output, env=environment, cwd=folder)

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait(self) -> Server:
        """Until the model is loaded."""

        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended: {self.log}")
            try:
                return self.call("GET", "/ready").status == 200
            except OSError:
                return False

        until(ready, "a model server that is ready")
        return self

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        token: str | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        sent = dict(headers or {})
        secret = token or self.token
        if secret is not None and "Authorization" not in sent:
            sent["Authorization"] = f"Bearer {secret}"
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, raw, sent)
            response = connection.getresponse()
            return Answer(response.status, {n.lower(): v for n, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, **options: Any) -> Answer:
        return self.call("POST", path, body, **options)

    def stop(self, *, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


PYTHON_MODEL = """
import json, threading, time
from pathlib import Path


class Model:
    def __init__(self):
        self.closed = 0

    def load(self, path):
        self.folder = Path(path)

    def predict(self, inputs):
        if "wait_for" in inputs:
            (self.folder / "waiting").write_text("yes")
            deadline = time.monotonic() + 60
            while not Path(inputs["wait_for"]).exists() and time.monotonic() < deadline:
                time.sleep(0.01)
        if "fail" in inputs:
            raise KeyError(inputs["fail"])
        if "unserializable" in inputs:
            return {"x": object()}
        if "a" in inputs and "b" in inputs:
            return {"sum": [x + y for x, y in zip(inputs["a"], inputs["b"])], "text": ["ok"]}
        return {"got": inputs, "thread": threading.current_thread().name[:5]}

    def stream(self, inputs):
        try:
            for number in range(inputs.get("count", 3)):
                if number == inputs.get("fail_at"):
                    raise RuntimeError("broken")
                yield {"number": number}
                if inputs.get("forever"):
                    time.sleep(0.01)
        finally:
            (self.folder / "closed").write_text("yes")

    def unload(self):
        (self.folder / "unloaded").write_text("yes")
"""
