"""Models that are a provider's service: endpoints without a deployment."""

from __future__ import annotations

import logging
import threading

from hostler.registry.catalog import Catalog
from hostler.spec.errors import HostlerError
from hostler.spec.names import ModelRef
from hostler.spec.version import ModelVersion

logger = logging.getLogger(__name__)


class ExternalModels:
    """The newest version of every external model, kept in memory; `refresh` after the catalog changed."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._versions: tuple[ModelVersion, ...] = ()
        self.refresh()

    def refresh(self) -> None:
        """Read the catalog again. Blocks on files; may be called from any thread."""
        with self._lock:
            self._versions = tuple(self._read())

    @property
    def versions(self) -> tuple[ModelVersion, ...]:
        return self._versions

    def _read(self) -> list[ModelVersion]:
        found: list[ModelVersion] = []
        for name in self._catalog.names():
            try:
                version = self._catalog.resolve(ModelRef(name, "latest"))
            except HostlerError as error:
                logger.warning("%s is no endpoint: %s", name, error)
                continue
            if version.card.is_external:
                found.append(version)
        return found
