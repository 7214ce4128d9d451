"""The server as a process: what only a process has, a command line, a port, signals and an exit code."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

from tests.grpc_serving import request
from tests.small_models import plus, put
from tests.standin import closed_address
from tests.waiting import until
from vit22b.signature import WARMUP_FILE

PROGRAM = Path(__file__).parent.parent / "serving" / "model_server.py"


class Process:
    """A running server; `lines` grows with its log."""

    def __init__(self, base_path, *flags):
        self.address = closed_address()
        address = [f"--port={self.address.rpartition(':')[2]}", "--bind_address=127.0.0.1"]
        command = [sys.executable, PROGRAM, "--model_name=p", f"--model_base_path={base_path}", *address, *flags]
        self.popen = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.lines = []
        self._reader = threading.Thread(target=lambda: self.lines.extend(self.popen.stderr))
        self._reader.start()

    def wait_for(self, pattern):
        """The first line of the log that has the pattern."""
        deadline = time.monotonic() + 60
        while True:
            for line in list(self.lines):
                if found := re.search(pattern, line):
                    return found
            assert time.monotonic() < deadline, self.lines
            assert self.popen.poll() is None or self._reader.is_alive(), self.lines
            time.sleep(0.02)

    def end(self):
        """Waits for the process; its exit code and what it wrote on stdout."""
        output, _ = self.popen.communicate(timeout=60)
        self._reader.join()
        return self.popen.returncode, output


@contextlib.contextmanager
def running(base_path, *flags):
    process = Process(base_path, *flags)
    try:
        yield process
    finally:
        process.popen.kill()
        process.end()
        process.popen.stderr.close()


def answer(response):
    return response.outputs["y"].float_val[0]


def test_a_servers_life(tmp_path):
    """An empty base path, a version, a swap under load, a broken version, SIGTERM with requests under way."""
    base_path, rest = tmp_path / "p", closed_address()
    base_path.mkdir()
    flags = ["--enable_grpc_healthcheck_service", "--max_num_load_retries=0", "--tensorflow_inter_op_parallelism=4"]
    flags.append(f"--rest_api_port={rest.rpartition(':')[2]}")
    with running(base_path, *flags) as process:
        process.wait_for("W repository.py:.* No versions of servable p found")
        for address in (process.address, rest):  # closed until the model answers
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address.split(":"))
        put(plus(1), base_path, 1)
        process.wait_for(f"Running gRPC ModelServer at {process.address} \\.\\.\\.")
        process.wait_for(f"Exporting HTTP/REST API at:{rest} \\.\\.\\.")
        with grpc.insecure_channel(process.address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            assert set(answers_during_swap(stub, base_path)) == {1, 2}
            put(plus(2) / "variables", base_path, 3)
            process.wait_for(r"E .*Loading servable: \{name: p version: 3\} failed: NOT_FOUND: Specified file path")
            assert answer(stub.Predict(request(x=np.zeros(1, np.float32)))) == 2

            put(plus(3), tmp_path / "q", 1)
            models = model_service_pb2_grpc.ModelServiceStub(channel)
            models.HandleReloadConfigRequest(reload(p=base_path, q=tmp_path / "q"))
            assert rest_predict(rest, "serving_default", [0.0], model="q") == {"outputs": [3.0]}

            with futures.ThreadPoolExecutor(1) as pool:
                slow = under_way(stub, tmp_path / "gate")
                slow_rest = pool.submit(rest_predict, rest, "wait", str(tmp_path / "rest"))
                until(tmp_path.joinpath("rest.waiting").exists)
                process.popen.send_signal(signal.SIGTERM)
                assert [message.status for message in watch] == [health_pb2.HealthCheckResponse.NOT_SERVING]
                with pytest.raises(grpc.RpcError) as refused:
                    stub.Predict(request(x=np.zeros(1, np.float32)))
                assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
                (tmp_path / "gate").touch()
                (tmp_path / "rest").touch()
                assert answer(slow.result(timeout=60)) == 2
                assert slow_rest.result(timeout=60) == {"outputs": 2.0}
        assert process.end() == (0, "")


def reload(**base_paths):
    message = model_management_pb2.ReloadConfigRequest()
    for name, path in base_paths.items():
        message.config.model_config_list.config.add(name=name, base_path=str(path), model_platform="tensorflow")
    return message


def rest_predict(address, signature, inputs, model="p"):
    body = json.dumps({"signature_name": signature, "inputs": inputs}).encode()
    with urllib.request.urlopen(f"http://{address}/v1/models/{model}:predict", body, timeout=60) as response:
        return json.load(response)


def answers_during_swap(stub, base_path):
    """Asks without a pause while version 2 takes the place of 1; every request has to be answered."""

    def ask():
        answers = [0]
        while answers[-1] != 2:
            answers.append(answer(stub.Predict(request(x=np.zeros(1, np.float32)), timeout=60)))
        return answers[1:]

    with futures.ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        put(plus(2), base_path, 2)
        return [value for asker in asking for value in asker.result()]


def under_way(stub, gate):
    """A call whose run has begun, and lasts until the gate exists."""
    call = stub.Predict.future(request("wait", gate=str(gate)))
    until(gate.with_suffix(".waiting").exists)
    return call


@pytest.mark.parametrize(("signals", "drain_seconds", "code"), [(1, 0.5, 0), (2, 600, -signal.SIGTERM)])
def test_a_run_without_end_holds_it_up_for_the_grace_or_until_a_second_signal(tmp_path, signals, drain_seconds, code):
    put(plus(1), tmp_path, 1)
    with running(tmp_path, f"--drain_seconds={drain_seconds}") as process:
        process.wait_for("Running gRPC ModelServer at ")
        with grpc.insecure_channel(process.address) as channel:
            endless = under_way(prediction_service_pb2_grpc.PredictionServiceStub(channel), tmp_path / "never")
            for _ in range(signals):
                process.popen.send_signal(signal.SIGTERM)
                process.wait_for("Draining")
            assert process.end() == (code, "")
            assert endless.exception().code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_a_log_of_requests_that_nobody_reads_does_not_hold_up_the_end(tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # with it, the standard output has no lock to wait for
    put(plus(1), tmp_path, 1)
    with running(tmp_path, "--request_log=json") as process:
        process.wait_for("Running gRPC ModelServer at ")
        with grpc.insecure_channel(process.address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            for _ in range(500):  # lines of 300 bytes and more; a pipe holds 64 KiB
                stub.Predict(request(x=np.zeros(1, np.float32)), timeout=60)
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(timeout=60) == 0
        process.wait_for("Drained")


def test_another_golden_answer_fails_the_start(tmp_path):
    version = put(plus(1), tmp_path, 1)
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(request(x=np.zeros(1, np.float32)))
    log.predict_log.response.outputs["y"].CopyFrom(tf.make_tensor_proto(np.float32([1.5])))
    (version / WARMUP_FILE).parent.mkdir()
    with tf.io.TFRecordWriter(str(version / WARMUP_FILE)) as writer:
        writer.write(log.SerializeToString())
    with running(tmp_path, "--check_golden", "--load_retry_interval_micros=600000000") as process:
        code, output = process.end()
    assert code == 255
    assert output.startswith(
        "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available: {{{name: p version: 1} due to "
        "error: DATA_LOSS: golden answer of signature serving_default, output y: max abs error 0.5"
    )


def run(*flags):
    """A server that does not start: its exit code, and what it wrote on stdout and stderr."""
    ended = subprocess.run([sys.executable, PROGRAM, *flags], text=True, capture_output=True, check=False)
    return ended.returncode, ended.stdout, ended.stderr


def test_flags_that_contradict_each_other_are_told_on_stdout():
    assert run("--port=0", "--model_base_path=/m") == (
        255,
        (
            "Failed to start server. Error: INVALID_ARGUMENT: At least one of server_options.grpc_port or "
            "server_options.grpc_socket_path must be set.\n"
        ),
        "",
    )


def test_an_unknown_flag_is_refused():
    assert run("--prot=1") == (255, "", "error: unknown flag --prot; the nearest known one is --port\n")
