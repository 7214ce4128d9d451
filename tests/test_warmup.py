import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving import warmup
from serving.servable import Servable, ServableOptions
from tests.manifests import manifest
from tests.small_models import half_plus, plus
from vit22b.signature import MANIFEST_FILE, WARMUP_FILE


@pytest.fixture(scope="module")
def servable():
    loaded = Servable.load("m", 1, plus(1), ServableOptions())
    yield loaded
    loaded.close()


def record(signature="", *, golden=None, **inputs):
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name, request.model_spec.signature_name = "another name", signature
    for alias, value in inputs.items():
        request.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
    for alias, value in (golden or {}).items():
        log.predict_log.response.outputs[alias].CopyFrom(tf.make_tensor_proto(value))
    return log.SerializeToString()


def line(golden=None):
    return record(x=np.array([2, 200], np.float32), golden=golden and {"y": np.array(golden, np.float32)})


def write(path, *records):
    (path / WARMUP_FILE).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path / WARMUP_FILE)) as writer:
        for content in records:
            writer.write(content)
    return path / WARMUP_FILE


def test_records_are_replayed_and_counted(servable, tmp_path):
    assert warmup.warm_up(servable, tmp_path) == 0
    write(tmp_path, line(), b"", record("describe"))
    assert warmup.warm_up(servable, tmp_path, check_golden=True) == 3


def test_an_answer_as_recorded_passes(servable, tmp_path):
    text = b"no input, and a zero at the end\0"
    write(tmp_path, line([2, 101]), line([2 + 0.005, 101]), record("describe", golden={"text": text}))
    assert warmup.warm_up(servable, tmp_path, check_golden=True) == 3


def test_the_tolerance_is_the_manifests(servable, tmp_path):
    write(tmp_path, line([2.5, 101]))
    (tmp_path / MANIFEST_FILE).write_text(manifest(tolerance=0.01).to_json())
    assert warmup.warm_up(servable, tmp_path, check_golden=True) == 1
    (tmp_path / MANIFEST_FILE).write_text(manifest(tolerance=0.001).to_json())
    with pytest.raises(tf.errors.DataLossError, match=r"max abs error 0.5, allowed 0.101"):
        warmup.warm_up(servable, tmp_path, check_golden=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (line([2.5, 101]), "signature serving_default, output y: max abs error 0.5, allowed 0.0101"),
        (line([np.nan, 101]), "signature serving_default, output y: 1 of 2 values are not finite"),
        (line([2]), r"output y: expected float32\[1\], got float32\[2\]"),
        (record(x=np.ones(1, np.float32), golden={"z": 1.0}), "output z is missing"),
        (record("describe", golden={"text": b"other"}), "signature describe, output text: 1 of 1 values differ"),
    ],
)
def test_another_answer_fails_if_golden_answers_are_checked(servable, tmp_path, content, message):
    write(tmp_path, content)
    assert warmup.warm_up(servable, tmp_path) == 1
    with pytest.raises(tf.errors.DataLossError, match=message):
        warmup.warm_up(servable, tmp_path, check_golden=True)


def of_examples(kind, signature, *, features=("x",)):
    """A record of Classify or Regress, or of MultiInference with both."""
    log = prediction_log_pb2.PredictionLog()
    request = getattr(log, kind).request
    if kind == "multi_inference_log":
        for method in ("classify", "regress"):
            task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
            task.model_spec.name, task.model_spec.signature_name = "another name", method
    else:
        request.model_spec.signature_name = signature
    example = request.input.example_list.examples.add()
    for name in features:
        example.features.feature[name].float_list.value.append(2)
    return log.SerializeToString()


def test_records_of_every_method_are_replayed(tmp_path):
    loaded = Servable.load("m", 1, half_plus(1), ServableOptions())
    kinds = [("classify_log", "classify"), ("regress_log", "regress"), ("multi_inference_log", "")]
    write(tmp_path, *[of_examples(*kind) for kind in kinds])
    assert warmup.warm_up(loaded, tmp_path, check_golden=True) == 3
    for kind in kinds:
        write(tmp_path, of_examples(*kind, features=()))
        with pytest.raises(tf.errors.InvalidArgumentError, match="Feature: x \\(data type: float\\) is required"):
            warmup.warm_up(loaded, tmp_path)
    loaded.close()


def test_a_record_of_a_method_that_does_not_fit_fails_the_warm_up(servable, tmp_path):
    write(tmp_path, of_examples("classify_log", "serving_default"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="No classification inputs found in SignatureDef: "):
        warmup.warm_up(servable, tmp_path)


def test_each_record_is_replayed_as_often_as_it_is_asked_for(tmp_path):
    loaded = Servable.load("m", 1, plus(1), ServableOptions())
    runs = []
    run = loaded._runtime.run
    loaded._runtime.run = lambda *what, **how: runs.append(what) or run(*what, **how)
    write(tmp_path, line(), record("describe"))
    assert warmup.warm_up(loaded, tmp_path, iterations=3) == 2
    assert len(runs) == 6
    loaded.close()


def streamed():
    log = prediction_log_pb2.PredictionLog()
    log.predict_streamed_log.SetInParent()
    return log.SerializeToString()


def session_run():
    log = prediction_log_pb2.PredictionLog()
    log.session_run_log.SetInParent()
    return log.SerializeToString()


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (record("nope"), tf.errors.FailedPreconditionError, 'Serving signature key "nope" not found.'),
        (
            record(x=np.ones(1, np.int32)),
            tf.errors.InvalidArgumentError,
            "Expects arg[0] to be float but int32 is provided",
        ),
        (session_run(), tf.errors.UnimplementedError, "Unsupported log_type for warmup: 5"),
        (streamed(), tf.errors.UnimplementedError, "Unsupported log_type for warmup: 7"),
    ],
)
def test_a_request_that_fails_fails_the_warm_up(servable, tmp_path, content, kind, message):
    write(tmp_path, content)
    with pytest.raises(kind) as failed:
        warmup.warm_up(servable, tmp_path)
    assert failed.value.message == message


def test_what_is_no_record_is_named(servable, tmp_path):
    file = write(tmp_path, b"\xff")
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"Failed to parse warmup record: .* from {file}"):
        warmup.warm_up(servable, tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-3], "truncated record at .*' failed with Read less bytes than requested"),
        (lambda content: content[:12] + b"\xff" + content[13:], "corrupted record at 12"),
        (lambda _: b"not a file of records", r"corrupted record at 0 \(Is this even a TFRecord file\?\)"),
    ],
)
def test_a_damaged_file_is_data_loss(servable, tmp_path, damage, message):
    file = write(tmp_path, line())
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(
        tf.errors.DataLossError, match=f"{message}. Please verify your warmup data is in TFRecord format"
    ):
        warmup.warm_up(servable, tmp_path)


def test_at_most_a_thousand_records(servable, tmp_path):
    write(tmp_path, *[b""] * 1000)
    assert warmup.warm_up(servable, tmp_path) == 1000
    file = write(tmp_path, *[b""] * 1001)
    with pytest.raises(tf.errors.InvalidArgumentError) as refused:
        warmup.warm_up(servable, tmp_path)
    assert refused.value.message == f"Number of warmup records exceeds the maximum (1000) at {file}"
