"""Requests that are a little wrong, and how their answers are judged; `make fuzz` sends many of them."""

import contextlib
import json
import random
import threading

import pytest
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest

from benchmarks import conformance, mutations
from benchmarks.fuzz import judge
from benchmarks.fuzz_cases import Case, Corpus
from benchmarks.raw_client import LOST, Grpc, Http, Reply, request
from serving import configuration, grpc_server, models, rest_server, services
from serving.answers import Answers
from serving.desk import Desk
from serving.lifecycle import Lifecycle
from serving.loading import Retries
from serving.servable import Servable, ServableOptions
from tests.small_models import half_plus, put
from vit22b import wire_pb2
from vit22b.tensors import from_wire

CONFIG = """model_config_list {
  config { name: "half_plus" base_path: "/models/half_plus" model_platform: "tensorflow" }
  config { name: "tower" base_path: "/models/tower" model_platform: "tensorflow" }
}"""
GRPC = Case(0, b"", path="/tensorflow.serving.PredictionService/Predict")
RELOAD = Case(0, b"", path="/tensorflow.serving.ModelService/HandleReloadConfigRequest")
REST = Case(0, b"")
NOT_LOADED = "1 model(s) did not become available: {{{name: b version: 1} due to error: NOT_FOUND: no}, }"


@pytest.fixture(scope="module")
def corpus():
    return Corpus((conformance.CONFORMANCE / "cases.jsonl").read_text(), CONFIG)


def test_a_number_and_a_seed_make_a_request(corpus):
    first = [corpus.case(1, number) for number in range(300)]
    assert first == [corpus.case(1, number) for number in range(300)]
    assert first != [corpus.case(2, number) for number in range(300)]


def test_requests_go_to_every_method_and_most_of_them_have_a_meaning(corpus):
    cases = [corpus.case(0, number) for number in range(3000)]
    assert {case.path.rpartition("/")[2] for case in cases} == {
        *("", "Predict", "Classify", "Regress", "MultiInference"),
        *("GetModelMetadata", "GetModelStatus", "HandleReloadConfigRequest"),
    }
    assert 0.3 < sum(not case.path for case in cases) / len(cases) < 0.5
    assert sum(case.parses for case in cases if case.path) > 1000
    assert len({case.content for case in cases}) > 2000


def test_no_reload_takes_the_neighbours_model_away(corpus):
    reloads = [case for number in range(10_000) if (case := corpus.case(0, number)).path.endswith("ConfigRequest")]
    assert len(reloads) > 25
    for case in reloads:
        try:
            config = ReloadConfigRequest.FromString(case.content).config
        except DecodeError:
            continue
        if config.WhichOneof("config") == "model_config_list":
            assert "/models/half_plus" in [each.base_path for each in config.model_config_list.config]


def test_a_changed_message_is_a_message_and_leaves_the_first_as_it_was():
    message = predict_pb2.PredictRequest.FromString(Corpus.neighbour())
    changed = [mutations.a_message(message, random.Random(seed)) for seed in range(300)]
    assert message.SerializeToString() == Corpus.neighbour()
    assert sum(each != message for each in changed) > 200
    assert {each.inputs["x"].dtype for each in changed} > {1, 0}


def test_a_changed_document_is_json_and_leaves_the_first_as_it_was():
    document = {"signature_name": "x", "instances": [{"x": [1.0, 2.0]}]}
    changed = [mutations.a_document(document, random.Random(seed)) for seed in range(300)]
    assert document == {"signature_name": "x", "instances": [{"x": [1.0, 2.0]}]}
    assert all(json.loads(json.dumps(each)) is not None for each in changed if each is not None)
    assert sum(each != document for each in changed) > 250


def test_a_request_of_http_is_whole():
    assert request("POST", "/v1/", b"{}", {"A": "b"}) == (
        b"POST /v1/ HTTP/1.1\r\nHost: localhost\r\nA: b\r\nContent-Length: 2\r\n\r\n{}"
    )


@pytest.mark.parametrize(
    ("case", "reply"),
    [
        (GRPC, Reply("OK")),
        (GRPC, Reply("INVALID_ARGUMENT", text="why")),
        (Case(0, b"", path=GRPC.path, parses=False), Reply("INTERNAL")),
        (GRPC, Reply("INTERNAL", text="Tensor concat operation failed: INVALID_ARGUMENT: no")),
        (RELOAD, Reply("UNKNOWN", text=NOT_LOADED)),
        (REST, Reply("400")),
        (Case(0, b"", whole=False), Reply(LOST, text="RemoteDisconnected: closed")),
    ],
)
def test_an_answer_of_the_real_servers_kind_is_right(case, reply):
    assert judge(case, reply) == ""


@pytest.mark.parametrize(
    ("case", "reply", "told"),
    [
        (GRPC, Reply(LOST, text="no answer in 20 s"), "no answer: no answer in 20 s"),
        (GRPC, Reply("UNKNOWN", text="Exception calling application"), "UNKNOWN Exception calling application"),
        (GRPC, Reply("UNKNOWN", text=NOT_LOADED), "UNKNOWN 1 model"),
        (RELOAD, Reply("UNKNOWN", text="no"), "UNKNOWN no"),
        (GRPC, Reply("INTERNAL"), "and it is a message"),
        (GRPC, Reply("INTERNAL", text="ValueError"), "INTERNAL ValueError"),
        (REST, Reply("500", b"<HTML>"), "500  b'<HTML>'"),
        (REST, Reply(LOST, text="RemoteDisconnected: closed"), "no answer: RemoteDisconnected"),
        (Case(0, b"", whole=False), Reply(LOST, text="timed out"), "no answer: timed out"),
    ],
)
def test_an_answer_that_is_the_servers_own_fault_is_told(case, reply, told):
    assert told in judge(case, reply)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The addresses, gRPC's and REST's, of a server of half_plus."""
    base_path = tmp_path_factory.mktemp("fuzz") / "half_plus"
    put(half_plus(1), base_path, 1)
    stop = threading.Event()
    lifecycle = Lifecycle(lambda *what: Servable.load(*what, ServableOptions()), Retries(0), stop)
    served = models.Models(lifecycle, stop)
    served.start(configuration.one_model("half_plus", str(base_path)))
    answers, desk = Answers(lifecycle), Desk()
    rest = rest_server.serve(answers, desk, rest_server.HttpOptions(host="127.0.0.1"))
    grpc, port = grpc_server.serve(services.Services(answers, desk, 7), address="127.0.0.1:0")
    yield f"127.0.0.1:{port}", f"127.0.0.1:{rest.port}"
    grpc.stop(None).wait()
    rest.stop(0)
    served.close()


def test_every_request_is_answered_and_a_neighbour_is_as_before(served, corpus):
    with contextlib.closing(Grpc(served[0])) as client:
        for number in range(150):
            case = corpus.case(3, number)
            if case.path:
                reply = client.send(case.path, case.content, patience=60)
            else:
                with contextlib.closing(Http(served[1], 60)) as http:
                    reply = http.send(case.content, case.method, whole=case.whole)
            assert judge(case, reply) == "", case
        reply = client.send(GRPC.path, Corpus.neighbour(), patience=60)
    assert from_wire(wire_pb2.PredictResponse.FromString(reply.content).outputs["y"]).tolist() == [2.5, 3.0, 4.5]


def test_a_client_of_bytes_tells_an_answer_from_the_lack_of_one(served):
    grpc, rest = served
    status = request("GET", "/v1/models/half_plus")
    with contextlib.closing(Http(rest, 60)) as http:
        assert [http.send(status, "GET").code for _ in range(2)] == ["200", "200"]  # on one connection
        cut = request("POST", "/v1/models/half_plus:predict", b"{}")[:-1]
        assert http.send(cut, whole=False).code == LOST  # closed without an answer, as the real server does
        assert http.send(request("FOO", "/v1/models/half_plus"), "FOO").code == "501"
        http.leave(status)
        assert http.send(status, "GET").code == "200"
    with contextlib.closing(Grpc(grpc)) as client:
        assert client.send(GRPC.path, b"\xff", patience=60) == Reply("INTERNAL")
        assert client.send("/nope.Nope/Nope", b"", patience=60).code == "UNIMPLEMENTED"
    with contextlib.closing(Grpc("127.0.0.1:1")) as client:
        assert client.send(GRPC.path, b"", patience=60).code == LOST
    with contextlib.closing(Http("127.0.0.1:1", 60)) as http:
        assert http.send(status, "GET").code == LOST
