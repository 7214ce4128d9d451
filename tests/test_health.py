import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving import health as module
from serving.health import Health
from tests.grpc_serving import half_sent, serving
from tests.waiting import until

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def health():
    return Health()


def test_it_is_the_servers_and_ends_with_it(health):
    with serving({}, health=health) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "ModelService", "PredictionService"):
            assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == SERVING
        with pytest.raises(grpc.RpcError) as unknown:
            stub.Check(health_pb2.HealthCheckRequest(service="p"))
        assert (unknown.value.code(), unknown.value.details()) == (
            grpc.StatusCode.NOT_FOUND,
            "service name unknown",
        )
        nowhere = stub.Watch(health_pb2.HealthCheckRequest(service="nope"))
        assert next(nowhere).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING
        until(lambda: len(health._watchers) == 2)
        health.end()
        assert [message.status for message in watch] == [health_pb2.HealthCheckResponse.NOT_SERVING]
        assert list(nowhere) == []
        late = stub.Watch(health_pb2.HealthCheckRequest())
        assert [message.status for message in late] == [health_pb2.HealthCheckResponse.NOT_SERVING]


def test_a_watch_that_has_ended_is_forgotten_whatever_it_watched(health):
    with serving({}, health=health) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ["", *(f"made-up-{number}" for number in range(50))]:
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=name))
            next(watch)
            watch.cancel()
        until(lambda: not health._watchers)


@pytest.mark.parametrize("sent", [[], [b"\xff\xff"]])
def test_what_is_no_request_is_an_internal_error(health, sent):
    with serving({}, health=health) as channel:
        for call in (channel.stream_unary(CHECK).future(iter(sent)), channel.stream_stream(WATCH)(iter(sent))):
            assert (call.code(), call.details()) == (grpc.StatusCode.INTERNAL, "")


@pytest.mark.parametrize(("patience", "code"), [(0, "OK"), (60, "RESOURCE_EXHAUSTED")])
def test_callers_that_send_no_request_are_bounded_and_make_room(monkeypatch, patience, code):
    monkeypatch.setattr(module, "_PLACES", 2)
    monkeypatch.setattr(module, "_PATIENCE", patience)
    health = Health()
    with serving({}, health=health) as channel, half_sent() as requests:
        waiting = [channel.stream_unary(CHECK).future(requests()), channel.stream_stream(WATCH)(requests())]
        until(lambda: len(health._uploads._waiting) == 2)
        check = channel.unary_unary(CHECK).future(b"")
        assert check.code().name == code
        assert sum(call.done() for call in waiting) <= 1
        if code == "OK":
            until(lambda: waiting[0].done() or waiting[1].done())
