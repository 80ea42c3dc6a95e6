from __future__ import annotations

from pathlib import Path

import pytest

from hostler.registry import retries
from hostler.registry.blobs import BlobStore
from hostler.registry.catalog import Catalog


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "models")


@pytest.fixture
def catalog(tmp_path: Path, blobs: BlobStore) -> Catalog:
    return Catalog(tmp_path / "models", blobs)


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between tries, and no state in the home of who runs the tests."""
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.01)
    for name in ("HOME", "MODELSCOPE_HOME", "MODELSCOPE_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
