"""A model that is a Python class: `load(path)`, `predict(inputs)` and, if it likes, `stream(inputs)` and `unload()`."""

from __future__ import annotations

import contextlib
import importlib
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from hostler.runner.model_server.served import ModelError
from hostler.runner.model_server.tensors import (
    Tensor,
    TensorSpec,
    Wanted,
    datatype_of,
    measure,
    nest,
)
from hostler.spec.errors import HostlerError

_NUMPY_DATATYPES = {
    "bool": "BOOL",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    **{f"{sign}int{size}": f"{sign.upper()}INT{size}" for sign in ("", "u") for size in (8, 16, 32, 64)},
}


class PythonServed:
    """An instance of the model's class. One call at a time unless its `concurrency` says that it stands more."""

    platform = "python"
    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()

    def __init__(self, instance: Any) -> None:
        self._model = instance
        self.concurrency = max(1, int(getattr(instance, "concurrency", 1)))

    @classmethod
    def load(cls, folder: Path, *, entry: str) -> PythonServed:
        """Import `module:Class` from the model's folder, make one and load it. What it raises goes through."""
        module_name, _, class_name = entry.partition(":")
        sys.path.insert(0, str(folder))
        model_class = getattr(importlib.import_module(module_name), class_name)
        instance = model_class()
        if not callable(getattr(instance, "predict", None)):
            raise TypeError(f"class {class_name} has no method predict(inputs)")
        load: Callable[[str], object] | None = getattr(instance, "load", None)
        if load is not None:
            load(str(folder))
        return cls(instance)

    def predict(self, body: dict[str, Any]) -> Any:
        with _reported():
            return self._model.predict(body)

    def stream(self, body: dict[str, Any]) -> Iterator[Any] | None:
        streaming: Callable[[dict[str, Any]], Iterator[Any]] | None = getattr(self._model, "stream", None)
        return _items(streaming, body) if streaming is not None else None

    def infer(self, tensors: Sequence[Tensor], wanted: Wanted) -> list[Tensor]:
        """The tensors go to `predict` as nested lists by name; each value it returns becomes a tensor again."""
        answer = self.predict({tensor.name: nest(tensor.flat(), tensor.shape) for tensor in tensors})
        named = cast("dict[str, Any]", answer) if isinstance(answer, dict) else {"output": answer}
        with _reported():
            return [_tensor(name, named[name]) for name in wanted.select(list(named))]

    def unload(self) -> None:
        unload: Callable[[], object] | None = getattr(self._model, "unload", None)
        if unload is not None:
            with _reported():
                unload()


def _items(streaming: Callable[[dict[str, Any]], Iterator[Any]], body: dict[str, Any]) -> Generator[Any]:
    with _reported():
        yield from streaming(body)


def _tensor(name: str, value: Any) -> Tensor:
    datatype = _NUMPY_DATATYPES.get(str(getattr(value, "dtype", "")))
    shape, values = measure(name, value.tolist() if hasattr(value, "tolist") else value)
    return Tensor(name, datatype or datatype_of(name, values), shape, values=values)


@contextlib.contextmanager
def _reported() -> Generator[None]:
    """What the model's code raises becomes a `ModelError`; its traceback goes into the log."""
    try:
        yield
    except (HostlerError, GeneratorExit):
        raise
    except Exception as error:  # the model's code is not ours, so anything may come
        traceback.print_exc()
        raise ModelError(f"{type(error).__name__}: {error}") from error
