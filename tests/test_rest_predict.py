import json

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from serving import rest_predict
from serving.rest_predict import parse, write


def taking(**dtypes):
    """The inputs of every signature."""
    infos = {alias: meta_graph_pb2.TensorInfo(dtype=dtype.as_datatype_enum) for alias, dtype in dtypes.items()}
    return lambda _signature: infos


def arrays(body, **dtypes):
    return {alias: array.tolist() for alias, array in parse(json.dumps(body).encode(), taking(**dtypes)).inputs.items()}


def refusal(function, *args, **kwargs):
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        function(*args, **kwargs)
    return raised.value.message


def test_rows_and_columns_are_the_same_inputs():
    rows = [{"x": [1, 2], "s": "a"}, {"x": [3, 4], "s": {"b64": "Yg"}}]
    columns = {"x": [[1, 2], [3, 4]], "s": ["a", "b"], "more": 0}
    expected = {"x": [[1.0, 2.0], [3.0, 4.0]], "s": [b"a", b"b"]}
    assert arrays({"instances": rows}, x=tf.float32, s=tf.string) == expected
    assert arrays({"inputs": columns}, x=tf.float32, s=tf.string) == expected


def test_rows_of_one_input_need_no_name():
    assert arrays({"instances": [[1], [2]]}, x=tf.int32) == {"x": [[1], [2]]}
    assert arrays({"instances": [{"b64": "YQ=="}, "b"]}, x=tf.string) == {"x": [b"a", b"b"]}
    assert arrays({"inputs": {"b64": "YQ=="}}, x=tf.string) == {"x": b"a"}
    assert arrays({"inputs": 3}, x=tf.int64) == {"x": 3}


def test_an_input_may_be_called_b64():
    assert arrays({"instances": [{"b64": 1}, {"b64": 2}]}, b64=tf.int32) == {"b64": [1, 2]}
    text = refusal(arrays, {"instances": [{"b64": ["a"]}, {"b64": "YQ=="}]}, b64=tf.string)
    assert text == "Expecting object but got list at item 1 of input list"


def test_the_signature_is_looked_up_before_the_inputs():
    def none(signature):
        raise tf.errors.InvalidArgumentError(None, None, f"no {signature}")

    assert refusal(parse, b'{"signature_name": "s", "instances": 1}', none) == "no s"
    assert refusal(parse, b"{}", taking()) == "Failed to get input map for signature: DEFAULT"
    body = b'{"signature_name": "s"}'
    assert refusal(parse, body, taking()) == "Failed to get input map for signature: s"
    assert parse(b'{"signature_name": "s", "inputs": [1]}', taking(x=tf.int32)).signature == "s"


def test_a_wrong_row_behind_many_is_named():
    rows = [[0.5, 1.5]] * 5000
    text = refusal(arrays, {"instances": [*rows, [0.5, "a"]]}, x=tf.float32)
    assert text.startswith("Failed to process element: 5000 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: ")


def test_a_dtype_without_a_form_is_refused():
    with pytest.raises(tf.errors.UnimplementedError):
        arrays({"inputs": [1]}, x=tf.float16)
    text = refusal(arrays, {"instances": [1]}, x=tf.float16)
    assert text.endswith("Error: UNIMPLEMENTED: Conversion of JSON Value: 1 to type: half")


@pytest.mark.parametrize("shape", [(1,), (2, 3), (2, 0), (0, 2), (1, 2, 2)])
@pytest.mark.parametrize("count", [1, 2])
def test_what_is_written_is_read_back(shape, count):
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    outputs = {f"y{number}": values + number for number in range(count)}
    columns = json.loads(write(outputs, by_row=False))["outputs"]
    rows = json.loads(write(outputs, by_row=True))["predictions"]
    for alias, array in outputs.items():
        for read in (columns, rows) if count == 1 else (columns[alias], [row[alias] for row in rows]):
            np.testing.assert_array_equal(np.array(read, np.float32).reshape(shape), array)


def test_lines_are_broken_where_rapidjson_breaks_them():
    one = {"y": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)}
    assert write(one, by_row=True) == b'{\n    "predictions": [[1.0, 2.0], [3.0, 4.0]\n    ]\n}'
    two = {**one, "z_bytes": np.array([b"a", b"b"], object)}
    lines = write(two, by_row=True).decode().split("\n")
    assert lines[:8] == [
        "{",
        '    "predictions": [',
        "        {",
        '            "y": [1.0, 2.0],',
        '            "z_bytes": {',
        '                "b64": "YQ=="',
        "            }",
        "        },",
    ]
    assert lines[-3:] == ["        }", "    ]", "}"]
    assert write({"y": np.zeros(0, np.float32)}, by_row=True) == b'{\n    "predictions": []\n}'
    assert write({"y_bytes": b"a\0"}, by_row=False) == b'{\n    "outputs": {\n        "b64": "YQA="\n    }\n}'


def test_outputs_without_a_form_are_refused():
    assert refusal(write, {}, by_row=True) == "Cannot convert empty tensor map to JSON"
    scalar = {"y": np.float32(1)}
    assert refusal(write, scalar, by_row=True) == "Tensor name: y has no shape information "
    assert json.loads(write(scalar, by_row=False)) == {"outputs": 1.0}
    uneven = {"y": np.zeros(2), "z": np.zeros(3)}
    assert refusal(write, uneven, by_row=True) == "Tensor name: z has inconsistent batch size: 3 expecting: 2"
    half = {"y": np.zeros(2, np.float16)}
    assert refusal(write, half, by_row=False) == "Failed to write JSON value for tensor type: half"
    assert isinstance(parse(b'{"inputs":[]}', taking(x=tf.float32)), rest_predict.Request)
