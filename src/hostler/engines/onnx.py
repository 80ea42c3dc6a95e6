"""ONNX Runtime, behind Hostler's model server."""

from __future__ import annotations

from collections.abc import Sequence

from hostler.engines.engine import LaunchRequest
from hostler.engines.model_server import model_server_launch
from hostler.spec.errors import InvalidRequest
from hostler.spec.launch import LaunchSpec
from hostler.spec.memory import NOTHING_KEPT, WorkingSet
from hostler.spec.version import ModelFormat, ModelVersion


class Onnx:
    """ONNX graphs with the standard operators, on the CPU."""

    name = "onnx"
    protocols = ("oip", "predict")

    def accepts(self, version: ModelVersion) -> str | None:
        if version.facts.format is not ModelFormat.ONNX:
            return None
        return "the model is an ONNX graph, which ONNX Runtime runs"

    def working_set(
        self,
        version: ModelVersion,  # noqa: ARG002 - keeps none
        *,
        context_length: int | None,  # noqa: ARG002
        args: Sequence[str] = (),  # noqa: ARG002
    ) -> WorkingSet:
        return NOTHING_KEPT

    def launch(self, version: ModelVersion, request: LaunchRequest) -> LaunchSpec:
        entry = version.facts.entry
        if version.facts.format is not ModelFormat.ONNX or entry is None:
            raise InvalidRequest(
                f"model {version.model!r} has no ONNX file, which engine onnx needs.",
                hint="Add one, or choose another engine.",
                param="engine",
                code="engine_does_not_fit",
            )
        found = request.installation
        python = "{python}" if found is None else found.interpreter
        return model_server_launch(version, request, kind=self.name, python=python, arguments=("--entry", entry))
