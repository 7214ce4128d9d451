import contextlib
import threading

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc, predict_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc as prediction_service

from serving import grpc_server, keys, metrics_page
from serving.admission import Admission
from serving.answers import Answers
from serving.call import Call
from serving.desk import Desk
from serving.guard import Guard
from serving.lifecycle import Lifecycle, Retries
from serving.monitoring import Monitoring
from serving.servable import Servable, ServableOptions
from serving.services import Services
from tests.desks import serve
from tests.lifecycles import aspire
from tests.small_models import plus


class Diary:
    """Notes what it is told."""

    def __init__(self):
        self.ended = []

    def end(self, call, status, seconds):
        assert seconds > 0
        self.ended.append((call.api, status))


@pytest.fixture
def diary():
    return Diary()


def call(api="Predict", **fields):
    return Call(api, "GRPC", **fields)


def fail(error):
    def answer():
        raise error

    return answer


def test_a_call_gets_its_answer_and_is_told_of(diary):
    desk = Desk(observers=[diary])
    asked = call()
    assert serve(desk, asked, lambda: desk.admission.running) == 1
    assert diary.ended == [("Predict", "OK")]
    assert (desk.admission.running, desk.admission.waiting) == (0, 0)
    assert asked.seconds["queue"] >= 0
    assert [stage for stage, start, end in asked.spans if start <= end] == ["queue"]


def test_an_error_goes_through_as_it_is(diary):
    desk, error = Desk(observers=[diary]), tf.errors.NotFoundError(None, None, "no such model")
    with pytest.raises(tf.errors.NotFoundError) as raised:
        serve(desk, call(), fail(error))
    assert raised.value is error
    assert diary.ended == [("Predict", "NOT_FOUND")]
    assert desk.admission.running == 0


def test_a_defect_of_ours_counts_as_internal_and_gives_the_place_back(diary):
    desk = Desk(observers=[diary], admission=Admission(max_pending=1))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            serve(desk, call(), lambda: 1 / 0)
    assert diary.ended == [("Predict", "INTERNAL")] * 2


def test_a_full_server_refuses_work_and_answers_what_probes_ask(diary):
    desk = Desk(observers=[diary], admission=Admission(max_pending=1))
    desk.admit(call())
    refused = call("Classify")
    with pytest.raises(tf.errors.ResourceExhaustedError):
        desk.admit(refused)
    assert (refused.refused, refused.admitted) == ("pending", None)
    for api in ("GetModelStatus", "GetModelMetadata", ""):
        assert serve(desk, call(api), lambda: "here") == "here"
    assert diary.ended == [
        ("Classify", "RESOURCE_EXHAUSTED"),
        ("GetModelStatus", "OK"),
        ("GetModelMetadata", "OK"),
        ("", "OK"),
    ]


def test_a_caller_that_has_gone_is_not_computed(diary):
    desk = Desk(observers=[diary])
    with pytest.raises(tf.errors.CancelledError):
        serve(desk, call(gone=lambda: True), lambda: pytest.fail("it was computed"))
    assert diary.ended == [("Predict", "CANCELLED")]


def test_a_call_that_was_admitted_before_has_one_place_and_is_told_of_once(diary):
    desk = Desk(observers=[diary], admission=Admission(max_pending=2))
    first, second = call(), call()
    desk.admit(first)
    desk.admit(second)
    assert desk.admission.waiting == 2
    desk.serve(first, lambda: None)
    desk.drop(second)
    assert desk.admission.waiting == 0
    assert diary.ended == [("Predict", "OK"), ("Predict", "CANCELLED")]


def test_the_time_in_the_queue_is_without_that_of_the_body():
    asked, desk = call(), Desk()
    desk.admit(asked)
    asked.seconds["receive"] = 1000.0
    desk.serve(asked, lambda: None)
    assert asked.seconds["queue"] == 0


def test_what_a_wire_refuses_is_told_of_and_gives_its_place_back(diary):
    desk, error = Desk(observers=[diary]), tf.errors.ResourceExhaustedError(None, None, "too large")
    before, after = call(), call()
    desk.refuse(before, error, "threads")
    desk.admit(after)
    assert (before.refused, after.refused) == ("threads", None)
    desk.refuse(after, error, "size")
    assert after.refused == "size"
    assert desk.admission.waiting == 0
    assert diary.ended == [("Predict", "RESOURCE_EXHAUSTED")] * 2


@contextlib.contextmanager
def serving(desk):
    """A real server of one model behind the desk, and a channel to it."""
    lifecycle = Lifecycle(
        lambda *what: Servable.load(*what, ServableOptions()),
        Retries(count=0),
        threading.Event(),
    )
    aspire(lifecycle, "p", {1: plus(1)})
    services = Services(Answers(lifecycle), desk, max_calls=4)
    server, port = grpc_server.serve(services, address="127.0.0.1:0")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    server.stop(None).wait()
    aspire(lifecycle, "p", {})


def predict(channel, model="p", **headers):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([4.0]))
    metadata = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return prediction_service.PredictionServiceStub(channel).Predict(request, metadata=metadata)


def test_over_grpc_keys_are_asked_for_and_requests_are_counted_as_in_tensorflow_serving(tmp_path):
    key = keys.make_key()
    tmp_path.joinpath("keys").write_text(keys.line("alice", key))
    monitoring = Monitoring()
    with serving(Desk(guard=Guard(keys=keys.KeyFile(tmp_path / "keys")), observers=[monitoring])) as channel:
        assert predict(channel, authorization=f"Bearer {key}").outputs["y"].float_val == [3.0]
        assert predict(channel, x_api_key=key).outputs["y"].float_val == [3.0]
        for headers in ({}, {"x_api_key": "nope"}, {"authorization": f"Basic {key}"}):
            with pytest.raises(grpc.RpcError) as refused:
                predict(channel, **headers)
            assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.RpcError) as refused:
            predict(channel, "nope", x_api_key=key)
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND
        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = "p"
        model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(status, metadata=[("x-api-key", key)])
    lines = metrics_page.text(monitoring).splitlines()
    counted = [line for line in lines if line.startswith(":tensorflow:serving:request_count{")]
    assert counted == [
        ':tensorflow:serving:request_count{model_name="nope",status="NOT_FOUND"} 1',
        ':tensorflow:serving:request_count{model_name="p",status="OK"} 2',
    ]
    assert ':vit22b:serving:refused_count{API="Predict",status="UNAUTHENTICATED",reason="key"} 3' in lines
    latency = ':tensorflow:serving:request_latency_count{model_name="p",API="Predict",entrypoint="GRPC"} 2'
    assert [line for line in lines if line.startswith(":tensorflow:serving:request_latency_count")] == [latency]
    for stage in ("receive", "decode", "queue", "run", "encode"):
        count = f':vit22b:serving:stage_latency_count{{model_name="p",API="Predict",stage="{stage}"}} '
        assert any(line.startswith(count) for line in lines), stage
