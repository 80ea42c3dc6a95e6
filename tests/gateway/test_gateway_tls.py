from __future__ import annotations

import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from front_door import KEY, Gateway, endpoint, snapshot
from front_polling import wait_for
from front_tls import Authority
from front_upstream import LoopThread, ScriptedUpstream
from front_wire import Wire
from openai import DefaultHttpxClient, OpenAI

from hostler.client.inference import Inference
from hostler.gateway.certificate import server_context
from hostler.gateway.snapshot_file import write_snapshot
from hostler.settings import Home, Settings, load_settings
from hostler.spec.errors import InvalidRequest, Unavailable

TURNS = 3


class SecureWire(Wire):
    """A connection with TLS on it."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        super().__init__(port)
        self._file.close()
        self.socket = context.wrap_socket(self.socket, server_hostname="127.0.0.1", suppress_ragged_eofs=False)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> SecureWire:
        return self

    def ends(self) -> bool:
        try:
            return super().ends()
        except ssl.SSLEOFError:
            return True

    def serial(self) -> int:
        """The number of the certificate that the other side has shown."""
        assert isinstance(self.socket, ssl.SSLSocket)
        shown = self.socket.getpeercert()
        assert shown is not None
        return int(str(shown["serialNumber"]), 16)


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> dict[str, str]:
    """The settings of a gateway with a certificate."""
    certificate, key = authority.write_server(tmp_path, "door.test")
    return {"HOSTLER_TLS_CERTIFICATE": str(certificate), "HOSTLER_TLS_KEY": str(key)}


@pytest.fixture
def trusting(authority: Authority, tmp_path: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.write(tmp_path))


@pytest.fixture
def upstream(home: Path, loop_thread: LoopThread) -> Iterator[ScriptedUpstream]:
    server = ScriptedUpstream(loop_thread)
    write_snapshot(Home(home).snapshot, snapshot(1, endpoint("chat", server.port)))
    yield server
    server.close()


def test_requests_are_kept_alive_and_streamed_under_tls(
    start: Callable[..., Gateway], upstream: ScriptedUpstream, files: dict[str, str], trusting: ssl.SSLContext
) -> None:
    gateway = start(**files).listening()
    trusting.set_alpn_protocols(["h2", "http/1.1"])
    with SecureWire(gateway.port, trusting) as wire:
        assert isinstance(wire.socket, ssl.SSLSocket)
        assert wire.socket.selected_alpn_protocol() == "http/1.1"
        for _ in range(TURNS):
            wire.request("POST", "/v1/chat/completions", key=KEY, body=b'{"model":"chat"}', x_do="sse:3:0.01")
            assert wire.reply().body.endswith(b"data: [DONE]\n\n")
        wire.request("POST", "/v1/chat/completions", key=KEY, body=b'{"model":"chat"}', x_do="big:3000000")
        assert len(wire.reply().body) == 3_000_000


def test_the_openai_client_and_hostler_s_own_verify_the_certificate(
    start: Callable[..., Gateway],
    upstream: ScriptedUpstream,
    files: dict[str, str],
    trusting: ssl.SSLContext,
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gateway = start(**files).listening()
    url = load_settings({"HOSTLER_PORT": str(gateway.port), **files}).gateway_url
    assert url == f"https://127.0.0.1:{gateway.port}"
    with OpenAI(base_url=f"{url}/v1", api_key=KEY, http_client=DefaultHttpxClient(verify=trusting)) as client:
        assert [model.id for model in client.models.list()] == ["chat"]
        stream = client.chat.completions.create(
            model="chat", messages=[], stream=True, extra_headers={"x-do": "sse:2:0.01"}
        )
        assert [chunk.choices[0].delta.content for chunk in stream] == ["word0 ", "word1 "]
    with Inference(url, KEY) as untrusting, pytest.raises(Unavailable, match="not trusted"):
        untrusting.models()
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.write(tmp_path)))
    with Inference(url, KEY) as own:
        assert [model["id"] for model in own.models()] == ["chat"]


def test_versions_before_tls_1_2_are_refused(
    start: Callable[..., Gateway], upstream: ScriptedUpstream, files: dict[str, str]
) -> None:
    gateway = start(**files).listening()
    done = subprocess.run(
        ["openssl", "s_client", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", "-connect", f"127.0.0.1:{gateway.port}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode != 0
    assert "BEGIN CERTIFICATE" not in done.stdout


def test_plain_http_and_garbage_on_the_tls_port_end_and_hurt_nobody(
    start: Callable[..., Gateway], upstream: ScriptedUpstream, files: dict[str, str], trusting: ssl.SSLContext
) -> None:
    gateway = start(**files).listening()
    for sent in (
        b"GET /healthz HTTP/1.1\r\nhost: door\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + b"x" * 70_000,
        b"\x00" * 500,
    ):
        with gateway.wire() as wire:
            try:
                wire.send(sent)
                while wire.socket.recv(65536):
                    pass
            except ConnectionError:
                pass
    with SecureWire(gateway.port, trusting) as wire:
        wire.request("GET", "/readyz")
        assert wire.reply().status == 200
    assert "Traceback" not in gateway.log


def test_a_refusal_that_ends_the_connection_is_read_whole_under_tls(
    start: Callable[..., Gateway], upstream: ScriptedUpstream, files: dict[str, str], trusting: ssl.SSLContext
) -> None:
    gateway = start(**files).listening()
    with SecureWire(gateway.port, trusting) as wire:
        wire.send(b"GET / HTTP/1.1\r\nhost: door\r\nhost: door\r\n\r\n")
        assert wire.reply().status == 400
        assert wire.ends()
    with SecureWire(gateway.port, trusting) as wire:
        wire.request("POST", "/v1/chat/completions", key=KEY, body=b'{"model":"chat"}', x_do="cut:length")
        with pytest.raises((EOFError, ssl.SSLError, ConnectionError)):
            wire.reply()
    assert "Traceback" not in gateway.log
    assert gateway.process.poll() is None


def test_an_answer_without_length_that_breaks_is_seen_to_be_broken_under_tls(
    start: Callable[..., Gateway], upstream: ScriptedUpstream, files: dict[str, str], trusting: ssl.SSLContext
) -> None:
    gateway = start(**files).listening()
    with SecureWire(gateway.port, trusting) as wire:
        body = b'{"model":"chat"}'
        wire.send(
            b"POST /v1/chat/completions HTTP/1.0\r\nauthorization: Bearer %b\r\nx-do: cut:chunks\r\n"
            b"content-length: %d\r\n\r\n%b" % (KEY.encode(), len(body), body)
        )
        with pytest.raises((ssl.SSLError, ConnectionError)):
            wire.reply()
    assert "Traceback" not in gateway.log


def test_connections_over_the_bound_of_an_address_end_before_their_handshake(
    start: Callable[..., Gateway], upstream: ScriptedUpstream, files: dict[str, str], trusting: ssl.SSLContext
) -> None:
    gateway = start(HOSTLER_MAX_CONNECTIONS_PER_ADDRESS="2", **files).listening()
    with SecureWire(gateway.port, trusting), gateway.wire(), gateway.wire() as third:
        # The second says nothing and counts all the same.
        assert third.ends()

    def served() -> bool:
        try:
            with SecureWire(gateway.port, trusting) as wire:
                wire.request("GET", "/healthz")
                return wire.reply().status == 200
        except (OSError, EOFError):
            return False

    wait_for(served, "those that have ended do not count")


def test_a_replaced_worker_shows_the_renewed_certificate(
    start: Callable[..., Gateway],
    upstream: ScriptedUpstream,
    files: dict[str, str],
    authority: Authority,
    trusting: ssl.SSLContext,
    tmp_path: Path,
) -> None:
    old = start(**files).listening()
    with SecureWire(old.port, trusting) as wire:
        before = wire.serial()
    authority.write_server(tmp_path, "door.test")
    start(port=old.port, **files).listening()
    wait_for(lambda: "makes way" in old.log, "the old worker leaves")
    with SecureWire(old.port, trusting) as wire:
        assert wire.serial() != before
        wire.request("GET", "/readyz")
        assert wire.reply().status == 200
    assert old.exit_code() == 0


def settings_of(files: dict[str, str]) -> Settings:
    return load_settings(files)


def test_files_that_cannot_be_used_are_named_with_their_setting(
    authority: Authority, files: dict[str, str], tmp_path: Path
) -> None:
    assert server_context(Settings()) is None
    assert server_context(settings_of(files)) is not None
    certificate, key = Path(files["HOSTLER_TLS_CERTIFICATE"]), Path(files["HOSTLER_TLS_KEY"])
    (tmp_path / "other").mkdir()
    _, other = authority.write_server(tmp_path / "other", "other.test")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("nothing")
    cases = [
        ({"HOSTLER_TLS_CERTIFICATE": str(tmp_path / "none.pem")}, "tls_certificate", "none.pem"),
        ({"HOSTLER_TLS_KEY": str(tmp_path / "none.key")}, "tls_key", "none.key"),
        ({"HOSTLER_TLS_KEY": str(other)}, "tls_key", "other/server.key"),
        ({"HOSTLER_TLS_CERTIFICATE": str(garbage)}, "tls_certificate", "garbage.pem"),
        ({"HOSTLER_TLS_KEY": str(certificate)}, "tls_key", "server.pem"),
    ]
    for change, setting, path in cases:
        with pytest.raises(InvalidRequest) as refused:
            server_context(settings_of(files | change))
        assert (refused.value.param, path in refused.value.message) == (setting, True), refused.value
    key.chmod(0o604)
    with pytest.raises(InvalidRequest, match="chmod o-r"):
        server_context(settings_of(files))
    key.chmod(0o640)
    assert server_context(settings_of(files)) is not None


def test_up_refuses_a_certificate_that_is_not_there_before_anything_starts(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-m", "hostler", "up", "--home", str(home), "--port", str(port), "--api-port", "1"],
        env={"PATH": "/usr/bin:/bin", "HOSTLER_TLS_CERTIFICATE": "/none.pem", "HOSTLER_TLS_KEY": "/none.key"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 4
    assert "tls_certificate: /none.pem cannot be read" in done.stderr
    assert not (home / "run").exists()
