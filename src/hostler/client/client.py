"""The control API as an object: one noun, one attribute; one route, one method."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Self

from hostler.client.administration import Engines, Keys, Secrets
from hostler.client.connection import Connection
from hostler.client.deployments import Deployments, Events
from hostler.client.models import Models
from hostler.client.transfer import Transfer
from hostler.client.usage import Usage
from hostler.spec.resources import API_PREFIX, PlatformStatus


class Client:
    """A platform's control API at `url`, for a key of role admin.

    Calls block and raise the errors of `hostler.spec.errors`: the platform's own, `Unavailable` if it does not
    answer, `DeadlineExceeded` past `timeout_s` seconds. Transfers of blobs are resumed after a cut, with waits by
    `sleep`; nothing else is retried. Safe for several threads. A context manager.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        *,
        timeout_s: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._connection = Connection(url, api_key, timeout_s=timeout_s)
        self.models = Models(self._connection, transfer=Transfer(self._connection, sleep=sleep))
        self.deployments = Deployments(self._connection)
        self.events = Events(self._connection)
        self.keys = Keys(self._connection)
        self.secrets = Secrets(self._connection)
        self.engines = Engines(self._connection)
        self.usage = Usage(self._connection)

    @property
    def url(self) -> str:
        return self._connection.url

    def status(self) -> PlatformStatus:
        """The platform at a glance."""
        return self._connection.fetch(PlatformStatus, "GET", f"{API_PREFIX}/status")

    def healthy(self) -> bool:
        """Whether control answers; needs no key."""
        return self._connection.send("GET", "/healthz", accept=tuple(range(400, 600))).status_code == 200

    def schemas(self) -> dict[str, dict[str, Any]]:
        """The JSON Schema of every declared kind, by kind."""
        return self._connection.fetch(dict[str, dict[str, Any]], "GET", f"{API_PREFIX}/schemas")

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
