"""Tensors without numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.runner.model_server.tensors import (
    FORMATS,
    Tensor,
    datatype_of,
    flatten,
    measure,
    nest,
    pack,
    unpack,
)
from hostler.spec.errors import InvalidRequest

NUMPY = {
    "BOOL": "?", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
    **{f"INT{8 * size}": f"<i{size}" for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": f"<u{size}" for size in (1, 2, 4, 8)},
}  # fmt: skip
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@pytest.mark.parametrize("datatype", FORMATS)
def test_raw_bytes_are_those_of_numpy(datatype: str) -> None:
    array = np.array([0, 1, 1, 0], dtype=NUMPY[datatype])
    tensor = Tensor("t", datatype, (4,), values=array.tolist())
    assert tensor.raw() == array.tobytes()
    assert Tensor("t", datatype, (4,), binary=array.tobytes()).flat() == array.tolist()


@given(st.lists(st.one_of(st.text(), st.binary())))
def test_bytes_survive_the_way_there_and_back(values: list[str | bytes]) -> None:
    tensor = Tensor("t", "BYTES", (len(values),))
    found = unpack(tensor, pack(tensor, values))
    assert [item.encode() if isinstance(item, str) else item for item in found] == [
        item.encode() if isinstance(item, str) else item for item in values
    ]


@given(st.binary(max_size=40), st.integers(0, 5))
def test_damaged_bytes_are_refused_and_never_misread(raw: bytes, elements: int) -> None:
    tensor = Tensor("t", "BYTES", (elements,))
    try:
        found = unpack(tensor, raw)
    except InvalidRequest:
        return
    assert pack(tensor, found) == raw


@given(SHAPES)
def test_nesting_and_flattening_are_inverse(shape: tuple[int, ...]) -> None:
    values = list(range(math.prod(shape)))
    nested = nest(values, shape) if values else np.zeros(shape).tolist()
    assert nested == np.array(values).reshape(shape).tolist()
    assert flatten("t", nested, shape) == values
    if values:
        assert measure("t", nested) == (shape, values)


@pytest.mark.parametrize("data", [[[1], 2], [1, 2, 3], [[1, 2], [3]]])
def test_uneven_or_miscounted_data_is_refused(data: Any) -> None:
    with pytest.raises(InvalidRequest, match="'t'"):
        flatten("t", data, (2, 1))


def test_a_value_that_does_not_fit_names_its_tensor_and_type() -> None:
    with pytest.raises(InvalidRequest, match=r"'t'.*INT8"):
        Tensor("t", "INT8", (1,), values=[300]).raw()


@pytest.mark.parametrize(
    ("values", "datatype"),
    [([True], "BOOL"), ([1, 2], "INT64"), ([1, 2.5], "FP64"), (["a"], "BYTES"), ([b"a", "b"], "BYTES"), ([], "FP64")],
)
def test_python_values_have_a_datatype(values: list[Any], datatype: str) -> None:
    assert datatype_of("t", values) == datatype


@pytest.mark.parametrize("values", [[None], [{}], [1, "a"]])
def test_other_values_are_no_tensor(values: list[Any]) -> None:
    with pytest.raises(ValueError, match="'t'"):
        datatype_of("t", values)
