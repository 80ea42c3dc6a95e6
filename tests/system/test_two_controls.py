"""Two control planes on one home: one acts, the other takes over."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.system.conftest import Platform, wait_until

from hostler.process_files import living
from hostler.processes import is_alive
from hostler.spec.errors import HostlerError
from hostler.spec.replica import ProcessRef

TAKEN_OVER_WITHIN_S = 5.0


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    platform = Platform(tmp_path_factory.mktemp("two"))
    platform.settings = dataclasses.replace(platform.settings, controls=2)
    try:
        platform.up()
        platform.deploy(Path(__file__).with_name("slow_model"), "slow")
        yield platform
    finally:
        platform.down()
    assert platform.processes() == []


def leader(platform: Platform) -> ProcessRef:
    found: list[ProcessRef] = []

    def known() -> bool:
        file = living(platform.home.run / "control.json")
        found[:] = [file.process] if file is not None else []
        return bool(found)

    wait_until(known, "a control plane acts")
    return found[0]


def answers(platform: Platform) -> bool:
    with suppress(HostlerError):
        return platform.get("slow").name == "slow"
    return False


def stood_by(platform: Platform) -> int:
    """How many times a control plane began to stand by."""
    return sum(path.read_text().count("this one stands by") for path in platform.home.run.glob("control*.log"))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM], ids=lambda how: how.name)
def test_the_second_acts_soon_after_the_first_stopped_acting(platform: Platform, how: signal.Signals) -> None:
    first = leader(platform)
    wait_until(lambda: stood_by(platform) > 0, "the other one stands by")
    before = stood_by(platform)
    replica = [one.id for one in platform.get("slow").replicas]
    begun = time.monotonic()
    os.kill(first.pid, how)
    wait_until(
        lambda: (
            (found := living(platform.home.run / "control.json")) is not None
            and found.process != first
            and answers(platform)
        ),
        "the other one acts",
    )
    took_s = time.monotonic() - begun
    print(f"{how.name}: taken over after {took_s:.2f} s; the aim is {TAKEN_OVER_WITHIN_S:g} s")
    wait_until(lambda: not is_alive(first), "the first one has ended")
    assert [one.id for one in platform.get("slow").replicas] == replica
    # The supervisor brings another, which stands by.
    names = [platform.home.run / f"control-{number}.json" for number in range(2)]
    wait_until(lambda: all(living(name) is not None for name in names), "two control planes run")
    wait_until(lambda: stood_by(platform) > before, "one of them stands by")
