"""Predict over REST: the JSON body of a request to arrays, and arrays to the body of the answer.

Between the HTTP request and answers.py on the way client -> server -> SavedModel. A body has rows ("instances" ->
"predictions") or columns ("inputs" -> "outputs"). Checks, their order and their texts are TensorFlow Serving's.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from serving import json_tensor, json_writer, rest_body
from serving.json_tokens import encode
from serving.rest_body import is_base64, malformed
from serving.status import invalid, status_text
from serving.tensors import as_array, dtype_word, shape_text

Inputs = Mapping[str, meta_graph_pb2.TensorInfo]


@dataclasses.dataclass(frozen=True)
class Request:
    """A parsed body.

    Attributes:
        signature: that it names; empty for the default one.
        inputs: an array for each alias.
        by_row: whether the answer is wanted by row too.
    """

    signature: str
    inputs: Mapping[str, np.ndarray]
    by_row: bool


def parse(content: bytes, inputs_of: Callable[[str], Inputs]) -> Request:
    """What a body asks.

    Args:
        content: the body.
        inputs_of: the inputs of a signature; may raise what the caller shall get.

    Raises:
        tf.errors.OpError: the body is none that the signature takes.
    """
    document = rest_body.parse(content)
    signature = rest_body.signature_name(document)
    infos = inputs_of(signature)
    if not infos:
        raise invalid(f"Failed to get input map for signature: {signature or 'DEFAULT'}")
    dtypes = {alias: tf.as_dtype(info.dtype) for alias, info in sorted(infos.items())}
    if "instances" in document:
        return Request(signature, _rows(_instances(document), dtypes), by_row=True)
    if "inputs" in document:
        return Request(signature, _columns(document["inputs"], dtypes), by_row=False)
    raise invalid("Missing 'inputs' or 'instances' key")


def write(outputs: Mapping[str, np.ndarray | np.generic | bytes], *, by_row: bool) -> bytes:
    """The body of an answer.

    Raises:
        tf.errors.InvalidArgumentError: the outputs have no rows, different numbers of them, or a dtype without JSON.
    """
    arrays = {alias: as_array(value) for alias, value in outputs.items()}
    if not arrays:
        raise invalid("Cannot convert empty tensor map to JSON")
    return encode(_write_rows(arrays) if by_row else _write_columns(arrays))


def _instances(document: dict[str, Any]) -> list[Any]:
    instances = document["instances"]
    if "inputs" in document:
        raise malformed(
            document, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
        )
    if not isinstance(instances, list):
        raise malformed(document, "Expecting 'instances' to be an list/array")
    if not instances:
        raise malformed(document, "No values in 'instances' array")
    return instances


def _rows(instances: list[Any], dtypes: Mapping[str, tf.DType]) -> dict[str, np.ndarray]:
    if not isinstance(instances[0], dict) and len(dtypes) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    arrays = {alias: json_tensor.array(column, dtypes[alias]) for alias, column in _split(instances, dtypes).items()}
    if not arrays or any(array is None for array in arrays.values()):
        return _Rows(dtypes).collect(instances)
    return arrays


def _split(instances: list[Any], dtypes: Mapping[str, tf.DType]) -> dict[str, list[Any]]:
    """The column of every input; none if the rows are not all alike."""
    if not _is_object(instances[0]):
        return dict.fromkeys(dtypes, instances) if len(dtypes) == 1 else {}
    alike = set(map(type, instances)) == {dict} and all(row.keys() == dtypes.keys() for row in instances)
    if not alike or ("b64" in dtypes and any(map(is_base64, instances))):
        return {}
    return {alias: [row[alias] for row in instances] for alias in dtypes}


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


class _Rows:
    """The rows of a body, one after the other: it finds the first that is wrong."""

    def __init__(self, dtypes: Mapping[str, tf.DType]):
        self._dtypes = dtypes
        self._elements: dict[str, list[Any]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def collect(self, instances: list[Any]) -> dict[str, np.ndarray]:
        """The arrays of all rows.

        Raises:
            tf.errors.OpError: a row is wrong.
        """
        add = self._add_object if _is_object(instances[0]) else self._add_plain
        for number, row in enumerate(instances):
            add(number, row)
        return {
            alias: json_tensor.from_elements(elements, (len(instances), *self._shapes[alias]), self._dtypes[alias])
            for alias, elements in self._elements.items()
        }

    def _add_object(self, number: int, row: Any) -> None:
        if not _is_object(row):
            raise invalid(f"Expecting object but got list at item {number} of input list")
        for alias, value in row.items():
            self._add(alias, value, f"Failed to process element: {number} key: {alias} of 'instances' list.")
        if row.keys() != self._dtypes.keys():
            raise invalid(
                f"Failed to process element: {number} of 'instances' list. JSON object: {json_writer.quote(row)} keys "
                f"must be equal to: {','.join(self._dtypes)}"
            )

    def _add_plain(self, number: int, row: Any) -> None:
        if _is_object(row):
            raise invalid(f"Expecting value/list but got object at item {number} of input list")
        (alias,) = self._dtypes
        self._add(alias, row, f"Failed to process element: {number} of 'instances' list.")

    def _add(self, alias: str, value: Any, where: str) -> None:
        json_tensor.check_rank([value], alias)
        try:
            self._add_value(alias, value)
        except tf.errors.OpError as error:
            raise invalid(f"{where} Error: {status_text(error)}") from error

    def _add_value(self, alias: str, value: Any) -> None:
        if alias not in self._dtypes:
            raise invalid(f"JSON object: does not have named input: {alias}")
        elements = self._elements.setdefault(alias, [])
        before = len(elements)
        shape = json_tensor.fill(value, self._dtypes[alias], elements)
        wanted = self._shapes.setdefault(alias, shape)
        if len(elements) - before != math.prod(wanted):
            raise invalid(f"Expecting tensor size: {math.prod(wanted)} but got: {len(elements) - before}")
        if shape != wanted:
            raise invalid(f"Expecting shape {shape_text(wanted)} but got: {shape_text(shape)}")


def _columns(value: Any, dtypes: Mapping[str, tf.DType]) -> dict[str, np.ndarray]:
    if not _is_object(value):
        if len(dtypes) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        value = dict.fromkeys(dtypes, value)
    arrays = {}
    for alias, dtype in dtypes.items():
        if alias not in value:
            raise invalid(f"Missing named input: {alias} in 'inputs' object.")
        array = json_tensor.array(value[alias], dtype)
        if array is None:
            json_tensor.check_rank(value[alias], alias)
            elements: list[Any] = []
            array = json_tensor.from_elements(elements, json_tensor.fill(value[alias], dtype, elements), dtype)
        arrays[alias] = array
    return arrays


def _write_rows(arrays: Mapping[str, np.ndarray]) -> str:
    size = None
    for alias, array in arrays.items():
        if not array.ndim:
            raise invalid(f"Tensor name: {alias} has no shape information ")
        if size not in (None, len(array)):
            raise invalid(f"Tensor name: {alias} has inconsistent batch size: {len(array)} expecting: {size}")
        size = len(array)
    depth = 2 if len(arrays) == 1 else 3
    columns = {
        alias: json_writer.nest(_elements(alias, array, depth + array.ndim - 1), array.shape, outer=1)
        for alias, array in arrays.items()
    }
    if len(columns) == 1:
        (rows,) = columns.values()
        text = ", ".join(rows)
    else:
        text = ",".join(
            "\n        {"
            + ",".join(
                f"\n            {json_writer.string(alias)}: {text}" for alias, text in zip(columns, row, strict=True)
            )
            + "\n        }"
            for row in zip(*columns.values(), strict=True)
        )
    return f'{{\n    "predictions": [{text}\n    ]\n}}' if size else '{\n    "predictions": []\n}'


def _write_columns(arrays: Mapping[str, np.ndarray]) -> str:
    depth = 1 if len(arrays) == 1 else 2
    texts = {
        alias: json_writer.nest(_elements(alias, array, depth + array.ndim), array.shape, depth=depth)[0]
        for alias, array in arrays.items()
    }
    if len(texts) == 1:
        (text,) = texts.values()
    else:
        text = (
            "{"
            + ",".join(f"\n        {json_writer.string(alias)}: {text}" for alias, text in texts.items())
            + "\n    }"
        )
    return f'{{\n    "outputs": {text}\n}}'


def _elements(alias: str, array: np.ndarray, depth: int) -> list[str]:
    """The texts of an output's elements, with `depth` containers around each."""
    try:
        return json_writer.elements(array, base64_depth=depth if alias.endswith("_bytes") else None)
    except json_writer.UnwritableError as error:
        name = dtype_word(tf.as_dtype(array.dtype))
        raise invalid(f"Failed to write JSON value for tensor type: {name}") from error
