"""Limits on their way from what is declared to what the gateways get."""

from __future__ import annotations

import pytest
from tests.control_under_test import ControlUnderTest

from hostler.spec.documents import validated
from hostler.spec.errors import Conflict, InvalidRequest, NotFound
from hostler.spec.limits import Limits
from hostler.spec.resources import KeyRequest
from hostler.spec.snapshot import NO_LIMITS, LimitSet


def granted(control: ControlUnderTest, key_id: str) -> LimitSet:
    (grant,) = [one for one in control.feed.published[-1].keys if one.id == key_id]
    return grant.limits


async def test_limits_of_a_key_reach_the_gateways_and_change_there(control: ControlUnderTest) -> None:
    keys = control.verbs.keys
    key = keys.create(KeyRequest(name="app", rpm=60, tpm=1000)).key
    assert (key.rpm, key.tpm, key.max_concurrency) == (60, 1000, None)
    await control.reconciler.round()
    assert granted(control, key.id) == LimitSet(rpm=60, tpm=1000)
    changed = keys.limit(key.id, Limits(tpm=None, max_concurrency=4))
    assert (changed.rpm, changed.tpm, changed.max_concurrency) == (60, None, 4)
    await control.reconciler.round()
    assert granted(control, key.id) == LimitSet(rpm=60, max_concurrency=4)
    assert [one.max_concurrency for one in keys.list() if one.id == key.id] == [4]


async def test_a_change_of_limits_is_an_event_and_the_same_again_is_none(control: ControlUnderTest) -> None:
    key = control.verbs.keys.create(KeyRequest(name="app")).key
    for _ in range(2):
        control.verbs.keys.limit(key.id, Limits(rpm=5))
    found = control.verbs.platform.events(name=key.id)
    assert [(one.reason, one.message) for one in found] == [
        ("Created", "app: inference key for project default, no limits."),
        ("LimitsChanged", "app: rpm 5."),
    ]


async def test_a_key_that_is_revoked_or_unknown_gets_no_limits(control: ControlUnderTest) -> None:
    key = control.verbs.keys.create(KeyRequest(name="app")).key
    control.verbs.keys.revoke(key.id)
    with pytest.raises(Conflict, match="revoked"):
        control.verbs.keys.limit(key.id, Limits(rpm=5))
    with pytest.raises(NotFound):
        control.verbs.keys.limit("nope", Limits(rpm=5))


@pytest.mark.parametrize("value", [0, -1, 1.5, 10**13, "many"])
def test_a_limit_is_a_whole_number_from_one_on(value: object) -> None:
    with pytest.raises(InvalidRequest, match="rpm"):
        validated(Limits, {"rpm": value})


async def test_limits_and_balance_of_a_deployment_reach_the_gateways_and_replace_nothing(
    control: ControlUnderTest,
) -> None:
    control.push()
    await control.deploy()
    await control.rounds()
    (route,) = control.feed.published[-1].endpoints
    assert (route.limits, route.balance) == (NO_LIMITS, "least_outstanding")
    changed = await control.deploy(limits={"rpm": 9, "tpm": 99}, balance="prefix_affinity")
    assert (changed.changed, changed.revision) == (True, 1)
    await control.rounds()
    (route,) = control.feed.published[-1].endpoints
    assert (route.limits, route.balance) == (LimitSet(rpm=9, tpm=99), "prefix_affinity")
    assert control.backend.started == {"toy-1": 1}
    again = await control.deploy(limits={"rpm": 9, "tpm": 99}, balance="prefix_affinity")
    assert not again.changed


async def test_limits_of_an_external_model_reach_the_gateways(control: ControlUnderTest) -> None:
    control.push("far", external={"base_url": "https://provider.test/v1", "limits": {"max_concurrency": 2}})
    await control.reconciler.round()
    (route,) = control.feed.published[-1].endpoints
    assert (route.name, route.limits) == ("far", LimitSet(max_concurrency=2))
