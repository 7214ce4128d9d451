"""Golden requests with the answers of two versions: what an answer of either is compared with.

Between SavedModel and client on the walk SavedModel -> server -> client. They are what versions of random_model.py
bring for their warm-up, at every number of rows up to theirs.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from benchmarks.raw_client import predict_body
from vit22b import signature
from vit22b.difference import difference

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Golden:
    """A request and its answers.

    Attributes:
        signature: that it asks.
        inputs: by name.
        odd, even: the answer of versions with an odd number, and of those with an even one, by output.
    """

    signature: str
    inputs: Arrays
    odd: Arrays
    even: Arrays

    @property
    def rows(self) -> int:
        """Of the batch; 0 where there is no input."""
        return next((len(value) for value in self.inputs.values()), 0)

    @property
    def name(self) -> str:
        """Signature and rows."""
        return f"{self.signature} {self.rows}" if self.inputs else self.signature

    def of(self, version: int) -> Arrays:
        """The answer of a version."""
        return self.odd if version % 2 else self.even

    def first(self, rows: int) -> "Golden":
        """The same with its first rows alone."""
        parts = (
            {name: value[:rows] for name, value in arrays.items()} for arrays in (self.inputs, self.odd, self.even)
        )
        return Golden(self.signature, *parts)

    def request(self, model: str, **inputs: npt.NDArray[Any]) -> predict_pb2.PredictRequest:
        """The message for a model; `inputs` take the place of some."""
        message = predict_pb2.PredictRequest()
        message.model_spec.name, message.model_spec.signature_name = model, self.signature
        for name, value in {**self.inputs, **inputs}.items():
            message.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        return message

    def body(self, **inputs: npt.NDArray[Any]) -> dict[str, Any]:
        """The same as REST takes it."""
        return predict_body(self.signature, {**self.inputs, **inputs})

    def wrong(self, version: int, outputs: Arrays) -> str:
        """What is wrong with a version's answer, "" if nothing is."""
        return difference(self.of(version), outputs).problem

    def wrong_of_either(self, outputs: Arrays) -> str:
        """What is wrong with an answer of a version that is not known."""
        one, other = self.wrong(1, outputs), self.wrong(2, outputs)
        return f"{one}, and {other}" if one and other else ""


def read(odd: Path, even: Path) -> list[Golden]:
    """What two versions of the same signatures bring, at every number of rows."""
    found = []
    for one, other in zip(_logs(odd), _logs(even), strict=True):
        whole = Golden(
            one.request.model_spec.signature_name,
            _arrays(one.request.inputs),
            _arrays(one.response.outputs),
            _arrays(other.response.outputs),
        )
        found += [whole.first(rows) for rows in range(1, whole.rows + 1)] if whole.rows else [whole]
    return found


def _logs(version: Path) -> Iterator[prediction_log_pb2.PredictLog]:
    for record in tf.data.TFRecordDataset(str(version / signature.WARMUP_FILE)):
        yield prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log


def _arrays(protos: Mapping[str, Any]) -> Arrays:
    return {name: tf.make_ndarray(proto) for name, proto in protos.items()}
