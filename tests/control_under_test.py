"""A platform's control without processes: real rooms, the shipped fake backend, virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hostler.backends.fake import FakeBackend
from hostler.control.autoscaler import Autoscaler
from hostler.control.context import Context
from hostler.control.deployments import Deployments
from hostler.control.engines import Engines
from hostler.control.externals import ExternalModels
from hostler.control.feed import Feed
from hostler.control.fleets import Fleets
from hostler.control.hints import Hints
from hostler.control.keys import Keys
from hostler.control.ledger import Ledger
from hostler.control.loop import Reconciler
from hostler.control.metrics import Metrics
from hostler.control.models import Models
from hostler.control.platform import Platform
from hostler.control.publisher import Publisher
from hostler.control.usage import Usage
from hostler.control.verbs import Verbs
from hostler.registry.blobs import BlobStore
from hostler.registry.catalog import Catalog
from hostler.settings import Settings
from hostler.spec.demand import EndpointLoad
from hostler.spec.deployment import DeploymentSpec
from hostler.spec.model import ModelSpec
from hostler.spec.resources import DeploymentResource
from hostler.spec.snapshot import Snapshot, SnapshotDelta
from hostler.spec.version import ModelFacts, ModelVersion
from hostler.store.database import Database
from hostler.store.secrets import SecretFiles

TOKEN = "feed-token"


class Clock:
    """Time that moves when told."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds

    def forward(self, seconds: float) -> None:
        self.seconds += seconds


class RecordingFeed(Feed):
    """The real feed, which also remembers what was published."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.published: list[Snapshot] = []
        self.deltas: list[SnapshotDelta | None] = []

    def publish(self, snapshot: Snapshot, delta: SnapshotDelta | None = None) -> None:
        self.published.append(snapshot)
        self.deltas.append(delta)
        super().publish(snapshot, delta)


class ControlUnderTest:
    """One control process's worth of objects, over a home that may have been used before."""

    def __init__(self, home: Path, clock: Clock, backend: FakeBackend) -> None:
        settings = Settings(home=home, stop_grace_seconds=5.0)
        settings.paths.create()
        self.clock = clock
        self.backend = backend
        self.hinted: list[str] = []
        database = Database(settings.paths.database)
        demand = Hints()
        self.ledger = Ledger(database, kept_days=settings.usage_kept_days, now=clock)
        self.feed = RecordingFeed(
            token=TOKEN,
            now=clock,
            on_report=self._reported,
            ingest=self.ledger.take,
            on_journal=self.ledger.heard,
            on_queued=demand.touch,
        )
        blobs = BlobStore(settings.paths.models)
        catalog = Catalog(settings.paths.models, blobs)
        self.context = Context(
            settings=settings,
            database=database,
            catalog=catalog,
            cards=Catalog(settings.paths.cards, blobs),
            externals=ExternalModels(catalog),
            blobs=blobs,
            secrets=SecretFiles(settings.paths.secrets),
            backend=backend,
            feed=self.feed,
            ledger=self.ledger,
            hints=Hints(),
            key_hints=Hints(),
            demand=demand,
            fleets=Fleets(),
            now=clock,
            started_at=clock(),
        )
        self.publisher = publisher = Publisher(self.context)
        self.reconciler = Reconciler(self.context, publisher)
        self.autoscaler = Autoscaler(self.context)
        self.verbs = Verbs(
            context=self.context,
            models=Models(self.context),
            deployments=Deployments(self.context, self.reconciler),
            keys=Keys(self.context),
            engines=Engines(self.context),
            platform=Platform(self.context, self.reconciler, lambda: publisher.version),
            usage=Usage(self.context),
            metrics=Metrics(self.context),
        )

    def push(self, name: str = "toy", **card: Any) -> ModelVersion:
        """A model that is a command, so that it needs no files."""
        fields = {"command": ["serve-toy"], **card} if "external" not in card else card
        spec = ModelSpec.model_validate({"name": name, **fields})
        version = ModelVersion.build(spec, files=(), facts=ModelFacts(), created_at=datetime.now(UTC))
        return self.verbs.models.push(name, version, alias=None).version

    async def deploy(self, name: str = "toy", **spec: Any) -> DeploymentResource:
        return await self.verbs.deployments.apply(DeploymentSpec.model_validate({"name": name, "model": "toy", **spec}))

    async def get(self, name: str = "toy") -> DeploymentResource:
        return await self.verbs.deployments.get(name)

    async def rounds(self, count: int = 4, *, seconds: float = 1.0) -> None:
        """So many rounds of the reconciler, with time between."""
        for _ in range(count):
            await self.reconciler.round()
            self.clock.forward(seconds)
        await self.reconciler.round()

    async def seconds(self, count: int, **work: EndpointLoad) -> None:
        """So many seconds in which one gateway reports this work by endpoint, and the loops do theirs."""
        for _ in range(count):
            self.feed.loads.heard("g", work)
            await self.autoscaler.look([endpoint for endpoint, load in work.items() if load.queued])
            await self.reconciler.round()
            self.clock.forward(1.0)

    def events(self, name: str = "toy") -> list[str]:
        return [event.reason for event in self.verbs.platform.events(name=name, limit=1000)]

    def _reported(self, replica_ids: Iterable[str]) -> None:
        self.hinted += replica_ids


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backend(clock: Clock) -> FakeBackend:
    return FakeBackend(clock=clock)


@pytest.fixture
async def control(tmp_path: Path, clock: Clock, backend: FakeBackend) -> AsyncIterator[ControlUnderTest]:
    made = ControlUnderTest(tmp_path / "home", clock, backend)
    yield made
    await made.feed.close()
    made.context.database.close()
