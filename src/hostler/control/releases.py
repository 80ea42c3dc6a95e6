"""From one revision of a deployment to another: what a person asks for, as the record that is to be remembered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from hostler.control.diffs import changes_of, course_of
from hostler.control.rollouts import abandoned, changed_to, earlier, going_on, respecified
from hostler.engines import catalog as engines
from hostler.spec.deployment import DeploymentSpec
from hostler.spec.errors import Conflict, NotFound
from hostler.spec.resources import DiffResource
from hostler.store.deployments import Remembered
from hostler.store.records import DeploymentRecord, ReplicaRecord, RevisionTemplate

Templates = Mapping[int, RevisionTemplate]


def check_sharing(spec: DeploymentSpec, template: RevisionTemplate, others: Iterable[Remembered]) -> None:
    """Raise `Conflict` if `spec` cannot be behind its endpoint beside `others`.

    To share an endpoint must be meant: it takes a weight. And its requests must fit all who may get them.
    """
    for other in others:
        theirs = other.templates[other.record.revision]
        if "weight" not in spec.model_fields_set:
            raise Conflict(
                f"endpoint: {spec.endpoint_name!r} belongs to the deployment {other.record.name!r}.",
                hint="Give this one another with --endpoint, or a weight, to share it.",
                param="endpoint",
                code="endpoint_taken",
            )
        if (template.task, _protocols(template)) != (theirs.task, _protocols(theirs)):
            raise Conflict(
                f"endpoint: {spec.endpoint_name!r} belongs to the deployment {other.record.name!r}, which does "
                f"{theirs.task} on {theirs.engine}; {spec.name} does {template.task} on {template.engine}.",
                hint="Only deployments that take the same requests can share an endpoint.",
                param="endpoint",
                code="endpoint_taken",
            )


def changed(
    before: DeploymentRecord,
    spec: DeploymentSpec,
    template: RevisionTemplate,
    *,
    templates: Templates,
    replicas: Sequence[ReplicaRecord],
    now: float,
) -> tuple[DeploymentRecord, bool]:
    """The deployment once it is as `spec` says, and whether that is a revision which there was not."""
    current = templates.get(before.revision)
    if current is not None and current.runs_as(template):
        return replace(before, spec=spec), False
    rollout = going_on(before)
    stable = templates.get(rollout.from_revision) if rollout is not None else None
    if rollout is not None and stable is not None and stable.runs_as(template):
        record = abandoned(before, templates, f"Revision {rollout.from_revision} was deployed again.")
        return replace(record, spec=spec), False
    number = max(templates, default=0) + 1
    return changed_to(before, spec, number, replicas, strategy=spec.update.strategy, now=now), True


def revision_to_go_back_to(
    record: DeploymentRecord, templates: Templates, *, to: int | None
) -> tuple[int, RevisionTemplate]:
    """Revision `to`, or the one that served before. Raises `NotFound`, or `Conflict` if there is none before."""
    rollout = going_on(record)
    number = to
    if number is None:
        number = rollout.from_revision if rollout is not None else earlier(record, templates)
    if number is None:
        raise Conflict(
            f"{record.name} has no earlier revision.", hint="Deploy it with other settings.", code="no_earlier"
        )
    if number not in templates:
        raise NotFound(
            f"{record.name} has no revision {number}.",
            hint=f"It has {', '.join(map(str, sorted(templates)))}.",
            param="to",
            code="revision_not_found",
        )
    return number, templates[number]


def gone_back(
    before: DeploymentRecord, number: int, *, templates: Templates, replicas: Sequence[ReplicaRecord], now: float
) -> DeploymentRecord:
    """The deployment on its way back to revision `number`, which ends a rollout that is going on."""
    rollout = going_on(before)
    if rollout is not None and rollout.from_revision == number:
        return abandoned(before, templates, "A person rolled it back.")
    if number == before.revision:
        return before
    spec = respecified(before.spec, templates[number])
    # It has been seen to work: it needs no steps.
    strategy = "rolling" if spec.update.strategy == "canary" else spec.update.strategy
    return changed_to(before, spec, number, replicas, strategy=strategy, now=now)


def diff_of(
    before: DeploymentRecord | None,
    spec: DeploymentSpec,
    template: RevisionTemplate,
    *,
    templates: Templates,
    replicas: Sequence[ReplicaRecord],
    now: float,
) -> DiffResource:
    """What applying `spec` would do."""
    if before is None:
        course = course_of(spec.update, revision=1, replaces=None, wanted=spec.replicas)
        changes = changes_of(None, (spec, template))
        return DiffResource(name=spec.name, exists=False, changes=changes, new_revision=True, revision=1, course=course)
    after, new_revision = changed(before, spec, template, templates=templates, replicas=replicas, now=now)
    rollout = going_on(after)
    course = "Nothing is replaced."
    if after.revision != before.revision:
        replaces = rollout.from_revision if rollout is not None else None
        course = course_of(spec.update, revision=after.revision, replaces=replaces, wanted=after.wanted)
    return DiffResource(
        name=spec.name,
        exists=True,
        changes=changes_of((before.spec, templates[before.revision]), (spec, template)),
        new_revision=new_revision,
        revision=after.revision,
        course=course,
    )


def _protocols(template: RevisionTemplate) -> frozenset[str]:
    return frozenset(engines.get(template.engine).protocols)
