"""One platform for the tests of all clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.system.conftest import Platform, serving


@pytest.fixture(scope="session")
def shared_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform with both examples deployed. What a test adds to it, it takes away."""
    with serving(tmp_path_factory.mktemp("home")) as started:
        yield started
