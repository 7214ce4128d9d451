"""Classify, Regress and MultiInference apart from a run; tests/test_services.py has them over gRPC."""

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.example import example_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import inference_pb2, input_pb2

from serving import classification, examples, multi_inference, regression

ONE_OF = "Expected classification signature outputs to contain at least one of"


def signature(inputs=("inputs",), outputs=("classes", "scores"), method="tensorflow/serving/classify"):
    made = meta_graph_pb2.SignatureDef(method_name=method)
    for alias in inputs:
        made.inputs[alias].name = f"{alias}:0"
    for alias in outputs:
        made.outputs[alias].name = f"{alias}:0"
    return made


def message(check, *arguments, **options):
    with pytest.raises(tf.errors.InvalidArgumentError) as refused:
        check(*arguments, **options)
    return refused.value.message


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (signature(inputs=("inputs", "more")), "Expected one input Tensor."),
        (signature(outputs=()), "Expected one or two output Tensors, found 0"),
        (signature(outputs=("a", "b", "c")), "Expected one or two output Tensors, found 3"),
        (signature(inputs=("x",)), "No classification inputs found in SignatureDef: goo.gle/debugproto  \ninputs {"),
        (signature(outputs=("y",)), f'{ONE_OF} "classes" or "scores". Signature was: '),
    ],
)
def test_a_signature_that_does_not_classify_is_refused(made, text):
    assert message(classification.check, made, check_method=False).startswith(text)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (signature(inputs=("inputs", "more")), "Expected one input Tensor."),
        (signature(), "Expected one output Tensor."),
        (
            signature(inputs=("x",), outputs=("outputs",)),
            "No regression inputs found in SignatureDef: goo.gle/debugproto  \ninputs {",
        ),
        (signature(outputs=("y",)), "No regression outputs found in SignatureDef: goo.gle/debugproto  \ninputs {"),
    ],
)
def test_a_signature_that_does_not_regress_is_refused(made, text):
    assert message(regression.check, made, check_method=False).startswith(text)


def test_the_methods_name_is_checked_on_request():
    other = signature(method="tensorflow/serving/predict")
    classification.check(other, check_method=False)
    assert message(classification.check, other, check_method=True) == (
        "Expected classification signature method_name to be tensorflow/serving/classify. "
        "Was: tensorflow/serving/predict"
    )
    assert message(regression.check, other, check_method=True) == (
        "Expected regression signature method_name to be tensorflow/serving/regress. Was: tensorflow/serving/predict"
    )


def strings(*rows):
    return np.array(rows, dtype=object)


def floats(*rows):
    return np.array(rows, dtype=np.float32)


def test_classes_and_scores():
    classes, scores = strings([b"a", b"\xff"]), floats([0.5, 2])
    both = classification.result(signature(), 1, {"classes:0": classes, "scores:0": scores})
    (row,) = both.classifications
    assert [(entry.label, entry.score) for entry in row.classes] == [("a", 0.5), ("�", 2)]
    (row,) = classification.result(signature(outputs=("scores",)), 1, {"scores:0": scores}).classifications
    assert [(entry.label, entry.score) for entry in row.classes] == [("", 0.5), ("", 2)]
    (row,) = classification.result(signature(outputs=("classes",)), 1, {"classes:0": classes[:, :1]}).classifications
    assert [(entry.label, entry.score) for entry in row.classes] == [("a", 0)]


@pytest.mark.parametrize(
    ("classes", "scores", "text"),
    [
        (strings(b"a"), floats([1]), "Expected Tensor shape: [batch_size num_classes] but got [1]"),
        (strings([b"a"]), floats(1), "Expected Tensor shape: [batch_size num_classes] but got [1]"),
        (floats([1]), floats([1]), "Expected classes Tensor of DT_STRING. Got: DT_FLOAT"),
        (strings([b"a"]), strings([b"a"]), "Expected scores Tensor of DT_FLOAT. Got: DT_STRING"),
        (strings([b"a"], [b"b"]), floats([1]), "Expected classes output batch size of 1. Got: 2"),
        (strings([b"a"]), floats([1], [2]), "Expected scores output batch size of 1. Got: 2"),
        (
            strings([b"a"]),
            floats([1, 2]),
            "Tensors class and score should match in dim_size(1). Got 1 vs. 2",
        ),
    ],
)
def test_what_is_no_classification_is_refused(classes, scores, text):
    values = {"classes:0": classes, "scores:0": scores}
    assert message(classification.result, signature(), 1, values) == text


@pytest.mark.parametrize("array", [floats(1, 2), floats([1], [2])])
def test_values(array):
    result = regression.result(signature(outputs=("outputs",)), 2, {"outputs:0": array})
    assert [row.value for row in result.regressions] == [1, 2]


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.float32(1), "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got []"),
        (floats([1, 2]), "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [1,2]"),
        (floats(1), "Input batch size did not match output batch size: 2 vs. 1"),
        (np.ones(2), "Expected output Tensor of DT_FLOAT.  Got: DT_DOUBLE"),
    ],
)
def test_what_is_no_regression_is_refused(array, text):
    assert message(regression.result, signature(outputs=("outputs",)), 2, {"outputs:0": np.asarray(array)}) == text


def example(**features):
    made = example_pb2.Example()
    for name, value in features.items():
        made.features.feature[name].float_list.value.append(value)
    return made


def test_examples_are_serialised_each():
    given = input_pb2.Input(example_list={"examples": [example(x=1), example()]})
    assert examples.serialized(given).tolist() == [example(x=1).SerializeToString(), b""]


def test_a_context_stands_under_every_example():
    given = input_pb2.Input(
        example_list_with_context={"examples": [example(x=1), example(y=2)], "context": example(x=5, z=6)}
    )
    read = [example_pb2.Example.FromString(row) for row in examples.serialized(given)]
    assert read == [example(x=1, z=6), example(x=5, y=2, z=6)]


@pytest.mark.parametrize("given", ["", "example_list {}", "example_list_with_context { context {} }"])
def test_no_examples_are_refused(given):
    assert message(examples.serialized, text_format.Parse(given, input_pb2.Input())) == "Input is empty."


def tasks(*asked):
    made = inference_pb2.MultiInferenceRequest()
    for name, key, method in asked:
        task = made.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = name, key
    return made


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (tasks(("", "c", "classify")), "Found ModelSpec with an empty model name."),
        (
            tasks(("m", "c", "classify"), ("n", "c", "classify")),
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        ),
        (tasks(("m", "c", "classify"), ("m", "c", "classify")), "Duplicate evaluation of signature: c"),
        (tasks(("m", "", "classify")), "Requested signature not found in model graph: serving_default"),
        (tasks(("m", "c", "regress")), "Expected one output Tensor."),
    ],
)
def test_tasks_that_do_not_go_together_are_refused(request_, text):
    assert message(multi_inference.check, {"c": signature()}, request_, check_method=False) == text


def test_tasks_share_a_run():
    signatures = {"c": signature(), "r": signature(outputs=("outputs",))}
    asked = tasks(("m", "c", "classify"), ("m", "r", "regress"))
    multi_inference.check(signatures, asked, check_method=False)
    assert multi_inference.feeds(signatures, asked) == ["inputs:0"]
    assert multi_inference.fetches(signatures, asked) == ["classes:0", "outputs:0", "scores:0"]
