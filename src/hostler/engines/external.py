"""A provider's OpenAI-compatible service: called, never run."""

from __future__ import annotations

from collections.abc import Sequence

from hostler.engines.engine import LaunchRequest
from hostler.spec.errors import InvalidRequest
from hostler.spec.launch import LaunchSpec
from hostler.spec.memory import NOTHING_KEPT, WorkingSet
from hostler.spec.version import ModelVersion


class External:
    """Requests go to the provider's address with the provider's model name and key."""

    name = "external"
    protocols = ("openai",)

    def accepts(self, version: ModelVersion) -> str | None:
        return "the card names a provider" if version.card.external is not None else None

    def working_set(
        self,
        version: ModelVersion,  # noqa: ARG002 - keeps none here
        *,
        context_length: int | None,  # noqa: ARG002
        args: Sequence[str] = (),  # noqa: ARG002
    ) -> WorkingSet:
        return NOTHING_KEPT

    def launch(self, version: ModelVersion, request: LaunchRequest) -> LaunchSpec:  # noqa: ARG002 - nothing runs
        raise InvalidRequest(
            f"model {version.model!r} is a provider's service, so nothing runs here for it.",
            hint="Deploy it without replicas; requests go to the provider.",
            param="engine",
            code="nothing_to_run",
        )
