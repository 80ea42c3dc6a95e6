"""Deployments of a platform, their logs, and events."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager

from hostler.client.connection import Connection
from hostler.spec.deployment import DeploymentSpec
from hostler.spec.documents import validated
from hostler.spec.resources import (
    API_PREFIX,
    DeploymentResource,
    DiffResource,
    EventResource,
    RollbackRequest,
    ScaleRequest,
)

_ROOT = f"{API_PREFIX}/deployments"


class Deployments:
    """The routes under `/deployments`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> list[DeploymentResource]:
        return self._connection.fetch(list[DeploymentResource], "GET", _ROOT)

    def get(self, name: str) -> DeploymentResource:
        return self._connection.fetch(DeploymentResource, "GET", f"{_ROOT}/{name}")

    def apply(self, spec: DeploymentSpec, *, dry_run: bool = False) -> DeploymentResource:
        """Make the deployment so; checked before anything starts. Idempotent: `changed` is false if it was so."""
        return self._connection.fetch(
            DeploymentResource,
            "PUT",
            f"{_ROOT}/{spec.name}",
            params={"dry_run": "true" if dry_run else None},
            body=spec,
        )

    def delete(self, name: str) -> DeploymentResource:
        """Drain its replicas, stop them, forget it. Returns at once; `get` raises `NotFound` when it is gone."""
        return self._connection.fetch(DeploymentResource, "DELETE", f"{_ROOT}/{name}")

    def scale(
        self,
        name: str,
        replicas: int | None = None,
        *,
        min_replicas: int | None = None,
        max_replicas: int | None = None,
    ) -> DeploymentResource:
        """Want `replicas`, whatever the traffic; or follow the traffic within bounds, one of which may be left out."""
        given = {"replicas": replicas, "min_replicas": min_replicas, "max_replicas": max_replicas}
        wanted = {bound: number for bound, number in given.items() if number is not None}
        return self._connection.fetch(
            DeploymentResource, "POST", f"{_ROOT}/{name}/scale", body=validated(ScaleRequest, wanted)
        )

    def stop(self, name: str) -> DeploymentResource:
        return self._connection.fetch(DeploymentResource, "POST", f"{_ROOT}/{name}/stop")

    def start(self, name: str) -> DeploymentResource:
        """Run it again; a crash loop is forgiven."""
        return self._connection.fetch(DeploymentResource, "POST", f"{_ROOT}/{name}/start")

    def promote(self, name: str) -> DeploymentResource:
        """Let a rollout go on without further waiting: the steps of a canary, the old side of a blue-green switch."""
        return self._connection.fetch(DeploymentResource, "POST", f"{_ROOT}/{name}/promote")

    def rollback(self, name: str, *, to: int | None = None) -> DeploymentResource:
        """Go back to revision `to`, or to the one that served before; a rollout that is going on is given up."""
        return self._connection.fetch(
            DeploymentResource, "POST", f"{_ROOT}/{name}/rollback", body=RollbackRequest(to=to)
        )

    def diff(self, spec: DeploymentSpec) -> DiffResource:
        """What `apply` would do; nothing is changed."""
        return self._connection.fetch(DiffResource, "POST", f"{_ROOT}/{spec.name}/diff", body=spec)

    @contextmanager
    def logs(
        self, name: str, *, replica: str | None = None, lines: int = 100, follow: bool = False
    ) -> Generator[Iterator[str]]:
        """The engines' last lines; with `follow` new ones too, without end while a replica lives."""
        with self._connection.stream(
            "GET",
            f"{_ROOT}/{name}/logs",
            params={"replica": replica, "lines": lines, "follow": "true" if follow else None},
            endless=follow,
        ) as answer:
            yield answer.iter_lines()


class Events:
    """What happened, oldest first."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(
        self, *, kind: str | None = None, name: str | None = None, after: int | None = None, limit: int = 100
    ) -> list[EventResource]:
        """The newest `limit` events; the first `limit` past the id `after` if that is given."""
        return self._connection.fetch(
            list[EventResource],
            "GET",
            f"{API_PREFIX}/events",
            params={"kind": kind, "name": name, "after": after, "limit": limit},
        )
