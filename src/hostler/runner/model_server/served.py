"""The core under the protocols: what the server asks of a model, whatever it is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from hostler.runner.model_server.tensors import Tensor, TensorSpec, Wanted


class ModelError(Exception):
    """The model's own code failed; the message has the exception's type and text, the traceback is in the log."""


class ServedModel(Protocol):
    """A loaded model. Methods block and run in worker threads; they raise `InvalidRequest` or `ModelError`."""

    platform: str
    inputs: Sequence[TensorSpec]
    """Empty if any input is taken."""
    outputs: Sequence[TensorSpec]
    concurrency: int
    """Calls it may get at once."""

    def infer(self, tensors: Sequence[Tensor], wanted: Wanted) -> list[Tensor]:
        """Outputs for named inputs."""
        ...

    def predict(self, body: dict[str, Any]) -> Any:
        """A JSON value for a JSON object."""
        ...

    def stream(self, body: dict[str, Any]) -> Iterator[Any] | None:
        """JSON values one by one; None if the model does not stream."""
        ...

    def unload(self) -> None:
        """Give back what the model holds."""
        ...
