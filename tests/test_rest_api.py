import gzip
import json
import threading

import numpy as np
import pytest
import tensorflow as tf

from serving.admission import Admission
from serving.answers import Answers
from serving.desk import Desk
from serving.guard import Guard
from serving.keys import KeyFile
from serving.lifecycle import Lifecycle
from serving.loading import Retries
from serving.rest_api import Request, RestApi
from serving.rest_body import TooLargeError
from serving.rest_reply import Reply
from serving.runtime import Runtime
from serving.servable import Servable, ServableOptions
from tests.lifecycles import aspire
from tests.small_models import half_plus

ROW = "Failed to process element: {} of 'instances' list. "
UNLIKE = "JSON Value: {} Type: {} is not of expected type: {}"


@pytest.fixture(scope="module")
def answers():
    lifecycle = Lifecycle(
        lambda name, version, path: Servable.load(name, version, path, ServableOptions()), Retries(0), threading.Event()
    )
    aspire(lifecycle, "a", {1: half_plus(1)})
    yield Answers(lifecycle)
    aspire(lifecycle, "a", {})


@pytest.fixture(scope="module")
def api(answers):
    return RestApi(answers, Desk(), 30)


def reply(api, body, *, verb="predict", method="POST", path="/v1/models/a", **more):
    content = body if isinstance(body, bytes) else body.encode()
    admitted = api.admit(Request(method, f"{path}:{verb}" if verb else path, **more))
    if isinstance(admitted, Reply):
        return admitted
    admitted.begin()
    return admitted.answer(content)


def error(answered):
    return answered.status, json.loads(answered.body)["error"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"instances":[1.0,2.0]}', '{\n    "predictions": [2.5, 3.0\n    ]\n}'),
        ('{"inputs":[1.0,2.0]}', '{\n    "outputs": [\n        2.5,\n        3.0\n    ]\n}'),
        ('{"inputs":[]}', '{\n    "outputs": []\n}'),
        ('{"inputs":{"x":[1.0],"z":[1.0]}}', '{\n    "outputs": [\n        2.5\n    ]\n}'),
        ('{"instances":[1.0]} and more', '{\n    "predictions": [2.5\n    ]\n}'),
        ('\ufeff{"instances":[1.0]}', '{\n    "predictions": [2.5\n    ]\n}'),
        ('{"instances":[NaN,Infinity,-Inf]}', '{\n    "predictions": [NaN, Infinity, -Infinity\n    ]\n}'),
        ('{"instances":[1e39]}', '{\n    "predictions": [Infinity\n    ]\n}'),
        ('{"instances":[1.0],"instances":[3.0],"more":[]}', '{\n    "predictions": [2.5\n    ]\n}'),
        ('{"signature_name":"","instances":[0]}', '{\n    "predictions": [2.0\n    ]\n}'),
        (
            '{"signature_name":"two_outputs","instances":[1.0]}',
            '{\n    "predictions": [\n        {\n            "y": 2.5,\n            "z": 2.0\n        }\n    ]\n}',
        ),
        (
            '{"signature_name":"two_outputs","inputs":[1.0]}',
            (
                '{\n    "outputs": {\n        "y": [\n            2.5\n        ],\n        "z": [\n'
                "            2.0\n        ]\n    }\n}"
            ),
        ),
        (
            '{"signature_name":"echo","instances":[{"b64":"YQ"}]}',
            (
                '{\n    "predictions": [\n        {\n            "text": "a",\n            "text_bytes": {\n'
                '                "b64": "YQ=="\n            }\n        }\n    ]\n}'
            ),
        ),
        (
            '{"signature_name":"integers","instances":[4611686018427387903]}',
            '{\n    "predictions": [9223372036854775806\n    ]\n}',
        ),
    ],
)
def test_a_prediction_is_laid_out_as_measured(api, body, expected):
    answered = reply(api, body)
    assert (answered.status, answered.body.decode()) == (200, expected)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("", "JSON Parse error: The document is empty"),
        ("{", "JSON Parse error: Missing a name for object member. at offset: 1"),
        ("}", "JSON Parse error: The document is empty. at offset: 0"),
        ("foo", "JSON Parse error: Invalid value. at offset: 1"),
        ("[]", "JSON Value: [] Is not object"),
        ("null", "JSON Value: null Is not object"),
        ("{}", "Missing 'inputs' or 'instances' key"),
        ('{"instances":[]}', "JSON Value: {\n    \"instances\": []\n} No values in 'instances' array"),
        ('{"instances":1}', "JSON Value: {\n    \"instances\": 1\n} Expecting 'instances' to be an list/array"),
        (
            '{"instances":[1],"inputs":[1.50]}',
            (
                'JSON Value: {\n    "instances": [1],\n    "inputs": [1.5]\n} Not formatted correctly expecting '
                "only one of 'inputs' or 'instances' keys to exist "
            ),
        ),
        ('{"inputs":null}', UNLIKE.format("null", "Null", "float")),
        ('{"inputs":{}}', "Missing named input: x in 'inputs' object."),
        ('{"inputs":{"z":[1.0]}}', "Missing named input: x in 'inputs' object."),
        ('{"instances":[1.0,]}', "JSON Parse error: Invalid value. at offset: 18"),
        ('{"instances":[1.0]', "JSON Parse error: Missing a comma or '}' after an object member. at offset: 18"),
        ('{"instances":[nan]}', "JSON Parse error: Invalid value. at offset: 15"),
        ('{"instances":[1e400]}', "JSON Parse error: Number too big to be stored in double. at offset: 14"),
        ('{"instances":[true]}', ROW.format(0) + "Error: INVALID_ARGUMENT: " + UNLIKE.format("true", "True", "float")),
        ('{"instances":["a"]}', ROW.format(0) + "Error: INVALID_ARGUMENT: " + UNLIKE.format('"a"', "String", "float")),
        (
            '{"instances":[[1.0],[2.0,3.0]]}',
            ROW.format(1) + "Error: INVALID_ARGUMENT: Expecting tensor size: 1 but got: 2",
        ),
        (
            '{"instances":[1.0,[2.0]]}',
            ROW.format(1) + "Error: INVALID_ARGUMENT: Expecting shape [] but got: [1]",
        ),
        (
            '{"instances":[{"x":1.0},{"x":[1.0]}]}',
            ROW.format("1 key: x") + "Error: INVALID_ARGUMENT: Expecting shape [] but got: [1]",
        ),
        (
            '{"instances":[{"x":1.0},{"z":1.0}]}',
            ROW.format("1 key: z") + "Error: INVALID_ARGUMENT: JSON object: does not have named input: z",
        ),
        ('{"instances":[{"x":1.0},2.0]}', "Expecting object but got list at item 1 of input list"),
        ('{"instances":[1.0,{"x":2.0}]}', "Expecting value/list but got object at item 1 of input list"),
        ('{"instances":[{}]}', ROW.format(0) + "JSON object: {} keys must be equal to: x"),
        ('{"signature_name":"nope","inputs":[]}', 'Serving signature name: "nope" not found in signature def'),
        (
            '{"signature_name":1}',
            (
                "JSON Value: {\n    \"signature_name\": 1\n} not formatted correctly. 'signature_name' key must be a "
                "string value."
            ),
        ),
        (
            '{"signature_name":"echo","instances":[{"b64":"!!"}]}',
            ROW.format(0) + "Error: INVALID_ARGUMENT: Unable to base64 decode",
        ),
        (
            '{"signature_name":"echo","instances":[{"b64":1}]}',
            ROW.format("0 key: b64") + "Error: INVALID_ARGUMENT: JSON object: does not have named input: b64",
        ),
        (
            '{"signature_name":"echo","instances":["\\ud800"]}',
            "JSON Parse error: The surrogate pair in string is invalid. at offset: 39",
        ),
        (
            '{"signature_name":"integers","instances":[9223372036854775808]}',
            ROW.format(0) + "Error: INVALID_ARGUMENT: " + UNLIKE.format("9223372036854775808", "Number", "int64"),
        ),
        (
            '{"signature_name":"integers","inputs":[1.0]}',
            UNLIKE.format("1.0", "Number", "int64"),
        ),
        (
            '{"signature_name":"two_inputs","instances":[1.0]}',
            (
                "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
                "tensorinfo_map"
            ),
        ),
        (
            '{"signature_name":"two_inputs","instances":[{"x1":1.0}]}',
            ROW.format(0) + 'JSON object: {\n    "x1": 1.0\n} keys must be equal to: x1,x2',
        ),
        ('{"signature_name":"two_inputs","inputs":{"x1":[1.0]}}', "Missing named input: x2 in 'inputs' object."),
        ('{"instances":[' + "[" * 300 + "1" + "]" * 300 + "]}", "tensor parsing error: x"),
    ],
)
def test_a_wrong_body_is_told_as_measured(api, body, text):
    assert error(reply(api, body)) == (400, text)


@pytest.mark.parametrize(
    ("verb", "body", "text"),
    [
        ("classify", '{"examples":[]}', "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array"),
        (
            "classify",
            '{"examples":{}}',
            "JSON Value: {\n    \"examples\": {}\n} Expecting 'examples' value to be an list/array",
        ),
        ("classify", '{"examples":[1]}', "Example must be JSON object but got JSON Number"),
        (
            "classify",
            '{"examples":[{"y":[{"z":1}]}]}',
            "Feature: y has element with unexpected JSON type: Object",
        ),
        (
            "regress",
            "{}",
            "JSON Value: {} When method is classify, key 'examples' is expected and was not found",
        ),
        (
            "classify",
            '{"signature_name":"nope","examples":[{}]}',
            "No signature was found with the name: nope",
        ),
        ("regress", '{"signature_name":"classify","examples":[{"x":[1.0]}]}', "Expected one output Tensor."),
    ],
)
def test_a_wrong_body_of_examples_is_told_as_measured(api, verb, body, text):
    assert error(reply(api, body, verb=verb)) == (400, text)


def test_examples_are_answered(api):
    body = '{"signature_name":"classify","context":{"x":6.0},"examples":[{"x":[2.0]},{}]}'
    assert reply(api, body, verb="classify").body.decode() == (
        '{\n    "results": [[["low", 3.0], ["high", 2.0]], [["low", 5.0], ["high", 6.0]]\n    ]\n}'
    )
    body = '{"signature_name":"regress","examples":[{"x":2.0}]}'
    assert reply(api, body, verb="regress").body.decode() == '{\n    "results": [3.0]\n}'


def test_bytes_that_are_no_text_come_back(api):
    answered = reply(api, b'{"signature_name":"echo","inputs":["\xff\xfe\\u0001"]}')
    assert b'"text": [\n            "\xff\xfe\\u0001"\n' in answered.body


def test_a_status_and_signatures_are_shown(api):
    assert reply(api, b"", verb="", method="GET").body.decode() == (
        '{\n "model_version_status": [\n  {\n   "version": "1",\n   "state": "AVAILABLE",\n   "status": {\n'
        '    "error_code": "OK",\n    "error_message": ""\n   }\n  }\n ]\n}\n'
    )
    shown = reply(api, b"", verb="", method="GET", path="/v1/models/a/metadata")
    assert shown.body.startswith(b'{\n"model_spec":{\n "name": "a",\n')
    metadata = json.loads(shown.body)
    assert metadata["model_spec"] == {"name": "a", "version": "1", "signature_name": ""}
    assert set(metadata["metadata"]["signature_def"]["signature_def"]["echo"]["inputs"]) == {"text"}


@pytest.mark.parametrize(
    ("body", "encoding", "expected"),
    [
        (gzip.compress(b'{"instances":[1.0]}'), "x-gzip", (200, None)),
        (b'{"instances":[1.0]}', "deflate", (200, None)),
        (b'{"instances":[1.0]}', "gzip", (400, "JSON Parse error: The document is empty")),
        (gzip.compress(b'{"instances":[1.0]}')[:-3], "gzip", (400, "JSON Parse error: The document is empty")),
        (gzip.compress(b" " * (100 * 2**20 + 1)), "gzip", (400, "JSON Parse error: The document is empty")),
        (gzip.compress(b'{"instances":[1.0]}'), "", (400, "JSON Parse error: Invalid value. at offset: 0")),
    ],
)
def test_a_body_is_inflated_if_it_says_so(api, body, encoding, expected):
    answered = reply(api, body, headers={"content-encoding": encoding})
    assert (answered.status, json.loads(answered.body).get("error")) == expected


def test_a_version_that_is_too_large_gets_no_text(api):
    answered = reply(api, "{}", path="/v1/models/a/versions/99999999999999999999")
    assert (answered.status, answered.body) == (400, b"")


class Observed:
    def __init__(self):
        self.calls = []

    def end(self, call, status, _seconds):
        self.calls.append((call, status))


def test_every_request_passes_the_desk(answers):
    observed = Observed()
    api = RestApi(answers, Desk(observers=[observed]), None)
    headers = {"x-request-id": "mine"}
    reply(api, '{"signature_name":"two_outputs","instances":[1.0]}', headers=headers, peer="10.0.0.1")
    reply(api, "", method="PUT")
    reply(api, "", verb="", method="GET", path="/v1/models/b%20c")
    for more in ({}, {"verb": "", "method": "GET"}):
        reply(api, '{"instances":[1.0]}', path="/v1/models/a/versions/9", **more)
    seen = [(call.api, call.model, status) for call, status in observed.calls]
    assert seen == [
        ("Predict", "a", "OK"),
        ("", "", "INVALID_ARGUMENT"),
        ("GetModelStatus", "b c", "NOT_FOUND"),
        ("Predict", "a", "NOT_FOUND"),
        ("GetModelStatus", "a", "NOT_FOUND"),
    ]
    assert [call.version for call, _ in observed.calls] == [1, None, None, None, None]  # that answered
    call = observed.calls[0][0]
    assert (call.id, call.peer, call.entrypoint, call.metadata) == ("mine", "10.0.0.1", "REST", headers)
    assert (call.version, call.signature, call.deadline) == (1, "two_outputs", None)
    assert {"decode", "run", "encode"} <= call.seconds.keys()
    assert observed.calls[1][0].id != observed.calls[2][0].id


def test_a_defect_is_told_without_its_insides(answers, monkeypatch, caplog):
    def defect(*_what, **_options):
        raise RuntimeError("insides")

    monkeypatch.setattr(Runtime, "run", defect)
    observed = Observed()
    answered = reply(RestApi(answers, Desk(observers=[observed]), 30), '{"instances":[1.0]}')
    assert error(answered) == (500, "The server failed at this request; its log says why")
    assert [status for _, status in observed.calls] == ["INTERNAL"]
    (record,) = caplog.records
    assert observed.calls[0][0].id in record.getMessage()
    assert "insides" in caplog.text


def test_a_full_server_says_when_to_come_again(answers):
    api = RestApi(answers, Desk(admission=Admission(max_pending=1)), 30)
    request, body = Request("POST", "/v1/models/a:predict"), b'{"instances":[1.0]}'
    for end in (
        lambda admitted: admitted.answer(body),
        lambda admitted: admitted.refuse(TooLargeError("23", 22), "size"),
        lambda admitted: admitted.drop(),
    ):
        first, refused = api.admit(request), api.admit(request)
        assert (refused.status, refused.headers) == (429, {"Retry-After": "1"})
        end(first)
    assert api.admit(request).answer(body).status == 200


def test_what_becomes_of_an_admitted_request_is_told(answers):
    observed = Observed()
    api = RestApi(answers, Desk(observers=[observed]), 30)
    request = Request("POST", "/v1/models/a:predict")
    assert api.admit(request).refuse(TooLargeError("23", 22), "size").status == 413
    api.admit(request).drop()
    assert [status for _, status in observed.calls] == ["RESOURCE_EXHAUSTED", "CANCELLED"]
    assert [
        api.admit(Request(*asked)).is_work for asked in (("POST", "/v1/models/a:predict"), ("GET", "/v1/models/a"))
    ] == [
        True,
        False,
    ]


def test_a_body_that_is_too_large_once_it_is_inflated_is_refused(answers):
    observed = Observed()
    api, body = RestApi(answers, Desk(observers=[observed]), 30, 1000), b'{"instances":[1.0]%b}'
    gzipped = {"content-encoding": "gzip"}
    assert reply(api, gzip.compress(body % (b" " * 900)), headers=gzipped).status == 200
    assert reply(api, gzip.compress(body % (b" " * (1001 - len(body) + 2))), headers=gzipped) == Reply(
        413, b'{\n    "error": "Received message larger than max (more, once it is inflated, vs. 1000)"\n}'
    )
    assert [call.refused for call, _ in observed.calls] == [None, "size"]


def test_the_version_that_says_what_the_inputs_are_is_the_one_that_answers(answers, monkeypatch):
    leases, lease = [], Lifecycle.lease
    monkeypatch.setattr(Lifecycle, "lease", lambda *what: leases.append(what) or lease(*what))
    assert reply(RestApi(answers, Desk(), 30), '{"instances":[1.0]}').status == 200
    assert len(leases) == 1


def test_a_caller_without_a_key_is_refused(answers, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("")
    api = RestApi(answers, Desk(guard=Guard(keys=KeyFile(keys))), 30)
    refused = reply(api, '{"instances":[1.0]}')
    assert refused.status == 401
    assert "error" in json.loads(refused.body)


def test_nothing_is_computed_for_a_caller_that_has_gone_or_waited_too_long(answers):
    observed = Observed()
    api = RestApi(answers, Desk(observers=[observed]), 30)
    assert reply(api, '{"instances":[1.0]}', gone=lambda: True).status == 499
    late = RestApi(answers, Desk(observers=[observed]), 1e-9)
    assert error(reply(late, '{"instances":[1.0]}')) == (504, "Timed out waiting for notification")
    assert [("run" in call.seconds, status) for call, status in observed.calls] == [
        (False, "CANCELLED"),
        (False, "DEADLINE_EXCEEDED"),
    ]


def test_a_body_of_many_numbers_is_answered_exactly(api):
    values = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    answered = reply(api, json.dumps({"instances": values.tolist()}))
    predictions = np.array(json.loads(answered.body)["predictions"], np.float32)
    np.testing.assert_array_equal(predictions, tf.constant(values) * 0.5 + 2.0)
