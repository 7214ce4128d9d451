import json

import pytest
import tensorflow as tf
from tensorflow.core.example import example_pb2
from tensorflow_serving.apis import classification_pb2, regression_pb2

from serving.rest_examples import parse, write_classifications, write_regressions


def parsed(body, kind=classification_pb2.ClassificationRequest):
    request = kind()
    parse(body if isinstance(body, bytes) else json.dumps(body).encode(), request)
    return request


def refusal(body):
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        parsed(body)
    return raised.value.message


def example(**features):
    return tf.train.Example(features=tf.train.Features(feature=features))


def test_every_kind_of_value_makes_its_kind_of_feature():
    body = {
        "signature_name": "s",
        "examples": [
            {
                "floats": [1.0, 1e39],
                "float": 0.5,
                "integers": [1, -(2**63)],
                "booleans": [True, False],
                "bytes": ["é", {"b64": "/w=="}],
                "none": [],
                "huge": -(2**63) - 1,
            },
            {},
        ],
    }
    expected = example(
        floats=tf.train.Feature(float_list=tf.train.FloatList(value=[1.0, float("inf")])),
        float=tf.train.Feature(float_list=tf.train.FloatList(value=[0.5])),
        integers=tf.train.Feature(int64_list=tf.train.Int64List(value=[1, -(2**63)])),
        booleans=tf.train.Feature(int64_list=tf.train.Int64List(value=[1, 0])),
        bytes=tf.train.Feature(bytes_list=tf.train.BytesList(value=["é".encode(), b"\xff"])),
        none=tf.train.Feature(),
        huge=tf.train.Feature(float_list=tf.train.FloatList(value=[-(2.0**63)])),
    )
    request = parsed(body, regression_pb2.RegressionRequest)
    assert request.model_spec.signature_name == "s"
    assert [found.SerializeToString(deterministic=True) for found in request.input.example_list.examples] == [
        expected.SerializeToString(deterministic=True),
        b"",
    ]


def test_a_context_goes_with_the_examples():
    made = parsed({"context": {}, "examples": [{"x": 1}]}).input
    assert made.WhichOneof("kind") == "example_list_with_context"
    assert made.example_list_with_context.HasField("context")
    assert made.example_list_with_context.examples[0].features.feature["x"].int64_list.value == [1]


def test_of_a_feature_that_repeats_the_last_one_counts():
    made = parsed(b'{"examples":[{"x":1,"x":2}]}').input.example_list.examples[0]
    assert made.features.feature["x"].int64_list.value == [2]


def test_a_name_that_is_no_text_is_replaced():
    (made,) = parsed(b'{"examples":[{"\xff":1}]}').input.example_list.examples
    assert isinstance(made, example_pb2.Example)
    assert set(made.features.feature) == {"\ufffd"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1.0, 1], "Unexpected element type in feature: x expecting type: float"),
        ([1, 1.0], "Unexpected element type in feature: x expecting type: int64"),
        ([True, "a"], "Unexpected element type in feature: x expecting type: int64"),
        (["a", 1], "Unexpected element type in feature: x expecting type: bytes"),
        (2**63, "Feature: x has uint64_t element. Only int64_t is supported."),
        (None, "Feature: x has element with unexpected JSON type: Null"),
        ([[1]], "Feature: x has element with unexpected JSON type: Array"),
        ({"b64": 1}, "Feature: x has element with unexpected JSON type: Object"),
        ({"b64": "!"}, "Unable to base64 decode"),
    ],
)
def test_a_wrong_value_is_told(value, text):
    assert refusal({"examples": [{"x": value}]}) == text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"examples": ["a"]}, "Example must be JSON object but got JSON String"),
        ({"context": None, "examples": [{}]}, "Example must be JSON object but got JSON Null"),
        ({"examples": []}, "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array"),
    ],
)
def test_a_wrong_body_is_told(body, text):
    assert refusal(body) == text


def test_results_are_laid_out_as_rapidjson_does():
    result = classification_pb2.ClassificationResult()
    for scores in ([0.5, 0.1], []):
        classes = result.classifications.add().classes
        for number, score in enumerate(scores):
            classes.add(label=f'"{number}"', score=score)
    assert write_classifications(result) == (b'{\n    "results": [[["\\"0\\"", 0.5], ["\\"1\\"", 0.1]], []\n    ]\n}')
    values = regression_pb2.RegressionResult(regressions=[regression_pb2.Regression(value=v) for v in (1, 2.5)])
    assert write_regressions(values) == b'{\n    "results": [1.0, 2.5]\n}'


def test_no_result_is_an_error():
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"^Cannot convert empty ClassificationResults to JSON$"):
        write_classifications(classification_pb2.ClassificationResult())
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"^Cannot convert empty RegressionResults to JSON$"):
        write_regressions(regression_pb2.RegressionResult())
