"""Limits that several workers or hosts share: the rules of `decide.limits`, kept in Redis.

Each admission and each settlement is one script there, so it is whole or not at all, by Redis's own clock. What waits
while one round trip is under way goes together in the next. A request that is under way holds a lease that its worker
renews; those of a worker that died run out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from hostler.decide.limits import GRAIN_S, NEVER_S, WINDOW_S, Limit, Refusal
from hostler.gateway.limit_script import RENEW, RESERVE, SETTLE
from hostler.gateway.limits import REQUEST_LINES, TOKEN_LINES, limited
from hostler.spec.errors import HostlerError, InvalidRequest, Unavailable
from hostler.spec.snapshot import LimitSet

if TYPE_CHECKING:
    from redis.asyncio import Redis

LEASE_S = 20.0
RENEW_EVERY_S = 5.0
TIMEOUT_S = 1.0
"""For Redis to answer; past it, it is away."""
AWAY_FOR_S = 0.5
"""How long it is not asked again."""
MOST_WAITING = 10_000
MOST_AT_ONCE = 256
_KEYS = ("requests", "request-grains", "tokens", "token-grains", "leases")

_log = logging.getLogger("hostler.gateway")


class Asked(NamedTuple):
    """What a request wants to take: from which subjects (`key ID`, `endpoint NAME`), under which limits."""

    subjects: tuple[str, ...]
    limits: tuple[LimitSet, ...]
    tokens: int
    certain: bool
    id: str


class Taken:
    """A reservation in Redis. Settled once, as `limits.Reservation` is."""

    __slots__ = ("_asked", "_grain", "_lines", "_shared")

    def __init__(self, shared: SharedLimits, asked: Asked, *, grain: int, lines: bytes) -> None:
        self._shared = shared
        self._asked = asked
        self._grain = grain
        self._lines = lines

    def lines(self) -> bytes:
        return self._lines

    def settle(self, tokens: int | None, *, now: float) -> None:  # noqa: ARG002 - Redis has a clock of its own
        self._shared.settle(self._asked, grain=self._grain, used=self._asked.tokens if tokens is None else tokens)


class Open:
    """Stands for a reservation while Redis is away and requests are served all the same."""

    def lines(self) -> bytes:
        return b""

    def settle(self, tokens: int | None, *, now: float) -> None:
        """Nothing was taken."""


class Reserved(Protocol):
    """What a request holds until it is settled."""

    def lines(self) -> bytes: ...

    def settle(self, tokens: int | None, *, now: float) -> None: ...


Answer = Callable[[Reserved | HostlerError], None]


class SharedLimits:
    """The limits of all workers that use one Redis. `run` has to run."""

    def __init__(self, redis: Redis, *, place: str, serves_without: bool) -> None:
        """`place` names Redis for people, without its password. `serves_without` is the choice for when it is away."""
        self._redis = redis
        self._place = place
        self._serves_without = serves_without
        self._waiting: list[tuple[Asked, Answer]] = []
        self._settled: list[tuple[Asked, int, int]] = []
        self._leases: dict[str, tuple[str, ...]] = {}
        self._due = asyncio.Event()
        self._away_until = 0.0
        self._renew_at = 0.0
        self.up: bool | None = None
        """Whether Redis answered last; None before it was asked."""

    def reserve(self, asked: Asked, answer: Answer) -> None:
        """Ask for what a request takes. `answer` is called once, soon: with what it holds, or with its refusal."""
        if asyncio.get_running_loop().time() < self._away_until or len(self._waiting) >= MOST_WAITING:
            answer(self._without())
            return
        self._waiting.append((asked, answer))
        self._due.set()

    def settle(self, asked: Asked, *, grain: int, used: int) -> None:
        """Put what was used in the place of what was taken. While Redis is away it waits, up to a bound."""
        self._leases.pop(asked.id, None)
        if len(self._settled) < MOST_WAITING:
            self._settled.append((asked, grain, used))
        self._due.set()

    async def run(self) -> None:
        """Carry questions to Redis and answers back until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEW_EVERY_S if self.up else AWAY_FOR_S):
                    await self._due.wait()
            self._due.clear()
            while True:
                waiting, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
                settled = self._settled[:MOST_AT_ONCE]
                try:
                    answers = await self._round(waiting, settled)
                except Exception as error:  # noqa: BLE001 - whatever a client library raises, nobody may wait for ever
                    self._lose(error)
                    waiting, self._waiting = [*waiting, *self._waiting], []
                    self._away_until = loop.time() + AWAY_FOR_S
                    for _, answer in waiting:
                        _deliver(answer, self._without())
                    await asyncio.sleep(AWAY_FOR_S)
                    break
                del self._settled[: len(settled)]
                for answer, held in answers:
                    _deliver(answer, held)
                if not self._waiting and not self._settled:
                    break

    async def close(self) -> None:
        """Settle what can be settled, and end the connection."""
        with contextlib.suppress(Exception):
            await self._round([], self._settled)
        with contextlib.suppress(Exception):
            await self._redis.aclose()

    async def _round(
        self, waiting: list[tuple[Asked, Answer]], settled: list[tuple[Asked, int, int]]
    ) -> list[tuple[Answer, Reserved | HostlerError]]:
        """One round trip: all that is settled, then all that is asked, in that order. What the asked get."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(TIMEOUT_S):
            pipeline = cast("Any", self._redis.pipeline(transaction=False))
            if not settled and not waiting:
                pipeline.ping()
            for asked, grain, used in settled:
                _call(pipeline, SETTLE, asked.subjects, asked.tokens, used, grain, asked.id)
            for asked, _ in waiting:
                bounds = [-1 if bound is None else bound for limits in asked.limits for bound in _bounds(limits)]
                _call(pipeline, RESERVE, asked.subjects, asked.tokens, int(asked.certain), asked.id, *bounds)
            if self._leases and loop.time() >= self._renew_at:
                self._renew(pipeline)
                self._renew_at = loop.time() + RENEW_EVERY_S
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
        refused = [reply for reply in replies if isinstance(reply, Exception)]
        if refused:
            _log.error("Redis at %s refuses a script: %s", self._place, refused[0])
        self._find()
        asked_replies = replies[len(settled) : len(settled) + len(waiting)]
        return [
            (answer, self._without() if isinstance(reply, Exception) else self._read(asked, reply))
            for (asked, answer), reply in zip(waiting, asked_replies, strict=True)
        ]

    def _renew(self, pipeline: Any) -> None:
        """Renew every lease, many with one script."""
        pairs = [(_keys(subject)[-1], lease) for lease, subjects in self._leases.items() for subject in subjects]
        for start in range(0, len(pairs), MOST_AT_ONCE):
            part = pairs[start : start + MOST_AT_ONCE]
            keys, leases = [key for key, _ in part], [lease for _, lease in part]
            pipeline.eval(RENEW, len(keys), *keys, LEASE_S * 1000, *leases)

    def _read(self, asked: Asked, reply: list[Any]) -> Reserved | HostlerError:
        if not reply[0]:
            subject, name, used, wait_ms = int(reply[1]), Limit(_text(reply[2])), int(reply[3]), int(reply[4])
            bound = getattr(asked.limits[subject], name.value)
            refusal = Refusal(name, bound, used, NEVER_S if wait_ms < 0 else wait_ms / 1000)
            return limited(asked.subjects[subject], refusal, tokens=asked.tokens)
        self._leases[asked.id] = asked.subjects
        grain, requests, requests_ms, tokens, tokens_ms = (int(value) for value in reply[1:])
        limits, lines = asked.limits[0], b""
        if limits.rpm is not None:
            lines = REQUEST_LINES % (limits.rpm, max(0, limits.rpm - requests), requests_ms)
        if limits.tpm is not None:
            lines += TOKEN_LINES % (limits.tpm, max(0, limits.tpm - tokens), tokens_ms)
        return Taken(self, asked, grain=grain, lines=lines)

    def _without(self) -> Reserved | HostlerError:
        if self._serves_without:
            return Open()
        return Unavailable(
            "Rate limits cannot be checked, and the platform is set to serve nothing without them.",
            hint="See whether Redis runs; HOSTLER_REDIS_AWAY=open serves without limits meanwhile.",
            code="limits_unavailable",
        )

    def _lose(self, error: Exception) -> None:
        if self.up is not False:
            choice = "served without limits" if self._serves_without else "refused"
            _log.error("Redis at %s is away (%s): limited requests are %s", self._place, type(error).__name__, choice)
        self.up = False

    def _find(self) -> None:
        if not self.up:
            _log.info("Redis at %s answers: limits are shared", self._place)
        self.up = True
        self._away_until = 0.0


def connect(url: str, *, serves_without: bool) -> SharedLimits:
    """Limits shared through the Redis at `url`. Connects at the first request. Raises `InvalidRequest`."""
    try:
        from redis.asyncio import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise InvalidRequest(
            "redis_url is set, and the Redis client is not installed.",
            hint="Install it: pip install 'hostler[redis]'.",
            param="redis_url",
            code="missing_extra",
        ) from None
    try:
        redis = cast("Any", Redis).from_url(
            url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=cast("Any", Retry)(NoBackoff(), 0)
        )
        options = redis.connection_pool.connection_kwargs
        place = str(options.get("path") or f"{options.get('host')}:{options.get('port')}")
    except ValueError:
        raise InvalidRequest(
            "redis_url is not the address of a Redis.",
            hint="Write redis://HOST:PORT, rediss://HOST:PORT or unix:///PATH.",
            param="redis_url",
            code="invalid_setting",
        ) from None
    return SharedLimits(redis, place=place, serves_without=serves_without)


def _deliver(answer: Answer, held: Reserved | HostlerError) -> None:
    try:
        answer(held)
    except Exception:  # noqa: BLE001 - the outermost frame of one request, whose failure ends no other
        _log.exception("a request that was admitted could not go on")


def _keys(subject: str) -> list[str]:
    return [f"hostler:{{limits}}:{subject}:{name}" for name in _KEYS]


def _call(pipeline: Any, script: str, subjects: tuple[str, ...], *arguments: object) -> None:
    keys = [key for subject in subjects for key in _keys(subject)]
    pipeline.eval(script, len(keys), *keys, WINDOW_S * 1000, GRAIN_S * 1000, LEASE_S * 1000, *arguments)


def _bounds(limits: LimitSet) -> tuple[int | None, int | None, int | None]:
    return limits.rpm, limits.tpm, limits.max_concurrency


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
