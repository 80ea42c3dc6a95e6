"""A model that is an ONNX graph, run by ONNX Runtime with its own operators only."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime  # pyright: ignore[reportMissingTypeStubs]

from hostler.runner.model_server.served import ModelError
from hostler.runner.model_server.tensors import BYTES, Tensor, TensorSpec, Wanted, check_size, split_bytes
from hostler.spec.errors import InvalidRequest

ort: Any = onnxruntime

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": BYTES,
    **{f"tensor({kind}{size})": f"{kind.upper()}{size}" for kind in ("int", "uint") for size in (8, 16, 32, 64)},
}
_NUMPY: Mapping[str, Any] = {
    "BOOL": np.bool_,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    BYTES: np.object_,
    **{f"{kind.upper()}{size}": np.dtype(f"{kind}{size}") for kind in ("int", "uint") for size in (8, 16, 32, 64)},
}
_CONCURRENCY = 4


class OnnxServed:
    """A session, which several threads may run at once."""

    platform = "onnxruntime_onnx"
    concurrency = _CONCURRENCY

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs: Sequence[TensorSpec] = tuple(_spec(place) for place in session.get_inputs())
        self._all_outputs = tuple(place.name for place in session.get_outputs())
        # Maps and sequences are no tensors: `/predict` shows them, the inference protocol cannot.
        self.outputs: Sequence[TensorSpec] = tuple(
            _spec(place) for place in session.get_outputs() if place.type in _DATATYPES
        )

    @classmethod
    def load(cls, folder: Path, *, entry: str, threads: int | None) -> OnnxServed:
        """Open the graph `entry` in `folder`. What ONNX Runtime raises goes through."""
        options = ort.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        return cls(ort.InferenceSession(str(folder / entry), options, providers=["CPUExecutionProvider"]))

    def infer(self, tensors: Sequence[Tensor], wanted: Wanted) -> list[Tensor]:
        names = wanted.select([spec.name for spec in self.outputs])
        feeds = self._feeds({tensor.name: _array(tensor) for tensor in tensors})
        results = self._run(names, feeds)
        datatypes = {spec.name: spec.datatype for spec in self.outputs}
        return [
            _tensor(name, datatypes[name], np.asarray(result), binary=wanted.binary(name))
            for name, result in zip(names, results, strict=True)
        ]

    def predict(self, body: dict[str, Any]) -> Any:
        """`{"inputs": {name: nested lists}}` to `{"outputs": {name: nested lists}}`; a lone input needs no name."""
        inputs: Any = body.get("inputs")
        if inputs is None:
            raise InvalidRequest(
                "inputs: this field is required.", hint='Send {"inputs": {name: nested lists}}.', param="inputs"
            )
        given: dict[str, Any]
        if isinstance(inputs, dict):
            given = cast("dict[str, Any]", inputs)
        else:
            if len(self.inputs) != 1:
                raise InvalidRequest(
                    "inputs: the model has several; give each by its name.", hint=self._takes(), param="inputs"
                )
            given = {self.inputs[0].name: inputs}
        specs = {spec.name: spec for spec in self.inputs}
        arrays: dict[str, Any] = {}
        for name, value in given.items():
            spec = specs.get(name)
            if spec is None:
                raise self._unknown(name)
            try:
                arrays[spec.name] = np.asarray(value, dtype=_NUMPY[spec.datatype])
            except (ValueError, TypeError, OverflowError) as error:
                raise InvalidRequest(
                    f"input {spec.name!r}: the values are no {spec.datatype} tensor: {error}.", param="inputs"
                ) from error
        results = self._run(self._all_outputs, self._feeds(arrays))
        return {"outputs": {name: _plain(result) for name, result in zip(self._all_outputs, results, strict=True)}}

    def stream(self, body: dict[str, Any]) -> Iterator[Any] | None:  # noqa: ARG002 - a graph answers at once
        return None

    def unload(self) -> None:
        """The session goes with the process: calls that still run must find it."""

    def _feeds(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        known = {spec.name for spec in self.inputs}
        for name in arrays:
            if name not in known:
                raise self._unknown(name)
        feeds: dict[str, Any] = {}
        for spec in self.inputs:
            array = arrays.get(spec.name)
            if array is None:
                raise InvalidRequest(f"input {spec.name!r} is missing.", hint=self._takes(), param="inputs")
            if array.dtype != _NUMPY[spec.datatype]:
                given = next((name for name, kind in _NUMPY.items() if array.dtype == kind), str(array.dtype))
                raise InvalidRequest(
                    f"input {spec.name!r}: datatype {given} given, {spec.datatype} expected.", param="inputs"
                )
            if not _fits(array.shape, spec.shape):
                raise InvalidRequest(
                    f"input {spec.name!r}: shape {list(array.shape)} given, {list(spec.shape)} expected "
                    "(-1 is any size).",
                    param="inputs",
                )
            feeds[spec.name] = array
        return feeds

    def _run(self, names: Sequence[str], feeds: Mapping[str, Any]) -> Any:
        try:
            return self._session.run(list(names), dict(feeds))
        except Exception as error:  # ONNX Runtime's errors share no class
            traceback.print_exc()
            raise ModelError(f"{type(error).__name__}: {error}") from error

    def _unknown(self, name: str) -> InvalidRequest:
        return InvalidRequest(f"input {name!r} is not known.", hint=self._takes(), param="inputs")

    def _takes(self) -> str:
        shown = ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in self.inputs)
        return f"The model takes: {shown}."


def _spec(place: Any) -> TensorSpec:
    datatype = _DATATYPES.get(place.type)
    if datatype is None:
        raise TypeError(f"input or output {place.name!r} of type {place.type} cannot be served")
    return TensorSpec(place.name, datatype, tuple(size if isinstance(size, int) else -1 for size in place.shape))


def _fits(given: Sequence[int], expected: Sequence[int]) -> bool:
    return len(given) == len(expected) and all(want in (-1, size) for size, want in zip(given, expected, strict=True))


def _array(tensor: Tensor) -> Any:
    kind = _NUMPY[tensor.datatype]
    if tensor.binary is not None:
        if tensor.datatype == BYTES:
            items: list[Any] = [item.decode(errors="surrogateescape") for item in split_bytes(tensor, tensor.binary)]
            return np.array(items, dtype=np.object_).reshape(tensor.shape)
        check_size(tensor, tensor.binary)
        return np.frombuffer(tensor.binary, dtype=kind).reshape(tensor.shape)
    try:
        return np.array(tensor.flat(), dtype=kind).reshape(tensor.shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidRequest(
            f"input {tensor.name!r}: a value is no {tensor.datatype}: {error}.", param="inputs"
        ) from error


def _tensor(name: str, datatype: str, array: Any, *, binary: bool) -> Tensor:
    shape = tuple(array.shape)
    if binary and datatype != BYTES:
        return Tensor(name, datatype, shape, binary=np.ascontiguousarray(array).tobytes())
    return Tensor(name, datatype, shape, values=array.ravel().tolist())


def _plain(result: Any) -> Any:
    return result.tolist() if hasattr(result, "tolist") else result
