"""Targets that cannot be used, and what they leave untouched."""

from __future__ import annotations

from typing import Any, cast

import pytest
from front_door import Gateway, World, endpoint, grant, snapshot

from hostler.gateway.table import Pools
from hostler.gateway.targets import UnusableTarget, address_of
from hostler.gateway.worker import most_connections
from hostler.spec.snapshot import DeploymentRoute, EndpointRoute, ExternalTarget, ReplicaTarget, Snapshot

SECRET = "sk-hidden"
URL = "http://provider.test/v1"
UNUSABLE: list[ReplicaTarget | ExternalTarget] = [
    *(
        ExternalTarget(base_url=URL, model="m", api_key=SECRET + end)
        for end in ("\u2026", "\r\nx: y", "\n", "\0", "\x7f")
    ),
    *(
        ExternalTarget(base_url=url, model="m", api_key=SECRET)
        for url in (
            f"http://{SECRET}@provider.test:port/v1",
            f"http://{SECRET}@provider.test:99999/v1",
            f"http://{SECRET}@[::1/v1",
            f"http://{SECRET}@/v1",
            f"http://provider.test/{SECRET}\r\nx: y/v1",
            f"http://provider.test/\u2026{SECRET}",
            f"{SECRET}.test/v1",
            "",
        )
    ),
    ReplicaTarget(id="r", host="127.0.0.1", port=9, token=SECRET + "\r\n"),
    ReplicaTarget(id="r", host="a\nb", port=9, token=SECRET),
    ReplicaTarget(id="r", host="127.0.0.1", port=70000, token=SECRET),
    ReplicaTarget(id="r", host="127.0.0.1", port=0, token=SECRET),
]


def broken(target: ReplicaTarget | ExternalTarget, *, condition: str = "") -> EndpointRoute:
    if isinstance(target, ReplicaTarget):
        deployment = DeploymentRoute(name="broken", engine="llamacpp", replicas=(target,))
    else:
        deployment = DeploymentRoute(name="broken", engine="external", external=target)
    return EndpointRoute(
        name="broken", created=0, task="chat", protocols=("openai",), deployments=(deployment,), condition=condition
    )


@pytest.mark.parametrize("target", UNUSABLE)
def test_a_target_that_cannot_be_used_says_so_and_keeps_nothing_else_from_being_served(
    target: ReplicaTarget | ExternalTarget, caplog: pytest.LogCaptureFixture
) -> None:
    pools = Pools(on_drained=lambda: None)
    table = pools.table(snapshot(1, broken(target, condition="It is new."), endpoint("chat", 1)))
    assert len(table.keys) == 4
    assert table.endpoints["chat"].serves
    assert not table.endpoints["broken"].serves
    condition = table.endpoints["broken"].route.condition
    assert condition.startswith("It is new. ")
    assert len(condition) > len("It is new. ")
    assert SECRET not in condition + caplog.text
    pools.table(snapshot(2, broken(target), endpoint("chat", 1)))
    assert caplog.text.count("cannot be used") == 1


def test_the_other_replicas_of_an_endpoint_go_on_serving() -> None:
    route = EndpointRoute(
        name="e",
        created=0,
        task="chat",
        protocols=("openai",),
        deployments=(
            DeploymentRoute(
                name="d",
                engine="llamacpp",
                replicas=(ReplicaTarget(id="bad", host="h", port=0), ReplicaTarget(id="good", host="h", port=1)),
            ),
        ),
    )
    pool = Pools(on_drained=lambda: None).table(snapshot(1, route)).endpoints["e"].choose(lambda: 0.0, now=0.0)
    assert pool is not None
    assert pool.replica_id == "good"


def test_a_failure_nobody_foresaw_in_one_endpoint_ends_no_other(caplog: pytest.LogCaptureFixture) -> None:
    unforeseen = broken(ReplicaTarget(id="r", host=cast("Any", ["not", "hashable"]), port=1))
    table = Pools(on_drained=lambda: None).table(snapshot(1, unforeseen, endpoint("chat", 1)))
    assert len(table.keys) == 4
    assert table.endpoints["chat"].serves
    assert "failed to prepare" in table.endpoints["broken"].route.condition
    assert "Traceback" in caplog.text


def test_a_revoked_key_ends_with_a_snapshot_that_has_an_unusable_target() -> None:
    pools = Pools(on_drained=lambda: None)
    kept, revoked = grant("hk_kept_k"), grant("hk_gone_g")
    before = pools.table(Snapshot(version=1, created_at=0.0, keys=(kept, revoked)))
    after = pools.table(Snapshot(version=2, created_at=0.0, endpoints=(broken(UNUSABLE[0]),), keys=(kept,)))
    assert bytes.fromhex(revoked.digest) in before.keys
    assert set(after.keys) == {bytes.fromhex(kept.digest)}


def test_a_request_for_an_unusable_target_is_503_with_the_reason(world: World, gateway: Gateway) -> None:
    world.serve(broken(UNUSABLE[0]))
    reply = gateway.chat("broken")
    assert (reply.status, reply.error["code"]) == (503, "no_ready_replica")
    assert "The provider's API key has a character" in reply.error["message"]
    assert SECRET not in reply.error["message"]
    world.remove("broken")


def test_a_host_that_cannot_be_looked_up_is_502(world: World, gateway: Gateway) -> None:
    for host in ("a" * 70 + ".test", "a..b"):
        world.serve(broken(ReplicaTarget(id="r", host=host, port=9)))
        assert gateway.chat("broken").status == 502
    world.remove("broken")


def test_an_address_is_read_off_a_base_url() -> None:
    address = address_of(
        ExternalTarget(base_url="https://user@provider.test:8443/api/v1/", model="m", api_key="k e\xe9")
    )
    assert (address.host, address.port, address.tls, address.prefix) == ("provider.test", 8443, True, "/api/v1")
    assert address.lines == b"host: provider.test:8443\r\nauthorization: Bearer k e\xe9\r\n"
    assert address_of(ReplicaTarget(id="r", host="::1", port=9)).lines == b"host: [::1]:9\r\n"
    with pytest.raises(UnusableTarget):
        address_of(UNUSABLE[0])


def test_clients_leave_files_for_connections_to_engines() -> None:
    assert most_connections(1024) == 256
    assert most_connections(1 << 20) == 10_000
    assert most_connections(-1) == 10_000
    assert most_connections(64) == 16
