import threading
import time
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving.admission import Admission
from serving.answers import Answers
from serving.call import Call
from serving.desk import Desk
from serving.grpc_server import serve
from serving.guard import Guard
from serving.keys import KeyFile, line, make_key
from serving.lifecycle import Lifecycle, Retries
from serving.runtime import Runtime
from serving.services import Services
from tests.grpc_serving import PREDICT, Seen, half_sent, load, request, serving
from tests.small_models import plus
from tests.waiting import until


@pytest.fixture(scope="module")
def channel():
    with serving({"p": {1: plus(1)}}) as opened:
        yield opened


@pytest.mark.parametrize(
    ("method", "content", "code"),
    [
        ("/tensorflow.serving.PredictionService/Nope", b"", grpc.StatusCode.UNIMPLEMENTED),
        ("/tensorflow.serving.PredictionService/PredictStreamed", b"", grpc.StatusCode.UNIMPLEMENTED),
        ("/tensorflow.serving.SessionService/SessionRun", b"", grpc.StatusCode.UNIMPLEMENTED),
        ("/tensorflow.serving.ModelService/HandleReloadConfigRequest", b"", grpc.StatusCode.UNIMPLEMENTED),
        ("/grpc.health.v1.Health/Check", b"", grpc.StatusCode.UNIMPLEMENTED),
        (PREDICT, b"\xff\xff", grpc.StatusCode.INTERNAL),
        (PREDICT, None, grpc.StatusCode.INTERNAL),
    ],
)
def test_what_is_no_call_has_a_code_and_no_text(channel, method, content, code):
    with pytest.raises(grpc.RpcError) as refused:
        channel.stream_unary(method)(iter([] if content is None else [content]))
    assert (refused.value.code(), refused.value.details()) == (code, "")


def test_a_long_text_is_cut(channel):
    with pytest.raises(grpc.RpcError) as refused:
        prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request("s" * 2000))
    assert refused.value.details() == ('Serving signature key "' + "s" * 2000)[:1024] + "...TRUNCATED"


def test_a_message_may_be_larger_than_grpcs_default(channel):
    x = np.arange(4_000_000, dtype=np.float32)
    response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request(x=x))
    np.testing.assert_allclose(tf.make_ndarray(response.outputs["y"]), x / 2 + 1)


def test_the_calls_deadline_ends_the_run(channel, tmp_path):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    with pytest.raises(grpc.RpcError) as ended:
        stub.Predict(request("wait", gate=str(tmp_path / "never")), timeout=0.3)
    assert ended.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    end = time.monotonic() + 30
    while not idle():  # the loop spins until it is told to end
        assert time.monotonic() < end


def idle():
    """Whether this process does next to nothing for a while."""
    used = time.process_time()
    time.sleep(0.3)
    return time.process_time() - used < 0.15


def test_a_call_beyond_the_limit_is_refused_at_once(tmp_path):
    seen = Seen()
    with serving({"p": {1: plus(1)}}, max_calls=2, desk=Desk(observers=[seen])) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        calls = [stub.Predict.future(request("wait", gate=str(tmp_path / "gate"))) for _ in range(12)]
        done, under_way = wait_until(calls, 10)
        assert {(call.code(), call.details()) for call in done} == {
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
        }
        assert [seen.ended.get(timeout=30)[1] for _ in range(10)] == ["RESOURCE_EXHAUSTED"] * 10
        (tmp_path / "gate").touch()
        assert [call.result(timeout=60).outputs["y"].float_val[0] for call in under_way] == [1, 1]
        assert stub.Predict(request(x=np.zeros(1, np.float32))).outputs["y"].float_val[0] == 1


def wait_until(calls, count):
    until(lambda: sum(call.done() for call in calls) >= count)
    return [call for call in calls if call.done()], [call for call in calls if not call.done()]


@pytest.mark.parametrize("end", [lambda call: call.cancel(), next], ids=["cancelled", "read"])
def test_an_answer_that_nobody_reads_keeps_its_place_until_it_is_read_or_its_caller_goes(end):
    seen, x = Seen(), np.zeros(2**20, np.float32)
    narrow = [("grpc.http2.bdp_probe", 0)]  # or the client takes megabytes before it reads them
    with serving({"p": {1: plus(1)}}, max_calls=1, desk=Desk(observers=[seen]), client=narrow) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        unread = channel.unary_stream(PREDICT)(request(x=x).SerializeToString())
        assert seen.ended.get(timeout=30)[1] == "OK"
        short = request(x=np.zeros(1, np.float32))
        assert {stub.Predict.future(short).code() for _ in range(50)} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        end(unread)
        until(lambda: stub.Predict.future(short).code() == grpc.StatusCode.OK)


def test_a_run_that_goes_on_for_nobody_keeps_its_place(tmp_path, monkeypatch):
    run = Runtime.run
    monkeypatch.setattr(Runtime, "run", lambda *what, **options: run(*what, **options | {"timeout": None}))
    with serving({"p": {1: plus(1)}}, max_calls=1) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        left = stub.Predict.future(request("wait", gate=str(tmp_path / "gate")))
        until(tmp_path.joinpath("gate.waiting").exists)
        left.cancel()
        short = request(x=np.zeros(1, np.float32))
        assert {stub.Predict.future(short).code() for _ in range(50)} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        (tmp_path / "gate").touch()
        until(lambda: stub.Predict.future(short).code() == grpc.StatusCode.OK)


def test_clients_that_wait_for_each_answer_are_never_refused_for_their_last_one():
    with serving({"p": {1: plus(1)}}, max_calls=4) as channel, futures.ThreadPoolExecutor(4) as pool:
        stub, short = prediction_service_pb2_grpc.PredictionServiceStub(channel), request(x=np.zeros(1, np.float32))
        asking = [pool.submit(lambda: [stub.Predict(short) for _ in range(200)]) for _ in range(4)]
        assert sum(len(asked.result(60)) for asked in asking) == 800


def test_calls_in_parallel_get_their_own_answers(channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    with futures.ThreadPoolExecutor(6) as pool:
        answers = pool.map(lambda i: stub.Predict(request(x=np.float32([i]))).outputs["y"].float_val[0], range(60))
        assert list(answers) == [i / 2 + 1 for i in range(60)]


def test_a_call_says_what_grpc_knows_and_what_is_learnt():
    seen = Seen()
    with serving({"p": {1: plus(1)}}, desk=Desk(observers=[seen])) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        stub.Predict(request(x=np.zeros(3, np.float32)), timeout=60, metadata=[("x-request-id", "seven")])
        stub.Predict(request("describe"))
        with pytest.raises(grpc.RpcError):
            stub.Classify(classification_pb2.ClassificationRequest(model_spec={"name": "q"}))
    (first, ok), (second, _), (third, missing) = (seen.ended.get(timeout=30) for _ in range(3))
    assert (first.api, first.entrypoint, first.id, first.metadata["x-request-id"]) == (
        "Predict",
        "GRPC",
        "seven",
        "seven",
    )
    assert first.peer.startswith("ipv4:127.0.0.1:")
    assert (first.model, first.version, first.signature, first.rows) == ("p", 1, "serving_default", 3)
    assert {"decode", "run", "encode"} <= first.seconds.keys()
    assert 0 < first.remaining() <= 60
    assert (second.remaining(), second.signature) == (None, "describe")
    assert len(second.id) == 32 != third.id
    assert (third.api, third.model, third.version) == ("Classify", "q", None)
    assert (ok, missing) == ("OK", "NOT_FOUND")


class Patient(Guard):
    """Lets a call in when its caller has gone."""

    def __init__(self):
        super().__init__()
        self.asked = threading.Event()

    def check(self, call):
        self.asked.set()
        until(call.gone)


def test_a_call_whose_caller_has_gone_is_not_computed():
    seen, guard = Seen(), Patient()
    with serving({"p": {1: plus(1)}}, desk=Desk(observers=[seen], guard=guard)) as channel:
        call = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict.future(request(x=np.float32([1])))
        assert guard.asked.wait(30)
        call.cancel()
        ended, status = seen.ended.get(timeout=30)
    assert status == "CANCELLED"
    assert "run" not in ended.seconds


def test_bytes_that_are_no_request_are_refused():
    seen = Seen()
    with serving({}, desk=Desk(observers=[seen])) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(PREDICT)(b"\xff\xff")
    call, status = seen.ended.get(timeout=30)
    assert (call.refused, status) == ("form", "INTERNAL")


def test_a_message_that_is_too_large_for_grpc_is_told_of_as_if_its_caller_had_gone():
    seen, small = Seen(), {"grpc.max_receive_message_length": 1000}
    with serving({}, desk=Desk(observers=[seen]), arguments=small) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(PREDICT)(bytes(2000))
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    call, status = seen.ended.get(timeout=30)
    assert (call.refused, status) == (None, "CANCELLED")


def test_reload_is_passed_on():
    def reload(asked, _call):
        if not asked.config.HasField("model_config_list"):
            raise tf.errors.InvalidArgumentError(None, None, "no list")
        return model_management_pb2.ReloadConfigResponse(status={"error_message": "done"})

    with serving({}, reload=reload) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        asked = model_management_pb2.ReloadConfigRequest(config={"model_config_list": {}})
        assert stub.HandleReloadConfigRequest(asked).status.error_message == "done"
        with pytest.raises(grpc.RpcError) as refused:
            stub.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest())
        assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "no list")


def test_a_port_that_is_taken_is_an_error():
    lifecycle = Lifecycle(load, Retries(), threading.Event())
    first, port = serve(Services(Answers(lifecycle), Desk(), 1), address="127.0.0.1:0")
    with pytest.raises(OSError, match="cannot listen on"):
        serve(Services(Answers(lifecycle), Desk(), 1), address=f"127.0.0.1:{port}")
    first.stop(None).wait()


def test_a_defect_is_an_internal_error_without_its_text(caplog):
    with serving({}, reload=lambda _asked, _call: 1 / 0) as channel, pytest.raises(grpc.RpcError) as failed:
        model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(
            model_management_pb2.ReloadConfigRequest()
        )
    assert failed.value.code() == grpc.StatusCode.INTERNAL
    assert failed.value.details() == "The server failed at this request; its log says why"
    assert "ZeroDivisionError" in caplog.text


def test_a_refused_call_is_told_of_and_its_request_is_not_waited_for(tmp_path):
    (tmp_path / "keys").write_text(line("alice", make_key()))
    seen = Seen()
    locked = Desk(observers=[seen], guard=Guard(keys=KeyFile(tmp_path / "keys")))
    full = Desk(observers=[seen], admission=Admission(max_pending=1))
    full.admit(Call("Predict", "REST"))
    with half_sent() as requests:
        for desk, calls, code, reason in (
            (locked, 7, grpc.StatusCode.UNAUTHENTICATED, "key"),
            (full, 7, grpc.StatusCode.RESOURCE_EXHAUSTED, "pending"),
            (full, 0, grpc.StatusCode.RESOURCE_EXHAUSTED, "threads"),
        ):
            with serving({}, desk=desk, max_calls=calls) as channel:
                refused = channel.stream_unary(PREDICT).future(requests())
                assert refused.exception(timeout=60).code() == code
                call, status = seen.ended.get(timeout=30)
                assert (status, call.refused) == (code.name, reason)
    assert refused.details() == "Server Threadpool Exhausted"
