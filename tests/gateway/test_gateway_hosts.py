from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from front_door import KEY, Gateway, World, endpoint, snapshot
from front_polling import wait_for
from front_upstream import LoopThread, ScriptedUpstream

from hostler.gateway.addresses import AddressCounts, address_key, is_loopback
from hostler.gateway.hosts import bare_host, check_host, host_names
from hostler.gateway.refusals import Misdirected
from hostler.gateway.request import read_head
from hostler.gateway.routing import _ENDPOINT, _EXACT, _MODEL, _OIP_MODEL
from hostler.gateway.snapshot_file import write_snapshot
from hostler.settings import Home


@pytest.fixture
def upstream(home: Path, loop_thread: LoopThread) -> Iterator[ScriptedUpstream]:
    server = ScriptedUpstream(loop_thread)
    write_snapshot(Home(home).snapshot, snapshot(1, endpoint("chat", server.port)))
    yield server
    server.close()


def status_of(gateway: Gateway, target: str, host: str | None, *, key: str | None = KEY) -> int:
    with gateway.wire() as wire:
        lines = [f"GET {target} HTTP/1.1" if host is not None else f"GET {target} HTTP/1.0"]
        lines += [f"Host: {host}"] if host is not None else []
        lines += [f"authorization: Bearer {key}"] if key is not None else []
        wire.send("\r\n".join([*lines, "", ""]).encode())
        return wire.reply().status


def test_only_the_hosts_that_are_configured_are_served(
    start: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    gateway = start(HOSTLER_ALLOWED_HOSTS="Door.example.com, [2001:db8::1], 192.0.2.7").listening()
    for host in (
        "door.example.com",
        "DOOR.example.COM:8443",
        "door.example.com.",
        "door.example.com.:80",
        "[2001:DB8::1]",
        "[2001:db8::1]:8000",
        "192.0.2.7:80",
    ):
        assert status_of(gateway, "/v1/models", host) == 200, host
    for host in ("example.com", "door.example.com.evil.test", "127.0.0.1", "[2001:db8::2]", "2001", "", None):
        assert status_of(gateway, "/v1/models", host) == 421, host


def test_an_unknown_host_is_refused_before_the_key_is_looked_at(
    start: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    gateway = start(HOSTLER_ALLOWED_HOSTS="door.example.com").listening()
    assert status_of(gateway, "/v1/models", "evil.test", key=None) == 421
    assert status_of(gateway, "/nowhere", "evil.test", key=None) == 421
    assert status_of(gateway, "/v1/models", "door.example.com", key=None) == 401
    reply = gateway.chat("chat")
    assert reply.status == 421
    assert (reply.error["code"], "'door'" in reply.error["message"]) == ("misdirected_request", True)
    assert upstream.seen == []


def test_an_absolute_target_is_of_the_host_that_the_header_names(
    start: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    gateway = start(HOSTLER_ALLOWED_HOSTS="door.example.com").listening()
    assert status_of(gateway, "http://door.example.com/v1/models", "door.example.com") == 200
    assert status_of(gateway, "http://evil.test/v1/models", "evil.test") == 421
    for target in ("http:///v1/models", "http://me@door.example.com/v1/models", "http://evil.test/v1/models"):
        assert status_of(gateway, target, "door.example.com") == 400, target


def test_health_is_told_to_this_machine_whatever_the_host(
    start: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    gateway = start(HOSTLER_ALLOWED_HOSTS="door.example.com").listening()
    for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"):
        assert status_of(gateway, path, f"127.0.0.1:{gateway.port}", key=None) == 200


def test_health_is_not_told_to_others_under_another_host() -> None:
    request = read_head(b"GET /healthz HTTP/1.1\r\nhost: evil.test\r\n\r\n")
    hosts = frozenset({b"door"})
    for peer in (("127.0.0.1", 1), ("127.8.8.8", 1), ("::1", 1, 0, 0), ("::ffff:127.0.0.1", 1, 0, 0), None, ""):
        check_host(request, hosts=hosts, peer=peer)
    for peer in (("192.0.2.1", 1), ("::ffff:192.0.2.1", 1, 0, 0), ("fe80::1%eth0", 1, 0, 3), ("?", 1)):
        assert not is_loopback(peer)
        with pytest.raises(Misdirected):
            check_host(request, hosts=hosts, peer=peer)


def test_names_of_hosts_have_one_form() -> None:
    assert host_names("") is None
    assert host_names(" , ") is None
    assert host_names("A.example., [::1],::2,b:80") == {b"a.example", b"::1", b"::2", b"b"}
    assert bare_host(b"") == b""
    assert bare_host(b"[::1]:80") == b"::1"


def test_an_address_has_only_so_many_connections(start: Callable[..., Gateway], upstream: ScriptedUpstream) -> None:
    gateway = start(HOSTLER_MAX_CONNECTIONS_PER_ADDRESS="3").listening()
    with gateway.wire() as one, gateway.wire() as two, gateway.wire() as three:
        for wire in (one, two, three):
            wire.request("GET", "/healthz")
            assert wire.reply().status == 200
        with gateway.wire() as turned_away:
            reply = turned_away.head()
            assert (reply.status, reply.headers["connection"]) == (503, "close")
            assert turned_away.ends()
        one.request("GET", "/healthz")
        assert one.reply().status == 200

    def served() -> bool:
        try:
            return gateway.ask("GET", "/healthz").status == 200
        except (OSError, EOFError):
            return False

    wait_for(served, "those that have ended do not count")


def test_addresses_are_counted_by_client_and_forgotten_at_none() -> None:
    counts = AddressCounts(most=2)
    same = [address_key(peer) for peer in (("2001:db8:1:2::1", 1, 0, 0), ("2001:db8:1:2:ffff::9", 2, 0, 0))]
    assert same[0] == same[1] != address_key(("2001:db8:1:3::1", 1, 0, 0))
    assert address_key(("::ffff:192.0.2.1", 1, 0, 0)) == address_key(("192.0.2.1", 9))
    assert address_key(("::ffff:192.0.2.1", 1, 0, 0)) != address_key(("::ffff:192.0.2.2", 1, 0, 0))
    for peer in (None, "", "/run/some.sock", b"\0abstract", (), ("nonsense", 1)):
        assert address_key(peer) is None
        assert counts.add(address_key(peer))
    assert [counts.add(same[0]) for _ in range(3)] == [True, True, False]
    assert counts.count(same[1]) == 2
    counts.remove(same[0])
    counts.remove(same[0])
    counts.remove(None)
    assert len(counts) == 0


def test_every_route_but_health_needs_a_key(world: World) -> None:
    public = {"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}
    exact = [(path, route.methods[-1]) for path, route in _EXACT.items()]
    below = [
        (f"{_MODEL}chat", "GET"),
        (f"{_OIP_MODEL}digits", "GET"),
        (f"{_OIP_MODEL}digits/ready", "GET"),
        (f"{_OIP_MODEL}digits/infer", "POST"),
        (f"{_OIP_MODEL}no-such-model/infer", "POST"),
        (f"{_ENDPOINT}flask", "GET"),
        (f"{_ENDPOINT}flask/any/path", "DELETE"),
        (f"{_ENDPOINT}no-such-endpoint/any", "PUT"),
    ]
    assert public <= {path for path, _ in exact}
    world.upstream.seen.clear()
    for path, method in exact + below:
        for key in (None, "", "hk_nobody_" + "x" * 40):
            reply = world.gateway.ask(method, path, key=key, body=b"{}" if method == "POST" else None)
            assert reply.status == (200 if path in public else 401), (method, path, reply)
    assert world.upstream.seen == []
