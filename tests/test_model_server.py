"""The server as a process: what only a process has, a command line, a port, signals and an exit code."""

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2, prediction_service_pb2_grpc

from serving import model_server, warmup
from serving.flags import Flags
from serving.servable import Servable
from tests.small_models import plus, put
from vit22b.signature import WARMUP_FILE

PROGRAM = Path(__file__).parent.parent / "serving" / "model_server.py"


class Process:
    """A running server; `lines` grows with its log."""

    def __init__(self, base_path, *flags):
        command = [sys.executable, PROGRAM, "--model_name=p", f"--model_base_path={base_path}", *flags]
        address = ["--port=0", "--bind_address=127.0.0.1"]
        self.popen = subprocess.Popen([*command, *address], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
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


def request(signature="", **inputs):
    message = predict_pb2.PredictRequest()
    message.model_spec.name, message.model_spec.signature_name = "p", signature
    for alias, value in inputs.items():
        message.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
    return message


def answer(response):
    return response.outputs["y"].float_val[0]


def test_a_servers_life(tmp_path):
    """An empty base path, a version, a swap under load, a broken version, SIGTERM with a request under way."""
    base_path = tmp_path / "p"
    base_path.mkdir()
    with running(base_path, "--enable_grpc_healthcheck_service", "--max_num_load_retries=0") as process:
        process.wait_for("W repository.py:.* No versions of servable p found")
        put(plus(1), base_path, 1)
        port = process.wait_for(r"Running gRPC ModelServer at 127.0.0.1:(\d+) \.\.\.").group(1)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            assert set(answers_during_swap(stub, base_path)) == {1, 2}
            put(plus(2) / "variables", base_path, 3)
            process.wait_for(r"E .*Loading servable: \{name: p version: 3\} failed: NOT_FOUND: Specified file path")
            assert answer(stub.Predict(request(x=np.zeros(1, np.float32)))) == 2

            slow = under_way(stub, tmp_path / "gate")
            process.popen.send_signal(signal.SIGTERM)
            assert [message.status for message in watch] == [health_pb2.HealthCheckResponse.NOT_SERVING]
            with pytest.raises(grpc.RpcError) as refused:
                stub.Predict(request(x=np.zeros(1, np.float32)))
            assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
            (tmp_path / "gate").touch()
            assert answer(slow.result(timeout=60)) == 2
        assert process.end() == (0, "")


def test_a_byte_that_changed_is_told_with_the_versions_path_and_the_old_version_serves_on(tmp_path):
    put(plus(1), tmp_path, 1)
    broken = shutil.copytree(plus(2), tmp_path / "broken")
    (data,) = (broken / "variables").glob("*.data-*")
    content = data.read_bytes()
    data.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with running(tmp_path, "--max_num_load_retries=0") as process:
        port = process.wait_for(r"Running gRPC ModelServer at .*:(\d+) \.\.\.").group(1)
        broken.rename(tmp_path / "2")
        process.wait_for(f"E .*Cannot restore the variables of {tmp_path}/2: .*Checksum does not match")
        process.wait_for(r"E .*Loading servable: \{name: p version: 2\} failed: DATA_LOSS: ")
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            assert answer(stub.Predict(request(x=np.zeros(1, np.float32)))) == 1
        process.popen.send_signal(signal.SIGTERM)
        assert process.end() == (0, "")


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
    deadline = time.monotonic() + 60
    while not gate.with_suffix(".waiting").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return call


@pytest.mark.parametrize(("signals", "drain_seconds", "code"), [(1, 0.5, 0), (2, 600, -signal.SIGTERM)])
def test_a_run_without_end_holds_it_up_for_the_grace_or_until_a_second_signal(tmp_path, signals, drain_seconds, code):
    put(plus(1), tmp_path, 1)
    with running(tmp_path, f"--drain_seconds={drain_seconds}") as process:
        port = process.wait_for(r"Running gRPC ModelServer at .*:(\d+) \.\.\.").group(1)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            endless = under_way(prediction_service_pb2_grpc.PredictionServiceStub(channel), tmp_path / "never")
            for _ in range(signals):
                process.popen.send_signal(signal.SIGTERM)
                process.wait_for("Draining")
            assert process.end() == (code, "")
            assert endless.exception().code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


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


def test_a_version_whose_warm_up_fails_is_closed(monkeypatch):
    closed = []

    def defect(*_arguments, **_options):
        raise RuntimeError("a defect")

    close = Servable.close
    monkeypatch.setattr(Servable, "close", lambda self: closed.append(self.version) or close(self))
    monkeypatch.setattr(warmup, "warm_up", defect)
    lifecycle = model_server._lifecycle(Flags(max_num_load_retries=0), threading.Event())
    lifecycle.aspire("p", {1: plus(1)})
    assert closed == [1]
    assert lifecycle.status("p")[0].status.error_message == "RuntimeError: a defect"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Failed to start server. Error: INVALID_ARGUMENT: --model_base_path is empty"),
        (
            ["--model_base_path=models/p"],
            "Failed to start server. Error: INVALID_ARGUMENT: Expected model default to have an absolute path or URI",
        ),
    ],
)
def test_a_base_path_that_is_none_is_refused(flags, message):
    ended = subprocess.run([sys.executable, PROGRAM, *flags], text=True, capture_output=True, check=False)
    assert ended.returncode == 255
    assert ended.stdout.startswith(message)
    assert ended.stderr == ""


def test_an_unknown_flag_is_refused():
    ended = subprocess.run([sys.executable, PROGRAM, "--prot=1"], text=True, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: unknown flag --prot; the nearest known one is --port\n"
