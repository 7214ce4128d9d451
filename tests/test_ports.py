import json
import logging
import socket
import threading
import urllib.request
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.answers import Answers
from serving.flags import Flags
from serving.lifecycle import Lifecycle
from serving.loading import Retries
from serving.monitoring import Monitoring
from serving.operations import Operations
from serving.ports import Ports, address, channel_arguments
from serving.servable import Servable, ServableOptions
from tests.grpc_serving import request
from tests.lifecycles import aspire
from tests.small_models import plus
from tests.standin import closed_address
from tests.waiting import until


def free_port():
    return int(closed_address().rpartition(":")[2])


@pytest.fixture(scope="module")
def lifecycle():
    made = Lifecycle(lambda *what: Servable.load(*what, ServableOptions()), Retries(count=0), threading.Event())
    aspire(made, "p", {1: plus(1)})
    yield made
    aspire(made, "p", {})


@pytest.fixture
def ports(lifecycle):
    """Makes ports of flags, and closes them; `stop` closes the last ones."""
    opened = []

    def make(**flags):
        options = Flags(**{"port": free_port(), "bind_address": "127.0.0.1", **flags})
        operations = Operations(options, Monitoring())
        reload = lambda _request, _call: model_management_pb2.ReloadConfigResponse()  # noqa: E731
        made = Ports(options, Answers(lifecycle), operations.desk, reload, operations.pages(lifecycle))
        opened.append(made)
        made.open()
        return options

    make.stop = lambda grace: opened.pop().stop(grace)
    yield make
    for made in opened:
        made.stop(0)


def predict(target, rows=1):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "p"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.zeros(rows, np.float32)))
    with grpc.insecure_channel(target) as channel:
        response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60)
        return response.outputs["y"].float_val[0]


def refusal(call, *arguments):
    with pytest.raises(grpc.RpcError) as refused:
        call(*arguments)
    return refused.value.code()


def test_a_socket_and_a_port_answer_alike(ports, tmp_path, caplog):
    caplog.set_level(logging.INFO, "serving.ports")
    options = ports(grpc_socket_path=str(tmp_path / "socket"))
    assert predict(f"127.0.0.1:{options.port}") == 1
    assert predict(f"unix:{tmp_path / 'socket'}") == 1
    assert caplog.messages == [
        "Using InsecureServerCredentials",
        f"Running gRPC ModelServer at 127.0.0.1:{options.port} ...",
        f"Running gRPC ModelServer at UNIX socket {tmp_path / 'socket'} ...",
    ]


def test_a_socket_does_without_a_port(ports, tmp_path):
    ports(port=0, grpc_socket_path=str(tmp_path / "socket"))
    assert predict(f"unix:{tmp_path / 'socket'}") == 1


def test_every_interface_is_listened_at_unless_one_is_named(ports):
    options = ports(bind_address="")
    assert predict(f"127.0.0.1:{options.port}") == 1
    assert predict(f"[::1]:{options.port}") == 1
    one = ports(bind_address="::1")
    assert predict(f"[::1]:{one.port}") == 1
    assert refusal(predict, f"127.0.0.1:{one.port}") == grpc.StatusCode.UNAVAILABLE


def test_a_port_that_is_taken_has_the_real_servers_error(ports):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(tf.errors.InvalidArgumentError) as refused:
        ports(port=taken.getsockname()[1])
    assert refused.value.message == "Failed to BuildAndStart gRPC server"


def test_a_reload_is_taken_on_the_admin_port_alone(ports):
    options = ports(admin_port=free_port())

    def reload(port):
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = model_service_pb2_grpc.ModelServiceStub(channel)
            return stub.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest(), timeout=60)

    assert refusal(reload, options.port) == grpc.StatusCode.PERMISSION_DENIED
    reload(options.admin_port)
    assert predict(f"127.0.0.1:{options.admin_port}") == 1


def test_a_message_beyond_the_cap_is_refused(ports):
    options = ports(max_message_bytes=1000)
    assert predict(f"127.0.0.1:{options.port}") == 1
    assert refusal(predict, f"127.0.0.1:{options.port}", 1000) == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_channel_arguments_reach_the_server(ports):
    options = ports(grpc_channel_arguments="grpc.max_receive_message_length=1,grpc.max_send_message_length=1000")
    assert predict(f"127.0.0.1:{options.port}") == 1
    assert refusal(predict, f"127.0.0.1:{options.port}", 1000) == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_channel_arguments_are_numbers_or_texts(caplog):
    assert channel_arguments("") == {}
    assert channel_arguments("grpc.a=-7,b=x=y,") == {"grpc.a": -7, "b": "x=y"}
    assert channel_arguments("grpc.max_receive_message_length=5") == {}
    assert "grpc.max_receive_message_length has no effect" in caplog.text
    assert channel_arguments("grpc.a=2147483647,grpc.b=-2147483648") == {"grpc.a": 2**31 - 1, "grpc.b": -(2**31)}
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"has 'grpc\.a'; expected name=value"):
        channel_arguments("grpc.a")
    for number in ("2147483648", "-2147483649", "9" * 5000):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"grpc\.a is -?[0-9]+; expected -2147483648 to"):
            channel_arguments(f"grpc.a={number}")


@pytest.mark.parametrize(
    ("host", "expected"), [("", "[::]:8500"), ("127.0.0.1", "127.0.0.1:8500"), ("::1", "[::1]:8500")]
)
def test_an_address_is_written_as_grpc_wants_it(host, expected):
    assert address(host, 8500) == expected


def test_a_certificate_of_no_use_is_told_before_a_port_is_open(ports, tmp_path, caplog):
    file = tmp_path / "ssl.config"
    file.write_text('server_key: "no key" server_cert: "no certificate"')
    with pytest.raises(tf.errors.InvalidArgumentError) as refused:
        ports(ssl_config_file=str(file))
    assert refused.value.message == "Failed to BuildAndStart gRPC server"
    assert "server_key and server_cert are no pair" in caplog.text
    with pytest.raises(tf.errors.NotFoundError) as missing:
        ports(ssl_config_file=str(tmp_path / "nope"))
    assert missing.value.message == f"{tmp_path / 'nope'}; No such file or directory"


def test_health_is_served_when_it_is_asked_for(ports):
    for asked in (False, True):
        options = ports(enable_grpc_healthcheck_service=asked)
        with grpc.insecure_channel(f"127.0.0.1:{options.port}") as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            request = health_pb2.HealthCheckRequest()
            if asked:
                assert check(request, timeout=60).status == health_pb2.HealthCheckResponse.SERVING
            else:
                assert refusal(check, request) == grpc.StatusCode.UNIMPLEMENTED


def outcome(call):
    return call.code(), call.details()


def test_with_the_health_service_the_ports_stay_open_until_requests_under_way_have_ended(ports, tmp_path):
    options = ports(enable_grpc_healthcheck_service=True, admin_port=free_port())
    target, gate = f"127.0.0.1:{options.port}", tmp_path / "gate"
    going_down = (grpc.StatusCode.UNAVAILABLE, "The server is going down")
    with grpc.insecure_channel(target) as channel, futures.ThreadPoolExecutor(1) as pool:
        stub, health = prediction_service_pb2_grpc.PredictionServiceStub(channel), health_pb2_grpc.HealthStub(channel)
        slow = stub.Predict.future(request("wait", gate=str(gate)))
        until(gate.with_suffix(".waiting").exists)
        stopping = pool.submit(ports.stop, 600)
        asked = health_pb2.HealthCheckRequest()
        until(lambda: health.Check(asked).status == health_pb2.HealthCheckResponse.NOT_SERVING)
        until(lambda: outcome(stub.Predict.future(request(x=np.float32([0])))) == going_down)
        with grpc.insecure_channel(f"127.0.0.1:{options.admin_port}") as admin:
            reload = model_service_pb2_grpc.ModelServiceStub(admin).HandleReloadConfigRequest
            until(lambda: outcome(reload.future(model_management_pb2.ReloadConfigRequest())) == going_down)
        with grpc.insecure_channel(target) as another:
            check = health_pb2_grpc.HealthStub(another).Check
            assert check(asked).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not stopping.done()
        gate.touch()
        assert slow.result(60).outputs["y"].float_val == [1]
        stopping.result(60)
        assert health.Check.future(asked).code() == grpc.StatusCode.UNAVAILABLE


def test_without_it_they_close_at_once(ports, tmp_path):
    target, gate = f"127.0.0.1:{ports().port}", tmp_path / "gate"
    with grpc.insecure_channel(target) as channel, futures.ThreadPoolExecutor(1) as pool:
        slow = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict.future(
            request("wait", gate=str(gate))
        )
        until(gate.with_suffix(".waiting").exists)
        stopping = pool.submit(ports.stop, 600)
        until(lambda: is_closed(target))
        assert not stopping.done()
        gate.touch()
        assert slow.result(60).outputs["y"].float_val == [1]
        stopping.result(60)


def is_closed(target):
    try:
        socket.create_connection(target.split(":")).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.parametrize("health", [True, False])
def test_when_nothing_is_under_way_the_grace_is_not_waited_for(ports, health):
    options = ports(enable_grpc_healthcheck_service=health, rest_api_port=free_port())
    assert predict(f"127.0.0.1:{options.port}") == 1
    with futures.ThreadPoolExecutor(1) as pool:
        pool.submit(ports.stop, 600).result(60)


def test_what_is_under_way_at_the_end_of_the_grace_is_ended(ports, tmp_path):
    options, gate = ports(enable_grpc_healthcheck_service=True), tmp_path / "gate"
    with grpc.insecure_channel(f"127.0.0.1:{options.port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        endless = stub.Predict.future(request("wait", gate=str(gate)))
        until(gate.with_suffix(".waiting").exists)
        ports.stop(0.2)
        assert endless.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    gate.touch()


def rest_predict(port):
    body = json.dumps({"instances": [0.0]}).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models/p:predict", body, timeout=60) as response:
        return json.load(response)


def test_rest_is_opened_beside_grpc(ports, caplog):
    caplog.set_level(logging.INFO, "serving.ports")
    options = ports(rest_api_port=free_port())
    assert rest_predict(options.rest_api_port) == {"predictions": [1.0]}
    assert caplog.messages[-1] == f"Exporting HTTP/REST API at:127.0.0.1:{options.rest_api_port} ..."


def test_a_rest_port_that_is_taken_or_the_same_is_told_and_grpc_serves_on(ports, caplog):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = ports(rest_api_port=taken.getsockname()[1])
    assert predict(f"127.0.0.1:{options.port}") == 1
    assert f"Failed to start HTTP Server at 127.0.0.1:{options.rest_api_port}" in caplog.text
    port = free_port()
    ports(port=port, rest_api_port=port)
    assert predict(f"127.0.0.1:{port}") == 1
    assert caplog.messages[-1] == (
        "server_options.http_port cannot be same as grpc_port. Please use a different port for HTTP/REST API. "
        "Skipped exporting HTTP/REST API."
    )
