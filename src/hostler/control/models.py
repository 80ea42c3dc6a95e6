"""The verbs on models: what was pushed, its versions and aliases, and the blobs under them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from hostler.backends.backend import KeepsVersions
from hostler.control.context import Context
from hostler.registry.catalog import CorruptManifest
from hostler.registry.files import Entry
from hostler.registry.inspect import inspect_folder
from hostler.registry.scan import check, scan
from hostler.spec.errors import Conflict, DigestMismatch
from hostler.spec.names import ModelRef, check_name, check_version
from hostler.spec.resources import ModelResource, PushResult
from hostler.spec.version import ModelVersion, manifest_digest
from hostler.store import deployments, events
from hostler.store.records import NewEvent

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Models:
    """The verbs on models of one platform. All block on files."""

    context: Context

    def list(self) -> list[ModelResource]:
        """Every model with its versions, by name."""
        found: list[ModelResource] = []
        for name in self.context.catalog.names():
            try:
                found.append(self.get(name))
            except CorruptManifest as error:
                logger.warning("a model is left out of the list: %s", error)
        return found

    def get(self, name: str) -> ModelResource:
        """One model; `NotFound` suggests the nearest name."""
        catalog = self.context.catalog
        latest = catalog.resolve(ModelRef(check_name(name), "latest"))
        return ModelResource(
            name=name,
            description=latest.card.description,
            task=latest.card.task,
            aliases=dict(catalog.aliases(name)),
            versions=tuple(catalog.versions(name)),
        )

    def version(self, name: str, version: str) -> ModelVersion:
        """One version, by an alias or the start of its digest."""
        return self.context.catalog.resolve(ModelRef(check_name(name), check_version(version)))

    def push(self, name: str, version: ModelVersion, *, alias: str | None) -> PushResult:
        """Take in a version whose blobs are here. Idempotent.

        Nothing the sender says is believed: the digest is made again, the scan and the reading of the headers are
        done again. Raises `Conflict` (`missing_blobs`), `DigestMismatch`, `UnsafeModel`, `InvalidRequest`.
        """
        context = self.context
        if alias is not None:
            check_version(alias)
        if version.model != name or version.card.name != name:
            raise Conflict(
                f"model: the version is of {version.model!r}, pushed as {name!r}.", param="model", code="wrong_model"
            )
        if manifest_digest(version.card, version.files) != version.digest:
            raise DigestMismatch("digest: the manifest does not have the digest it names.", param="digest")
        if version.card.is_external:
            self._check_external_name(name)
        missing = context.blobs.missing([file.digest for file in version.files])
        if missing:
            raise Conflict(
                f"{len(missing)} of {len(version.files)} files are not here yet, first {missing[0]}.",
                hint="Send them with PUT /api/v1/blobs/DIGEST.",
                param="files",
                code="missing_blobs",
            )
        entries = [Entry(file.path, context.blobs.path(file.digest)) for file in version.files]
        check(scan(entries, version.card), allow=version.allowed)
        facts = inspect_folder(entries, card=version.card)
        checked = version.model_copy(update={"facts": facts})
        created = context.catalog.put(checked)
        if alias is not None and alias != "latest":
            context.catalog.set_alias(name, alias, version.digest)
        context.externals.refresh()
        if created:
            message = f"Version {version.digest.removeprefix('sha256:')[:12]}, {len(version.files)} files."
            self._event(name, "Pushed", message)
        self._published(name)
        return PushResult(version=checked, created=created)

    def set_alias(self, name: str, alias: str, version: str) -> ModelResource:
        """Point an alias at a version. Deployments that run stay with the version they were given."""
        target = self.version(name, version)
        self.context.catalog.set_alias(name, check_version(alias), target.digest)
        self._event(name, "AliasMoved", f"{alias} is {target.digest.removeprefix('sha256:')[:12]}.")
        self._published(name)
        return self.get(name)

    def delete_alias(self, name: str, alias: str) -> ModelResource:
        """Forget an alias; `latest` always stays."""
        self.context.catalog.delete_alias(name, alias)
        return self.get(name)

    def delete_version(self, name: str, version: str) -> None:
        """Forget a version nothing runs, and the blobs only it had."""
        target = self.version(name, version)
        self._check_unused([target])
        self.context.catalog.delete_version(name, target.digest)
        self._deleted(name, [target], f"Version {target.digest.removeprefix('sha256:')[:12]}.")

    def delete(self, name: str) -> None:
        """Forget a model nothing runs, all its versions, and the blobs only they had."""
        versions = self.get(name).versions
        self._check_unused(versions)
        self.context.catalog.delete_model(name)
        self._deleted(name, versions, f"The model and its {len(versions)} versions.")

    def _check_unused(self, versions: list[ModelVersion] | tuple[ModelVersion, ...]) -> None:
        with self.context.database.transaction() as connection:
            used = deployments.version_digests_in_use(connection)
        for version in versions:
            if version.digest in used:
                raise Conflict(
                    f"{version.model}@{version.digest.removeprefix('sha256:')[:12]} runs in the deployment "
                    f"{used[version.digest]!r}.",
                    hint=f"Delete it first with `hostler delete {used[version.digest]}`.",
                    param="version",
                    code="in_use",
                )

    def _check_external_name(self, name: str) -> None:
        with self.context.database.transaction() as connection:
            holders = deployments.names_at_endpoint(connection, name)
        if holders:
            raise Conflict(
                f"name: the endpoint {name!r} belongs to the deployment {holders[0]!r}.",
                hint="Give the external model another name.",
                param="name",
                code="endpoint_taken",
            )

    def _deleted(self, name: str, versions: Iterable[ModelVersion], message: str) -> None:
        context = self.context
        if isinstance(context.backend, KeepsVersions):
            for version in versions:
                context.backend.drop_version(version.digest)
        context.externals.refresh()
        try:
            kept = context.catalog.referenced_digests() | context.cards.referenced_digests()
            context.blobs.delete_unreferenced(kept)
        except CorruptManifest as error:
            logger.warning("no blobs are deleted while a manifest cannot be read: %s", error)
        self._event(name, "Deleted", message)
        self._published(name)

    def _published(self, name: str) -> None:
        """Wake the reconciler: an external model is an endpoint as soon as it is pushed."""
        self.context.hints.touch(name)

    def _event(self, name: str, reason: str, message: str) -> None:
        with self.context.database.transaction() as connection:
            event = NewEvent(kind="model", name=name, reason=reason, message=message)
            events.add(connection, [event], at=self.context.now())
