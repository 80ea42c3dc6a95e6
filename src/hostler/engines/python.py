"""A Python class of the model's own, behind Hostler's model server."""

from __future__ import annotations

from collections.abc import Sequence

from hostler.engines.engine import LaunchRequest
from hostler.engines.model_server import model_server_launch
from hostler.spec.launch import LaunchSpec, PythonEnvironment
from hostler.spec.memory import NOTHING_KEPT, WorkingSet
from hostler.spec.model import PythonModel
from hostler.spec.version import ModelFormat, ModelVersion

SERVER_PACKAGES = ("uvicorn>=0.32,<1", "httptools>=0.6.4,<1", "uvloop>=0.21,<1", "msgspec>=0.19,<1")
"""What the model server needs in an environment of the model's own."""


class Python:
    """A class with `load`, `predict` and, if it likes, `stream` and `unload`."""

    name = "python"
    protocols = ("predict", "oip")

    def accepts(self, version: ModelVersion) -> str | None:
        if version.card.python is not None:
            return "the card names a Python class"
        if version.facts.format is ModelFormat.PYTHON:
            return "the folder holds a Python model"
        return None

    def working_set(
        self,
        version: ModelVersion,  # noqa: ARG002 - not known
        *,
        context_length: int | None,  # noqa: ARG002
        args: Sequence[str] = (),  # noqa: ARG002
    ) -> WorkingSet:
        return NOTHING_KEPT

    def launch(self, version: ModelVersion, request: LaunchRequest) -> LaunchSpec:
        python = version.card.python or PythonModel(entry=PythonModel.model_fields["entry"].default)
        environment = None
        if python.requirements is not None or python.python is not None:
            environment = PythonEnvironment(
                packages=SERVER_PACKAGES, requirements=python.requirements, python=python.python
            )
        return model_server_launch(
            version,
            request,
            kind=self.name,
            python="{python}",
            arguments=("--entry", python.entry),
            environment=environment,
        )
