"""What goes on until Ctrl-C: the live view of the platform, and its events across restarts of control."""

from __future__ import annotations

import os
import re
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from foreground import DEADLINE_S, Foreground
from rich.console import Console
from running import Cli, Platform

from hostler.cli.following import PAGE, EventTail, Patience, follow
from hostler.cli.watching import Seen, view
from hostler.client import Client
from hostler.process_files import living
from hostler.spec.deployment import DeploymentSpec
from hostler.spec.errors import Unavailable
from hostler.spec.resources import (
    DeploymentResource,
    EventResource,
    GatewayResource,
    NodeResource,
    PlatformStatus,
    ReplicaResource,
    ScalingResource,
)
from hostler.spec.states import DeploymentState, ReplicaState

NOW = datetime.now(UTC)


def event(number: int, message: str = "It serves.") -> EventResource:
    at = NOW - timedelta(seconds=100 - number)
    return EventResource(
        id=number, at=at, level="normal", kind="deployment", name="chat", reason="Ready", message=message
    )


def deployment(name: str, *, replicas: int = 1, message: str = "") -> DeploymentResource:
    state = DeploymentState.READY if not message else DeploymentState.FAILED
    return DeploymentResource(
        name=name,
        endpoint=f"{name}-end",
        model=name,
        engine="onnx",
        engine_reason="",
        spec=DeploymentSpec(name=name, model=name),
        revision=1,
        stopped=False,
        state=state,
        reason="Ready" if not message else "CrashLoop",
        message=message,
        wanted=3,
        ready=replicas,
        restarts=7,
        scaling=ScalingResource(min_replicas=1, max_replicas=4, in_flight=41, queued=5),
        created_at=NOW,
        replicas=tuple(
            ReplicaResource(
                id=f"{name}-{number}",
                deployment=name,
                revision=1,
                state=ReplicaState.READY if number else ReplicaState.PULLING,
                reason="Pulling",
                message="",
                since=NOW,
            )
            for number in range(replicas)
        ),
    )


def seen(*deployments: DeploymentResource, away_s: float = 0.0) -> Seen:
    status = PlatformStatus(
        version="0.1.0",
        started_at=NOW,
        home="/home",
        gateway_url="http://127.0.0.1:8000",
        api_url="http://127.0.0.1:8001",
        snapshot_version=1,
        nodes=(NodeResource(name="here", cpu_count=8, memory_total=2**34, memory_free=2**33),),
        gateways=(GatewayResource(id="gateway-0", applied_version=1, in_flight=42, journal_refusing=True),),
        deployments=len(deployments),
        replicas_ready=2,
        replicas_wanted=3,
    )
    found = Seen(status, list(deployments), away_s=away_s)
    found.events.extend(event(number, f"event {number}") for number in range(40))
    return found


def shown(what: Seen, *, lines: int, width: int = 160) -> list[str]:
    console = Console(width=width, height=lines, force_terminal=False)
    with console.capture() as captured:
        console.print(view(what, lines=lines))
    return captured.get().splitlines()


def test_the_view_shows_platform_deployments_replicas_and_events() -> None:
    lines = shown(seen(deployment("chat", replicas=2), deployment("bad", message="out of memory")), lines=40)
    assert "42 in flight" in lines[0]
    assert "10 queued" in lines[0]
    assert "2 of 3 replicas ready" in lines[0]
    assert any("usage journal is full" in line for line in lines)
    row = next(line.split() for line in lines if line.startswith("chat-end "))
    assert row == ["chat-end", "chat", "Ready", "2", "3", "41", "5", "7"]
    assert next(line for line in lines if line.startswith("bad-end ")).rstrip().endswith("out of memory")
    states = [line.split()[1] for line in lines if re.match(r"(chat|bad)-\d", line)]
    assert states == ["Pulling", "Pulling", "Ready"], "those that are not ready come first"
    assert lines[-1].rstrip().endswith("event 39")


@pytest.mark.parametrize("height", [8, 12, 24, 60])
def test_the_view_fits_the_terminal_and_says_what_it_leaves_out(height: int) -> None:
    lines = shown(seen(*(deployment(f"d{number}", replicas=9) for number in range(30))), lines=height, width=80)
    assert len(lines) <= height
    assert all(len(line) <= 80 for line in lines)
    assert any(re.match(r"and \d+ more", line.strip()) for line in lines)


def test_the_view_of_a_platform_that_is_away_says_so() -> None:
    assert any("has not answered for 12 s" in line for line in shown(seen(away_s=12.0), lines=24))


def test_nothing_that_an_engine_says_moves_the_cursor() -> None:
    lines = shown(seen(deployment("bad", message="\x1b[2J\x07gone\nfar")), lines=24)
    assert "\x1b" not in "".join(lines)
    assert any("[2J gone far" in line for line in lines)


def test_patience_ends_when_a_platform_stays_away_and_begins_anew_when_it_answers() -> None:
    now = [0.0]
    patience = Patience(limit_s=10.0, clock=lambda: now[0])

    def away() -> int:
        raise Unavailable("away")

    now[0] = 9.0
    assert patience.ask(away) is None
    assert patience.away_s == 9.0
    assert patience.ask(lambda: 1) == 1
    now[0] = 18.0
    assert patience.ask(away) is None
    now[0] = 20.0
    with pytest.raises(Unavailable):
        patience.ask(away)


def test_many_events_are_followed_without_a_gap_or_a_pause(up: Platform) -> None:
    """`follow` sleeps only once it has all there is."""
    with Client(up.api_url, up.key) as client:
        everything = [one.id for one in client.events.list(limit=1000)]
        assert len(everything) < PAGE
        got: list[int] = []
        followed = follow(EventTail(client), sleep=lambda _: pytest.fail("it slept before it told"))
        got += [one.id for one in next(followed)]
        assert got[: len(everything)] == everything


def restarted_control(platform: Platform) -> None:
    """Kill control with -9 and wait until the next one answers."""
    file = platform.home / "run/control.json"
    before = living(file)
    assert before is not None
    os.kill(before.process.pid, signal.SIGKILL)
    deadline = time.monotonic() + DEADLINE_S
    with Client(platform.api_url, platform.key) as client:
        while (found := living(file)) is None or found.process == before.process or not answers(client):
            assert time.monotonic() < deadline, "no other control answers"
            time.sleep(0.05)


def answers(client: Client) -> bool:
    try:
        return client.healthy()
    except Unavailable:
        return False


def test_events_are_followed_across_a_restart_of_control_each_once(up: Platform, cli: Cli) -> None:
    with Foreground("events", "--follow", "--limit", "1", "-o", "json") as following:
        following.wait_for('"id"')
        restarted_control(up)
        cli.ok("model", "alias", "digits", "after-restart", "latest")
        following.wait_for("after-restart")
        assert following.end(signal.SIGINT) == 130
    ids = [int(number) for number in re.findall(r'"id":(\d+)', following.text)]
    assert ids == sorted(set(ids))
    assert "Traceback" not in following.text
    cli.ok("model", "alias", "digits", "after-restart", "--delete")


def test_the_live_view_shows_what_happens_outlives_a_control_and_leaves_the_terminal_as_it_was(
    up: Platform, cli: Cli
) -> None:
    with Foreground("status", "--watch", terminal=True) as watching:
        watching.wait_for("digits")
        assert "\x1b[?1049h" in watching.text, "it has a screen of its own"
        restarted_control(up)
        cli.ok("model", "alias", "digits", "watched", "latest")
        watching.wait_for("watched")
        assert watching.end(signal.SIGINT) == 130
    assert watching.text.rstrip().endswith("\x1b[?25h") or "\x1b[?1049l" in watching.text
    assert "Traceback" not in watching.text
    cli.ok("model", "alias", "digits", "watched", "--delete")


def test_without_a_terminal_a_watch_prints_a_line_per_change(up: Platform, cli: Cli) -> None:
    with Foreground("status", "--watch") as watching:
        watching.wait_for("digits: Ready 1/1")
        cli.ok("model", "alias", "digits", "lined", "latest")
        watching.wait_for("lined")
        assert watching.end(signal.SIGTERM) == 130
    assert "\x1b" not in watching.text
    assert watching.text.count("digits: Ready 1/1") == 1
    cli.ok("model", "alias", "digits", "lined", "--delete")


def test_a_watch_needs_a_platform_and_is_for_people(cli: Cli, tmp_path: Path) -> None:
    assert cli("status", "--watch").code == 5
    assert cli("status", "--watch", "-o", "json").code == 2
