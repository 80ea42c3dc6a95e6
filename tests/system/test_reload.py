from __future__ import annotations

import dataclasses
import http.client
import os
import signal
import ssl
import threading
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tests.gateway.front_tls import Authority
from tests.system.conftest import Platform, wait_until

from hostler import supervisor
from hostler.client.inference import Inference
from hostler.process_files import living
from hostler.spec.errors import HostlerError, Unavailable


class Asking:
    """Clients that list the models, on kept-alive and on fresh connections, until `close`."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self.failures: list[str] = []
        self.answered = 0
        self._over = False
        self._threads = [threading.Thread(target=self._run, args=(number % 2 == 0,)) for number in range(4)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        for thread in self._threads:
            thread.join(20)

    def _run(self, kept: bool) -> None:
        while not self._over:
            connection = http.client.HTTPConnection("127.0.0.1", self._platform.settings.port, timeout=20)
            try:
                while not self._over:
                    connection.request("GET", "/v1/models", headers=self._platform.headers)
                    answer = connection.getresponse()
                    answer.read()
                    if answer.status != 200:
                        self.failures.append(f"status {answer.status}")
                    self.answered += 1
                    if not kept or answer.will_close:
                        break
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
            finally:
                connection.close()


def one_gateway(platform: Platform) -> bool:
    gateways: list[int] = []
    for one in platform.processes():
        with suppress(psutil.Error):
            gateways += [one.pid] if "hostler.gateway" in one.cmdline() else []
    return gateways == ([platform.pid("gateway-0")] if platform.runs("gateway-0") else [])


def test_a_reload_and_a_hangup_replace_the_worker_without_a_failed_request(platform: Platform) -> None:
    control = platform.pid("control")
    with Asking(platform) as asking:
        first = platform.pid("gateway-0")
        assert supervisor.reload(platform.settings) == 1
        second = platform.pid("gateway-0")
        assert second != first
        os.kill(platform.pid("up"), signal.SIGHUP)
        wait_until(lambda: platform.runs("gateway-0") and platform.pid("gateway-0") != second, "the hangup replaces it")
        wait_until(lambda: one_gateway(platform), "the replaced workers have ended")
        seen = asking.answered
        wait_until(lambda: asking.answered > seen + 20, "requests go on")
    assert asking.failures == []
    assert platform.pid("control") == control


@pytest.mark.parametrize("victim", ["up", "old worker", "new worker"])
def test_a_reload_that_is_cut_by_a_kill_ends_with_one_worker_that_serves(platform: Platform, victim: str) -> None:
    old = platform.pid("gateway-0")
    os.kill(platform.pid("up"), signal.SIGHUP)
    next_file = platform.home.run / "gateway-0.next.json"
    wait_until(lambda: living(next_file) is not None, "the new worker starts")
    found = living(next_file)
    assert found is not None
    os.kill({"up": platform.pid("up"), "old worker": old, "new worker": found.process.pid}[victim], signal.SIGKILL)
    if victim == "up":
        wait_until(lambda: not platform.runs("up"), "the supervisor is dead")
        platform.up()
    wait_until(lambda: one_gateway(platform) and platform.runs("gateway-0"), "one worker is left")
    with Asking(platform) as asking:
        wait_until(lambda: asking.answered > 20, "it serves")
        assert supervisor.reload(platform.settings) == 1
    assert asking.failures == []


def test_a_reload_whose_new_worker_cannot_start_fails_and_the_old_one_goes_on(platform: Platform) -> None:
    old = platform.pid("gateway-0")
    # What every process of the platform opens first; the worker that runs has it open already.
    lock = platform.home.run / "gateway.lock"
    lock.unlink()
    lock.mkdir()
    with Asking(platform) as asking, pytest.raises(HostlerError, match="0 of 1 gateway workers were replaced"):
        supervisor.reload(platform.settings)
    lock.rmdir()
    assert asking.failures == []
    assert platform.pid("gateway-0") == old


def test_a_reload_of_what_is_not_up_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="not up"):
        supervisor.reload(Platform(tmp_path).settings)


def test_a_platform_with_a_certificate_comes_up_and_takes_a_renewed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority()
    certificate, key = authority.write_server(tmp_path, "door.test")
    platform = Platform(tmp_path / "home")
    platform.settings = dataclasses.replace(platform.settings, tls_certificate=certificate, tls_key=key, workers=2)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.write(tmp_path)))
    address = ("127.0.0.1", platform.settings.port)
    try:
        platform.up()
        before = ssl.get_server_certificate(address)
        with Inference(platform.url, platform.key) as client:
            assert client.models() == []
            authority.write_server(tmp_path, "door.test")
            assert supervisor.reload(platform.settings) == 2
        # A worker that makes way may still take a connection until it looks who has its place.
        wait_until(lambda: ssl.get_server_certificate(address) != before, "the renewed certificate is shown")
        with Inference(platform.url, platform.key) as client:
            assert client.models() == []
        key.chmod(0o644)
        with pytest.raises(HostlerError, match="chmod o-r"):
            supervisor.reload(platform.settings)
        with Inference(platform.url, platform.key) as client:
            assert client.models() == []
    finally:
        platform.down()
    assert platform.processes() == []
