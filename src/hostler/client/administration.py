"""API keys, secrets and engines of a platform."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager

from hostler.client.connection import Connection
from hostler.spec.limits import Limits
from hostler.spec.resources import (
    API_PREFIX,
    EnginePath,
    EngineResource,
    KeyRequest,
    KeyResource,
    NewKey,
    SecretRequest,
)


class Keys:
    """The routes under `/keys`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> list[KeyResource]:
        return self._connection.fetch(list[KeyResource], "GET", f"{API_PREFIX}/keys")

    def create(self, request: KeyRequest) -> NewKey:
        """A new key; its secret is in this answer and nowhere else."""
        return self._connection.fetch(NewKey, "POST", f"{API_PREFIX}/keys", body=request)

    def limit(self, key_id: str, limits: Limits) -> KeyResource:
        """Change the limits that are set in `limits`, to None to take one away; the others stay."""
        return self._connection.fetch(KeyResource, "PATCH", f"{API_PREFIX}/keys/{key_id}", body=limits)

    def revoke(self, key_id: str) -> KeyResource:
        return self._connection.fetch(KeyResource, "DELETE", f"{API_PREFIX}/keys/{key_id}")


class Secrets:
    """The routes under `/secrets`. Values go in and never come out."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> list[str]:
        return self._connection.fetch(list[str], "GET", f"{API_PREFIX}/secrets")

    def set(self, name: str, value: str) -> None:
        self._connection.send("PUT", f"{API_PREFIX}/secrets/{name}", body=SecretRequest(value=value))

    def delete(self, name: str) -> None:
        self._connection.send("DELETE", f"{API_PREFIX}/secrets/{name}")


class Engines:
    """The routes under `/engines`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> list[EngineResource]:
        return self._connection.fetch(list[EngineResource], "GET", f"{API_PREFIX}/engines")

    def add(self, name: str, path: str) -> EngineResource:
        """Use the program at `path`, on the platform's machine, for this engine."""
        return self._connection.fetch(EngineResource, "PUT", f"{API_PREFIX}/engines/{name}", body=EnginePath(path=path))

    def remove(self, name: str) -> None:
        """Forget what was added or installed for this engine."""
        self._connection.send("DELETE", f"{API_PREFIX}/engines/{name}")

    @contextmanager
    def install(self, name: str) -> Generator[Iterator[str]]:
        """Make an environment for the engine; lines of progress, the last `ok` or `error: ...`."""
        with self._connection.stream("POST", f"{API_PREFIX}/engines/{name}/install", endless=True) as answer:
            yield answer.iter_lines()
