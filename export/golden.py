"""Golden requests: what a version is warmed with, and the answers that it gave when it was exported.

Between SavedModel and server on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
The file is TensorFlow Serving's warm-up file, a TFRecord of PredictionLog with one request for every signature and
allowed batch size. Servers read the requests; the responses, which TensorFlow Serving passes over, are the proof.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from vit22b import signature
from vit22b.signature import Manifest
from vit22b.tokenizer import Tokenizer

Signatures = dict[str, Callable[..., dict[str, tf.Tensor]]]
_TEXTS = ("a photo of a cat.", "two dogs on a beach", "the number seven", "ein Haus am See", "")


def requests(manifest: Manifest, tokenizer: str, model: str) -> Iterator[predict_pb2.PredictRequest]:
    """One request for every signature and allowed batch size; `describe`, which has no batch, once.

    Args:
        manifest: of the version.
        tokenizer: its tokenizer.json, or "".
        model: the name that it is served under.
    """
    for name, entry in manifest.contract().items():
        inputs = entry.inputs
        for size in manifest.batch_sizes if inputs else (0,):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model
            request.model_spec.signature_name = name
            for key in inputs:
                value = _INPUTS[key](size, manifest, tokenizer)
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value, dtype=inputs[key].dtype))
            once = name == signature.FEATURES and size == manifest.batch_sizes[0]
            if signature.TOKENS in entry.outputs and not once:
                # At 22B a batch of 32 has 50 million floats of tokens: once is enough.
                request.output_filter.extend(each for each in (signature.POOLED, signature.OK) if each in entry.outputs)
            if signature.CLASSES in entry.outputs:
                # Two classes that score alike may change places on another chip, and names have no tolerance.
                request.output_filter.append(signature.SCORES)
            yield request


def require_complete(logs: Sequence[prediction_log_pb2.PredictLog], manifest: Manifest) -> None:
    """Compares what was read with what a version has to bring: a file may end early and still read well.

    Raises:
        ValueError: a signature has no request at an allowed batch size, or a request no answer.
    """
    there = {(log.request.model_spec.signature_name, rows(log.request)) for log in logs if log.response.outputs}
    for name, entry in manifest.contract().items():
        for size in manifest.batch_sizes if entry.inputs else (0,):
            if (name, size) not in there:
                at = f" at batch size {size}" if size else ""
                raise ValueError(
                    f"the golden requests have none with an answer for signature {name}{at}; copy the version again, "
                    "or record them: export/verify.py DIR --record"
                )


def rows(request: predict_pb2.PredictRequest) -> int:
    """Batch size of a golden request; 0 where it has no input."""
    inputs = list(request.inputs.values())
    return int(inputs[0].tensor_shape.dim[0].size) if inputs else 0


def answer(signatures: Signatures, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
    """Runs a request on a version that is loaded in this process.

    Args:
        signatures: of tf.saved_model.load(...).
        request: what to run.
    """
    name = request.model_spec.signature_name
    # make_ndarray gives strings as an array of objects, which constants take.
    answers = signatures[name](**{k: tf.constant(tf.make_ndarray(v)) for k, v in request.inputs.items()})
    response = predict_pb2.PredictResponse(model_spec=request.model_spec)
    for key in request.output_filter or sorted(answers):
        response.outputs[key].CopyFrom(tf.make_tensor_proto(answers[key]))
    return response


def outputs(response: predict_pb2.PredictResponse) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a response, by output."""
    return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}


def write(path: Path, logs: Sequence[prediction_log_pb2.PredictLog]) -> None:
    """Writes the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for log in logs:
            writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())


def read(path: Path) -> list[prediction_log_pb2.PredictLog]:
    """Reads the file.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: {path.parent.parent} has no golden requests; export the model again")
    try:
        records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
        logs = [prediction_log_pb2.PredictionLog.FromString(record).predict_log for record in records]
    except (tf.errors.DataLossError, DecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}; export the model again") from error
    if not logs:  # what is too short for one record reads as none
        raise ValueError(f"{path} is damaged: it has no record; export the model again")
    return logs


def _pixels(size: int, manifest: Manifest, tokenizer: str) -> npt.NDArray[np.uint8]:
    """Smooth colours, other ones in every row; smooth, so that their files are small."""
    del tokenizer
    side = manifest.preprocess.resolution
    coarse = np.random.default_rng(22).uniform(0, 255, (size, 4, 4, 3)).astype(np.float32)
    smooth = tf.image.resize(coarse, [side, side], method="bicubic")
    return np.asarray(tf.saturate_cast(tf.round(smooth), tf.uint8))


def _image_bytes(size: int, manifest: Manifest, tokenizer: str) -> npt.NDArray[Any]:
    return np.array([tf.io.encode_png(row).numpy() for row in _pixels(size, manifest, tokenizer)], object)


def _examples(size: int, manifest: Manifest, tokenizer: str) -> npt.NDArray[Any]:
    def example(encoded: bytes) -> bytes:
        feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded]))
        features = tf.train.Features(feature={signature.IMAGE_BYTES: feature})
        return tf.train.Example(features=features).SerializeToString()

    return np.array([example(encoded) for encoded in _image_bytes(size, manifest, tokenizer)], object)


def token_ids(size: int, manifest: Manifest, tokenizer: str) -> npt.NDArray[np.int32]:
    """The texts of a golden request, encoded: int32 [size, T]."""
    del manifest
    return Tokenizer.from_json(tokenizer).encode([_TEXTS[i % len(_TEXTS)] for i in range(size)])


_INPUTS: dict[str, Callable[[int, Manifest, str], npt.NDArray[Any]]] = {
    signature.PIXELS: _pixels,
    signature.IMAGE_BYTES: _image_bytes,
    signature.EXAMPLES: _examples,
    signature.TOKEN_IDS: token_ids,
}
