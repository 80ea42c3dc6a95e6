"""What the verbs and the loops work on: the rooms of one platform, put together by wiring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hostler.backends.backend import Backend
from hostler.control.externals import ExternalModels
from hostler.control.feed import Feed
from hostler.control.fleets import Fleets
from hostler.control.hints import Hints
from hostler.control.ledger import Ledger
from hostler.registry.blobs import BlobStore
from hostler.registry.catalog import Catalog
from hostler.settings import Settings
from hostler.store.database import Database
from hostler.store.secrets import SecretFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One platform. `cards` are the models made on this machine and not pushed; `now` gives unix seconds.

    `hints` are of deployments, `key_hints` of keys by id: no other process changes the keys of this database. `demand`
    are endpoints that have requests waiting.
    """

    settings: Settings
    database: Database
    catalog: Catalog
    cards: Catalog
    externals: ExternalModels
    blobs: BlobStore
    secrets: SecretFiles
    backend: Backend
    feed: Feed
    ledger: Ledger
    hints: Hints
    key_hints: Hints
    demand: Hints
    fleets: Fleets
    now: Callable[[], float]
    started_at: float
