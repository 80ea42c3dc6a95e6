"""Usage and limits over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import httpx
import pytest
from tests.control_under_test import ControlUnderTest

from hostler.spec.resources import KeyRequest
from hostler.spec.usage import UsageRecord
from hostler.web.app import create_app

AT = datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp()


@pytest.fixture
async def client(control: ControlUnderTest) -> AsyncIterator[httpx.AsyncClient]:
    control.clock.seconds = AT
    secret = control.verbs.keys.create(KeyRequest(name="test", role="admin")).secret
    transport = httpx.ASGITransport(create_app(control.verbs), raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers={"authorization": f"Bearer {secret}"}
    ) as opened:
        yield opened


async def test_usage_is_answered_by_day_and_by_request(client: httpx.AsyncClient, control: ControlUnderTest) -> None:
    records = [
        UsageRecord(f"r{hour}", AT - hour * 3600, "k", "p", "chat", "chat", "ok", 200, 1.5, True, 3, 1, 2)
        for hour in (1, 2, 20)
    ]
    control.ledger.take(records)
    days = (await client.get("/api/v1/usage", params={"by": "day", "since": "2026-05-01"})).json()
    assert [(one["of"], one["requests"], one["prompt_tokens"]) for one in days] == [
        ("2026-05-31", 1, 3),
        ("2026-06-01", 2, 6),
    ]
    part = await client.get("/api/v1/usage", params={"by": "endpoint", "since": "2026-06-01T10:30:00Z", "key": "k"})
    assert [(one["of"], one["requests"]) for one in part.json()] == [("chat", 1)]
    (newest,) = (await client.get("/api/v1/usage/requests", params={"limit": 1})).json()
    assert (newest["id"], newest["at"], newest["seconds"]) == ("r1", "2026-06-01T11:00:00Z", 1.5)


@pytest.mark.parametrize(
    "query", ["by=week", "since=yesterday", "since=2026-06-02&until=2026-06-01", "since=9999999999999999999"]
)
async def test_a_question_that_makes_no_sense_is_refused(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"/api/v1/usage?{query}")
    assert answer.status_code == 400, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("limit", [0, 10_001])
async def test_the_number_of_requests_is_bounded(client: httpx.AsyncClient, limit: int) -> None:
    answer = await client.get(f"/api/v1/usage/requests?limit={limit}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")


async def test_limits_are_set_changed_and_taken_away(client: httpx.AsyncClient) -> None:
    made = (await client.post("/api/v1/keys", json={"name": "app", "rpm": 60, "max_concurrency": 2})).json()["key"]
    path = f"/api/v1/keys/{made['id']}"
    changed = (await client.patch(path, json={"rpm": None, "tpm": 500})).json()
    assert (changed["rpm"], changed["tpm"], changed["max_concurrency"]) == (None, 500, 2)
    refused = await client.patch(path, json={"rpm": 0})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "rpm")
    assert (await client.patch("/api/v1/keys/nope", json={"rpm": 1})).status_code == 404
