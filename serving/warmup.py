"""The warm-up of a loaded version: recorded requests, replayed before any caller's, and their answers compared.

Between load and AVAILABLE. XLA compiles a program for every new batch size; the exporter writes one request a size, so
that no caller waits for the compiler, and an artefact that this runtime cannot run fails its load and not its first
user. The recorded answer rides in the same record; TensorFlow Serving passes over it.
"""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from serving import tensors
from serving.servable import Servable
from serving.status import invalid
from vit22b.difference import difference
from vit22b.signature import MANIFEST_FILE, TOLERANCE, WARMUP_FILE, Manifest

MAX_RECORDS = 1000

logger = logging.getLogger(__name__)


class GoldenError(tf.errors.DataLossError):
    """An answer is another than the recorded one; it will be the next time too."""

    def __init__(self, message: str):
        super().__init__(None, None, message)


def warm_up(servable: Servable, path: Path, *, check_golden: bool = False, iterations: int = 1) -> int:
    """Replays the requests that a version brings; one that brings none is left as it is.

    Args:
        servable: the loaded version.
        path: its directory.
        check_golden: compare the answers of Predict with the recorded ones; a record without one is only replayed.
        iterations: how often each request is replayed.

    Returns:
        The number of records.

    Raises:
        tf.errors.OpError: a record cannot be read or replayed.
        GoldenError: with check_golden, an answer is another than the recorded one.
    """
    file = path / WARMUP_FILE
    if not file.exists():
        if check_golden:
            _miss(path)
        return 0
    start = time.monotonic()
    count = 0
    tolerance = _tolerance(path) if check_golden else TOLERANCE
    options = f"num_request_iterations {{ value: {iterations} }}" if iterations > 1 else ""
    logger.info("Starting to read warmup data for model at %s with model-warmup-options %s", file, options)
    for count, log in enumerate(_records(file), start=1):
        if count > MAX_RECORDS:
            text = f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {file}"
            raise invalid(text)
        answers = [_replay(servable, log) for _ in range(max(1, iterations))]
        if check_golden and answers[0] is not None:
            _compare(answers[0], log.predict_log.response, tolerance)
    elapsed = int(1e6 * (time.monotonic() - start))
    logger.info(
        "Finished reading warmup data for model at %s. Number of warmup records read: %d. "
        "Elapsed time (microseconds): %d.",
        file,
        count,
        elapsed,
    )
    return count


def _miss(path: Path) -> None:
    """A version of ours always has golden answers, unless it was written without; nobody else's has any.

    Raises:
        GoldenError: it is ours, and the file is gone.
    """
    remedy = f"record them: .venv/bin/python export/verify.py {path} --record"
    manifest = _manifest(path)
    if manifest is not None and manifest.golden == "recorded":
        raise GoldenError(f"{path / WARMUP_FILE} is missing, and with it the golden answers; copy the version again")
    logger.warning("%s has no golden answers to check%s", path, f"; {remedy}" if manifest else "")


def _records(file: Path) -> Iterator[prediction_log_pb2.PredictionLog]:
    try:
        for record in tf.compat.v1.io.tf_record_iterator(str(file)):
            try:
                yield prediction_log_pb2.PredictionLog.FromString(record)
            except DecodeError as error:
                text = f"Failed to parse warmup record: {record!r} from {file}"
                raise invalid(text) from error
    except tf.errors.DataLossError as error:
        text = f"{error.message}. Please verify your warmup data is in TFRecord format."
        raise tf.errors.DataLossError(None, None, text) from error


def _tolerance(path: Path) -> float:
    """The tolerance of a version's golden answers: its manifest's, where it has one."""
    manifest = _manifest(path)
    return TOLERANCE if manifest is None else manifest.tolerance


def _manifest(path: Path) -> Manifest | None:
    try:
        return Manifest.from_json((path / MANIFEST_FILE).read_bytes())
    except (OSError, ValueError):  # somebody else's version, or a manifest that its load has warned of
        return None


def _replay(servable: Servable, log: prediction_log_pb2.PredictionLog) -> predict_pb2.PredictResponse | None:
    """The answer to a record of Predict; None for one of another method, and for one that asks nothing."""
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        return servable.predict(log.predict_log.request)
    if kind == "classify_log":
        servable.classify(log.classify_log.request)
    elif kind == "regress_log":
        servable.regress(log.regress_log.request)
    elif kind == "multi_inference_log":
        servable.multi_inference(log.multi_inference_log.request)
    elif kind is not None:
        number = log.DESCRIPTOR.fields_by_name[kind].number
        raise tf.errors.UnimplementedError(None, None, f"Unsupported log_type for warmup: {number}")
    return None


def _compare(answer: predict_pb2.PredictResponse, golden: predict_pb2.PredictResponse, tolerance: float) -> None:
    """Every recorded output against its answer, by the rule of vit22b/difference.py."""
    try:
        expected = {alias: tensors.from_proto(proto) for alias, proto in golden.outputs.items()}
        got = {alias: tensors.from_proto(proto) for alias, proto in answer.outputs.items()}
        problem = difference(expected, got, tolerance).problem
    except ValueError as error:
        problem = str(error)
    if problem:
        raise GoldenError(
            f"golden answer of signature {answer.model_spec.signature_name}, {problem}: the model does not answer as "
            "it did when it was exported; export it again, or find what differs here"
        )
