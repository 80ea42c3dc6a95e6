"""What a change of a deployment would do, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

from hostler.spec.deployment import DeploymentSpec
from hostler.spec.names import short_digest
from hostler.spec.resources import FieldChange
from hostler.spec.update import Update
from hostler.store.records import RevisionTemplate


def changes_of(
    before: tuple[DeploymentSpec, RevisionTemplate] | None, after: tuple[DeploymentSpec, RevisionTemplate]
) -> tuple[FieldChange, ...]:
    """The fields that differ, by their place in the file, and the version if that is what differs."""
    old = dict(_flat("", before[0].model_dump(mode="json"))) if before is not None else {}
    new = dict(_flat("", after[0].model_dump(mode="json")))
    for flat in (old, new):
        flat.pop("model", None)
    found = [("model", _version(before[1]) if before is not None else "", _version(after[1]))]
    found += [(place, old.get(place, ""), new.get(place, "")) for place in sorted({*old, *new})]
    return tuple(FieldChange(field=place, before=a, after=b) for place, a, b in found if a != b)


def course_of(update: Update, *, revision: int, replaces: int | None, wanted: int) -> str:
    """In a sentence, how a new revision would come to run."""
    if replaces is None:
        return f"Revision {revision} is started at once: nothing serves that it could take the place of."
    if update.strategy == "blue_green":
        return (
            f"Revision {revision} starts {wanted} replicas beside those of revision {replaces}; once all are ready the "
            f"requests go over, and revision {replaces} is kept for {update.kept_s:g} s."
        )
    if update.strategy == "canary":
        steps = ", ".join(f"{step.weight}% for {step.pause_seconds:g} s" for step in update.canary_steps)
        return (
            f"Revision {revision} gets a part of the requests: {steps}, then all of them. It is rolled back if it is "
            f"worse than revision {replaces}."
        )
    return (
        f"Revision {revision} takes the place of revision {replaces}, with {update.max_surge} replicas beyond the "
        f"{wanted} that are wanted, and {update.max_unavailable} of them missing, at the most."
    )


def _version(template: RevisionTemplate) -> str:
    return f"{template.model}@{short_digest(template.digest)}"


def _flat(place: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        inner = cast("dict[str, Any]", value)
        for key, one in inner.items():
            yield from _flat(f"{place}.{key}" if place else key, one)
    elif value is not None and value not in ({}, []):
        yield place, value if isinstance(value, str) else json.dumps(value)
