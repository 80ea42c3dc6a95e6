"""What the gateways are told, and when: keys at once, nothing twice, the difference alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.control_under_test import Clock, ControlUnderTest

from hostler.backends.fake import FakeBackend
from hostler.control import publisher
from hostler.control.publisher import Content
from hostler.spec.errors import Conflict
from hostler.spec.resources import KeyRequest
from hostler.spec.snapshot import EndpointRoute, KeyGrant, LimitSet
from hostler.store import keys, meta


@pytest.fixture
async def told(control: ControlUnderTest) -> AsyncIterator[ControlUnderTest]:
    """A platform with an endpoint, which publishes keys as they change."""
    control.push("gpt", external={"base_url": "https://api.example.org/v1"})
    await control.rounds()
    running = asyncio.create_task(control.publisher.run())
    yield control
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def eventually(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def create(control: ControlUnderTest, name: str = "app", **fields: object) -> str:
    return control.verbs.keys.create(KeyRequest.model_validate({"name": name, **fields})).key.id


def ids(control: ControlUnderTest) -> set[str]:
    return {grant.id for grant in control.feed.published[-1].keys}


async def test_a_key_is_published_as_it_changes_without_a_round(told: ControlUnderTest) -> None:
    told.backend.unreachable = True
    before = told.feed.published[-1]
    made = create(told)
    await eventually(lambda: ids(told) == {made})
    first = told.feed.deltas[-1]
    assert first is not None
    assert (first.base, first.version) == (before.version, told.feed.published[-1].version)
    assert ([grant.id for grant in first.keys], first.endpoints, first.gone_keys) == ([made], (), ())
    assert told.feed.published[-1].endpoints == before.endpoints
    told.verbs.keys.revoke(made)
    await eventually(lambda: ids(told) == set())
    second = told.feed.deltas[-1]
    assert second is not None
    assert (second.base, second.keys) == (first.version, ())
    assert second.gone_keys == tuple(grant.digest for grant in first.keys)


async def test_a_round_publishes_keys_too(control: ControlUnderTest) -> None:
    await control.rounds(1)
    made = create(control)
    await control.rounds(1)
    assert ids(control) == {made}


async def test_nothing_is_published_and_no_key_is_read_when_nothing_changed(
    told: ControlUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(told)
    await eventually(lambda: len(ids(told)) == 1)
    published = len(told.feed.published)
    endpoints = told.feed.published[-1].endpoints
    # Without keys, anything that read them would fail.
    monkeypatch.delattr(keys, "usable")
    monkeypatch.delattr(keys, "all_of")
    monkeypatch.delattr(keys, "get")
    await told.rounds(10)
    await told.publisher.publish({route.name: route for route in endpoints})
    assert len(told.feed.published) == published


async def test_keys_wait_for_the_first_round(control: ControlUnderTest) -> None:
    made = create(control)
    await control.publisher.publish()
    assert control.feed.published == [], "a snapshot without endpoints would end all requests"
    await control.rounds(1)
    assert ids(control) == {made}
    assert control.feed.deltas == [None]


async def test_an_expired_key_leaves_by_itself(told: ControlUnderTest) -> None:
    lasting = create(told, "lasting", expires_in_seconds=1000)
    brief = create(told, "brief", expires_in_seconds=10)
    await eventually(lambda: ids(told) == {lasting, brief})
    told.clock.forward(10)
    await told.publisher.publish()
    assert ids(told) == {lasting}
    told.clock.forward(990)
    await told.publisher.publish()
    assert ids(told) == set()


async def test_what_could_not_be_written_is_published_later(
    told: ControlUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "RETRY_S", 0.01)
    brief = create(told, "brief", expires_in_seconds=10)
    await eventually(lambda: ids(told) == {brief})
    told.clock.forward(10)
    with monkeypatch.context() as broken:
        broken.setattr(meta, "put", _full_disk)
        made = create(told)
        with pytest.raises(OSError, match="full"):
            await told.publisher.publish()
        assert ids(told) == {brief}
    await eventually(lambda: ids(told) == {made})


def _full_disk(*_arguments: object) -> None:
    raise OSError("the disk is full")


async def test_a_restart_with_equal_content_keeps_the_version(
    control: ControlUnderTest, tmp_path: Path, clock: Clock, backend: FakeBackend
) -> None:
    control.push("gpt", external={"base_url": "https://api.example.org/v1"})
    create(control, endpoints=["gpt", "b"])
    create(control, "admin", role="admin", expires_in_seconds=500)
    gone = create(control, "gone")
    await control.rounds(1)
    control.verbs.keys.revoke(gone)
    await control.rounds(1)
    before = control.feed.published[-1]
    control.context.database.close()
    again = ControlUnderTest(tmp_path / "home", clock, backend)
    await again.rounds(1)
    (after,) = again.feed.published
    assert after.version == before.version
    assert set(after.keys) == set(before.keys)
    changed = create(again, "more")
    await again.rounds(1)
    assert again.feed.published[-1].version > before.version
    assert changed in ids(again)
    again.context.database.close()


async def test_a_version_is_above_what_a_gateway_holds(told: ControlUnderTest) -> None:
    before = told.feed.published[-1]
    told.feed.newest_held = before.version + 100
    await told.publisher.publish()
    assert told.feed.published[-1].version == before.version + 101
    delta = told.feed.deltas[-1]
    assert delta is not None
    assert (delta.base, delta.keys, delta.endpoints) == (before.version, (), ())


async def test_endpoints_are_made_again_only_when_they_change(control: ControlUnderTest) -> None:
    secrets = control.context.secrets
    card = {"base_url": "https://api.example.org/v1", "api_key": {"secret": "provider"}}
    control.push("gpt", external=card)
    control.push("plain", external={"base_url": "https://api.example.org/v1"})
    routes = control.reconciler._routes

    def changed() -> dict[str, EndpointRoute]:
        return {name: route for name, route in routes.read_externals().items() if route is not None}

    missing = changed()
    assert set(missing) == {"gpt", "plain"}
    assert "hostler secret set provider" in missing["gpt"].condition
    secrets.put("provider", "one")
    one = changed()
    assert set(one) == {"gpt"}
    target = one["gpt"].deployments[0].external
    assert target is not None
    assert target.api_key == "one"
    assert changed() == {}
    secrets.put("provider", "two")
    target = changed()["gpt"].deployments[0].external
    assert target is not None
    assert target.api_key == "two"


async def test_an_admin_key_is_the_last_one_only_if_no_other_opens_anything(control: ControlUnderTest) -> None:
    first = create(control, "first", role="admin")
    create(control, "brief", role="admin", expires_in_seconds=10)
    revoked = create(control, "revoked", role="admin")
    create(control, "plain")
    control.verbs.keys.revoke(revoked)
    control.clock.forward(10)
    with pytest.raises(Conflict, match="last admin key"):
        control.verbs.keys.revoke(first)
    create(control, "another", role="admin")
    control.verbs.keys.revoke(first)
    assert control.verbs.keys.revoke(first).revoked_at is not None, "again changes nothing"


NAMES = st.sampled_from("abcd")
ENDPOINTS = st.dictionaries(NAMES, st.integers(0, 2)).map(
    lambda found: {name: EndpointRoute(name, created, "chat", ("openai",)) for name, created in found.items()}
)
GRANTS = st.dictionaries(NAMES, st.integers(0, 2)).map(
    lambda found: {name: KeyGrant(name, name, limits=LimitSet(rpm=rpm or None)) for name, rpm in found.items()}
)


@given(st.lists(st.tuples(ENDPOINTS, GRANTS), max_size=8))
def test_differences_lead_to_the_truth_and_equal_truths_have_equal_sums(
    steps: list[tuple[dict[str, EndpointRoute], dict[str, KeyGrant]]],
) -> None:
    content = Content()
    for endpoints, granted in steps:
        known = content.total
        may_have_changed = dict.fromkeys("abcd") | granted
        difference = content.difference(dict.fromkeys("abcd") | endpoints, may_have_changed)
        same = (content.endpoints, content.grants) == (endpoints, granted)
        assert (difference is None) == same
        if difference is not None:
            total = content.total_after(difference)
            content.apply(difference, total=total)
            assert total != known
        assert (content.endpoints, content.grants) == (endpoints, granted)
        fresh = Content()
        first = fresh.difference(dict(endpoints), dict(granted))
        assert content.total == (0 if first is None else fresh.total_after(first))
