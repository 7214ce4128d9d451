"""Classify and Regress over REST: the JSON body of a request to tf.Examples, and results to the body of the answer.

Between the HTTP request and answers.py on the way client -> server -> SavedModel. Checks, their order and their texts
are TensorFlow Serving's.
"""

from typing import Any

import numpy as np
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow_serving.apis import classification_pb2, regression_pb2

from serving import json_writer, rest_body
from serving.json_reader import Repeated
from serving.json_tensor import decode_base64
from serving.json_tokens import encode
from serving.rest_body import is_base64, malformed, proper, type_name
from serving.status import invalid

_INT64_MIN, _INT64_MAX, _UINT64_MAX = -(2**63), 2**63 - 1, 2**64 - 1
_KINDS = {"bytes_list": "bytes", "float_list": "float", "int64_list": "int64"}


def parse(content: bytes, request: classification_pb2.ClassificationRequest | regression_pb2.RegressionRequest) -> None:
    """Fills a request with the signature and the examples of a body.

    Raises:
        tf.errors.InvalidArgumentError: the body is none of Classify or Regress.
    """
    document = rest_body.parse(content)
    request.model_spec.signature_name = rest_body.signature_name(document)
    batch = request.input.example_list
    if "context" in document:
        batch = request.input.example_list_with_context
        _fill(batch.context, document["context"])
        batch.context.SetInParent()
    examples = document.get("examples")
    if "examples" not in document:
        raise malformed(document, "When method is classify, key 'examples' is expected and was not found")
    if not isinstance(examples, list):
        raise malformed(document, "Expecting 'examples' value to be an list/array")
    if not examples:
        raise malformed(document, "'examples' value is an empty array")
    for example in examples:
        _fill(batch.examples.add(), example)


def write_classifications(result: classification_pb2.ClassificationResult) -> bytes:
    """The body of an answer: a list of [label, score] for every example.

    Raises:
        tf.errors.InvalidArgumentError: there is no result.
    """
    if not result.classifications:
        raise invalid("Cannot convert empty ClassificationResults to JSON")
    rows = []
    for classifications in result.classifications:
        scores = json_writer.elements(np.array([found.score for found in classifications.classes], np.float32))
        labels = [json_writer.string(found.label) for found in classifications.classes]
        rows.append(", ".join(f"[{label}, {score}]" for label, score in zip(labels, scores, strict=True)))
    return encode('{\n    "results": [' + ", ".join(f"[{row}]" for row in rows) + "\n    ]\n}")


def write_regressions(result: regression_pb2.RegressionResult) -> bytes:
    """The body of an answer: a value for every example.

    Raises:
        tf.errors.InvalidArgumentError: there is no result.
    """
    if not result.regressions:
        raise invalid("Cannot convert empty RegressionResults to JSON")
    values = json_writer.elements(np.array([regression.value for regression in result.regressions], np.float32))
    return encode(f'{{\n    "results": [{", ".join(values)}]\n}}')


def _fill(example: example_pb2.Example, value: Any) -> None:
    """Makes an Example of a JSON object."""
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {type_name(value)}")
    for name, content in value.members if isinstance(value, Repeated) else value.items():
        feature = feature_pb2.Feature()
        values = content if isinstance(content, list) else [content]
        if set(map(type, values)) == {float}:
            feature.float_list.value.extend(values)
        else:
            for element in values:
                _add(feature, name, element)
        example.features.feature[proper(name)].CopyFrom(feature)


def _add(feature: feature_pb2.Feature, name: str, value: Any) -> None:
    """Adds a value to a feature, all of whose values are of one kind."""
    kind, element = _element(name, value)
    present = feature.WhichOneof("kind")
    if present not in (None, kind):
        raise invalid(f"Unexpected element type in feature: {name} expecting type: {_KINDS[present]}")
    if isinstance(element, int) and element > _INT64_MAX:
        raise invalid(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
    if element is None:
        raise invalid("Unable to base64 decode")
    getattr(feature, kind).value.append(element)


def _element(name: str, value: Any) -> tuple[str, bytes | float | int | None]:
    """A value's kind, and what a feature holds of it; None for base64 that is none."""
    if isinstance(value, str):
        return "bytes_list", encode(value)
    if is_base64(value):
        return "bytes_list", decode_base64(value["b64"])
    if value is None or isinstance(value, dict | list):
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {type_name(value)}")
    if isinstance(value, float) or not _INT64_MIN <= value <= _UINT64_MAX:
        return "float_list", float(value)
    return "int64_list", int(value)
