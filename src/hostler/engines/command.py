"""Any program that listens on `$PORT`."""

from __future__ import annotations

from collections.abc import Sequence

from hostler.engines.cards import files_of, probe_of, warmup_of
from hostler.engines.engine import LaunchRequest
from hostler.engines.model_server import TOKEN_VARIABLE
from hostler.spec.errors import InvalidRequest
from hostler.spec.launch import LaunchSpec
from hostler.spec.memory import NOTHING_KEPT, WorkingSet
from hostler.spec.version import ModelVersion


class Command:
    """The card's command, run in the model's folder. Ready once it takes connections, or as the card says."""

    name = "command"
    protocols = ("any",)

    def accepts(self, version: ModelVersion) -> str | None:
        return "the card gives a command" if version.card.command else None

    def working_set(
        self,
        version: ModelVersion,  # noqa: ARG002 - not known
        *,
        context_length: int | None,  # noqa: ARG002
        args: Sequence[str] = (),  # noqa: ARG002
    ) -> WorkingSet:
        return NOTHING_KEPT

    def launch(self, version: ModelVersion, request: LaunchRequest) -> LaunchSpec:
        command = version.card.command
        if not command:
            raise InvalidRequest(
                f"model {version.model!r} gives no command, which engine command needs.",
                hint="Write command: [program, argument, ...] into the card; the program listens on $PORT.",
                param="command",
                code="engine_does_not_fit",
            )
        return LaunchSpec(
            engine=self.name,
            served_name=request.served_name,
            argv=(*(_with_port(part) for part in command), *request.args),
            env=dict(request.env),
            files=files_of(version),
            version_digest=version.digest,
            readiness=probe_of(version, request, path=""),
            warmup=warmup_of(version),
            token_env=TOKEN_VARIABLE,
            drain_timeout_s=request.drain_timeout_s,
        )


def _with_port(part: str) -> str:
    """No shell reads the command, so the two variables that people write are put in here."""
    for name, place in (("PORT", "{port}"), ("HOST", "{host}")):
        part = part.replace("${" + name + "}", place)
        if part == f"${name}" or part.endswith((f":${name}", f"=${name}")):
            part = part[: -len(name) - 1] + place
    return part
