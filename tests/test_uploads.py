import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import prediction_service_pb2_grpc

from serving import services
from serving.desk import Desk
from serving.health import Health
from serving.uploads import Uploads
from tests.grpc_serving import PREDICT, Seen, half_sent, request, serving
from tests.small_models import plus
from tests.waiting import until


class Caller:
    """As much of a gRPC context as is needed."""

    def __init__(self):
        self.cancelled = False

    def cancel(self):
        self.cancelled = True


def test_a_place_is_free_again_after_the_wait():
    uploads, first, second = Uploads(1, patience=60), Caller(), Caller()
    with uploads.place(first) as taken, uploads.place(second) as refused:
        assert (taken, refused) == (True, False)
    with uploads.place(second) as taken:
        assert taken
    assert (first.cancelled, second.cancelled) == (False, False)


def test_beyond_its_patience_the_longest_wait_is_ended_for_the_next():
    uploads, callers = Uploads(2, patience=0), [Caller() for _ in range(3)]
    with uploads.place(callers[0]), uploads.place(callers[1]), uploads.place(callers[2]) as taken:
        assert taken
        assert [caller.cancelled for caller in callers] == [True, False, False]


def predict(channel):
    """The status of a call that is whole."""
    call = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict.future(request(x=np.float32([4])))
    return call.code().name  # waits


def test_calls_that_send_no_request_hold_up_neither_calls_nor_health(monkeypatch):
    monkeypatch.setattr(services, "_UPLOADS", 4)
    health, desk = Health(), Desk()
    with serving({"p": {1: plus(1)}}, max_calls=1, health=health, desk=desk) as channel, half_sent() as requests:
        waiting = [channel.stream_unary(PREDICT).future(requests()) for _ in range(3)]
        until(lambda: desk.admission.waiting == 3)
        assert [predict(channel) for _ in range(5)] == ["OK"] * 5
        waiting.append(channel.stream_unary(PREDICT).future(requests()))
        until(lambda: desk.admission.waiting == 4)
        until(lambda: predict(channel) == "RESOURCE_EXHAUSTED")
        check = health_pb2_grpc.HealthStub(channel).Check
        assert check(health_pb2.HealthCheckRequest(), timeout=60).status == health_pb2.HealthCheckResponse.SERVING


def test_under_pressure_the_call_that_has_sent_nothing_for_long_makes_room(monkeypatch):
    monkeypatch.setattr(services, "_UPLOADS", 1)
    monkeypatch.setattr(services, "_PATIENCE", 0)
    with serving({"p": {1: plus(1)}}) as channel, half_sent() as requests:
        waiting = channel.stream_unary(PREDICT).future(requests())
        until(lambda: predict(channel) == "OK" and waiting.done())
        assert waiting.code() == grpc.StatusCode.CANCELLED
        assert predict(channel) == "OK"


def test_a_call_that_sends_no_request_ends_with_its_deadline():
    seen = Seen()
    with serving({"p": {1: plus(1)}}, desk=Desk(observers=[seen])) as channel, half_sent() as requests:
        call = channel.stream_unary(PREDICT).future(requests(), timeout=0.5)
        assert call.exception(timeout=60).code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert seen.ended.get(timeout=30)[1] == "CANCELLED"
