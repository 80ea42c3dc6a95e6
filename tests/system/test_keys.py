"""Keys among thousands of others: they open the front door when they are made, and no more once revoked."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import httpx
import pytest
from tests.system.conftest import Platform, wait_until

from hostler.spec.resources import KeyRequest
from hostler.store import keys
from hostler.store.database import Database
from hostler.store.records import KeyRecord

KEYS = 5000


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform that knows thousands of keys."""
    platform = Platform(tmp_path_factory.mktemp("home"))
    platform.home.create()
    database = Database(platform.home.database)
    with database.transaction() as connection:
        for number in range(KEYS):
            record = KeyRecord(
                id=f"k{number}",
                name="many",
                digest=keys.digest_of(f"hk_k{number}_"),
                role="inference",
                project="default",
                endpoints=None,
                created_at=time.time(),
            )
            keys.add(connection, record)
    database.close()
    try:
        platform.up()
        yield platform
    finally:
        platform.down()


def status(platform: Platform, key: str) -> int:
    """What the front door says to a request with this key."""
    return httpx.get(f"{platform.url}/v1/models", headers={"authorization": f"Bearer {key}"}).status_code


def test_a_key_works_once_made_and_is_refused_once_revoked(crowded: Platform) -> None:
    assert status(crowded, "hk_k0_") == 200
    with crowded.client() as client:
        for _ in range(5):
            made = client.keys.create(KeyRequest(name="app"))
            wait_until(lambda made=made: status(crowded, made.secret) == 200, "the key's first answer")
            client.keys.revoke(made.key.id)
            wait_until(lambda made=made: status(crowded, made.secret) == 401, "the key's end")
        assert status(crowded, "hk_k0_") == 200
        client.keys.revoke("k0")
        wait_until(lambda: status(crowded, "hk_k0_") == 401, "the end of a key from before the start")


def test_what_was_revoked_stays_so_when_both_sides_are_killed(crowded: Platform) -> None:
    with crowded.client() as client:
        made = client.keys.create(KeyRequest(name="app"))
        wait_until(lambda: status(crowded, made.secret) == 200, "the key's first answer")
        client.keys.revoke("k1")
        wait_until(lambda: status(crowded, "hk_k1_") == 401, "the key's end")
    before = crowded.pid("gateway-0")
    for part in ("control", "gateway-0"):
        os.kill(crowded.pid(part), signal.SIGKILL)
    wait_until(lambda: crowded.runs("gateway-0") and crowded.pid("gateway-0") != before, "a new gateway")
    wait_until(lambda: crowded.runs("control"), "a new control")
    wait_until(lambda: _answers(crowded, made.secret), "the same key's answer")
    assert status(crowded, "hk_k1_") == 401


def _answers(platform: Platform, key: str) -> bool:
    try:
        return status(platform, key) == 200
    except httpx.HTTPError:
        return False
