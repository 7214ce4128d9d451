"""verify.py against live servers: ours in its own process, and a stand-in for what a good server does seldom."""

import concurrent.futures
import dataclasses
import shutil
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from export import golden, verify
from export.live import LiveServer
from tests import standin
from tests.manifests import manifest
from tests.standin import StandIn, serve
from vit22b.errors import NotServedError, SpaceError, UnreachableError, VitError
from vit22b.signature import MANIFEST_FILE, WARMUP_FILE, Manifest

FAILURES = (VitError,)
EXPECTED = {"pixels": (28, 28, 3), "token_ids": (16,)}


@pytest.fixture
def version(repository):
    return repository / "digits" / "1"


def verify_at(run_program, version, address, *flags):
    arguments = [version, "--address", address, *flags]
    return run_program(verify.verify, verify.Settings, *arguments, failures=FAILURES)


def test_a_live_server_gives_the_golden_answers(served, version, run_program, capsys):
    assert verify_at(run_program, version, served.address) == 0
    out = capsys.readouterr().out
    count = len(golden.read(version / WARMUP_FILE))
    assert f"asking version 1 of digits at {served.address}" in out
    assert f"{count} of {count} golden answers within 0.0001" in out


WRONG = [
    ("embed_pixels", "pixels", np.zeros((1, 32, 32, 3), np.uint8), "[1,32,32,3] is not compatible with expected shape"),
    ("features", "pixels", np.zeros((1, 28, 28, 4), np.uint8), "[1,28,28,4] is not compatible with expected shape"),
    ("embed_text", "token_ids", np.zeros((1, 8), np.int32), "[1,8] is not compatible with expected shape"),
    (
        "embed_text",
        "token_ids",
        np.full((2, 16), 10**6, np.int32),
        "token_ids: rows [0 1] of 2 have ids that are not in",
    ),
    ("embed_text", "token_ids", np.full((1, 16), -1, np.int32), "token_ids: rows [0] of 1 have ids that are not in"),
]


@pytest.mark.parametrize(("name", "alias", "wrong", "message"), WRONG, ids=lambda value: str(value)[:24])
def test_a_wrong_input_fails_its_own_caller_alone(served, name, alias, wrong, message):
    """Requests that come at once are joined in one batch, the wrong with the right."""
    right = np.zeros((1, *(wrong.shape[1:] if wrong.max() or wrong.min() else EXPECTED[alias])), wrong.dtype)

    def ask(stub, value):
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = served.model, name
        request.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
        return stub.Predict(request, timeout=60)

    with grpc.insecure_channel(served.address) as channel, concurrent.futures.ThreadPoolExecutor(4) as pool:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        asked = [(value is wrong, pool.submit(ask, stub, value)) for _ in range(6) for value in (right, wrong, right)]
        for bad, answer in asked:
            if bad:
                error = answer.exception()
                assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
                assert message in error.details()
            else:
                assert answer.result().outputs


def test_another_answer_of_a_live_server_is_named(served, version, tmp_path, run_program, capsys):
    copy = shutil.copytree(version, tmp_path / "digits" / "1")
    logs = golden.read(copy / WARMUP_FILE)
    target = next(log for log in logs if log.request.model_spec.signature_name == "embed_text")
    target.response.outputs["embedding"].float_val[:] = [0.5] * 128
    target.response.outputs["embedding"].tensor_content = b""
    golden.write(copy / WARMUP_FILE, logs)
    assert verify_at(run_program, copy, served.address, "--version", 1) == 1
    out = capsys.readouterr().out
    assert "embed_text, batch 1: output embedding: max abs error" in out
    assert f"{len(logs) - 1} of {len(logs)} golden answers" in out


def test_a_server_of_another_version_is_refused_with_both_named(served, version, tmp_path, run_program, capsys):
    copy = shutil.copytree(version, tmp_path / "digits" / "1")
    written = Manifest.from_json((copy / MANIFEST_FILE).read_text())
    (copy / MANIFEST_FILE).write_text(dataclasses.replace(written, space_id="ffff").to_json())
    assert verify_at(run_program, copy, served.address) == 1
    error = capsys.readouterr().err
    assert f"version 1 of the server has the space {written.space_id} (float32, step 12), {copy} has ffff" in error
    assert "name the folder of the version that is served, or another --version" in error


def test_nobody_there_and_no_such_model_are_told_with_the_remedy(served, version, run_program, capsys, unused_address):
    for arguments, message in (
        ([unused_address], "start a model server there, or give the address and port of one"),
        ([served.address, "--model", "cats"], "give the name, and if any the version, of a model that it serves"),
        ([served.address, "--version", 7], "Servable not found for request: Specific(digits, 7) (NOT_FOUND"),
        ([served.address, "--label", "canary"], "Unrecognized servable version label: canary (INVALID_ARGUMENT"),
    ):
        assert verify_at(run_program, version, *arguments) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: signature describe: ")
        assert message in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--address", "localhost"], "--address is 'localhost'; expected host:port"),
        (["--address", "localhost:1", "--version", "1", "--label", "a"], "give one of them"),
        (["--address", "localhost:1", "--timeout", "0"], "--timeout is 0.0; expected a positive number of seconds"),
    ],
)
def test_wrong_arguments_are_one_line(version, flags, message, run_program, capsys):
    assert run_program(verify.verify, verify.Settings, version, *flags) == 2
    assert message in capsys.readouterr().err


def test_an_address_alone_is_not_enough(run_program, capsys):
    assert run_program(verify.verify, verify.Settings, "--address", "localhost:8500") == 2
    assert "no folder is given; name the version" in capsys.readouterr().err


def test_a_certificate_authority_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ca\.pem"):
        LiveServer("localhost:1", "m", ca=tmp_path / "ca.pem")


@pytest.mark.parametrize(
    ("code", "details", "remedy"),
    [
        (grpc.StatusCode.INTERNAL, "XLA compilation disabled\n [[x]]", "--xla_cpu_compilation_enabled=true"),
        (grpc.StatusCode.FAILED_PRECONDITION, 'Serving signature key "describe" not found.', "vit22b did not export"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", "give a longer timeout"),
    ],
)
def test_what_a_server_says_comes_with_the_remedy(code, details, remedy):
    with serve(StandIn(refusals=[(code, details)])) as served, LiveServer(served.address, "vit22b") as server:
        with pytest.raises(VitError, match=remedy) as refused:
            server.check_space(manifest(space_id="space-one"), Path("1"))
        assert refused.value.code == code.name


def test_it_stays_with_the_version_that_answered_first():
    own = standin.manifest("space-one", (1, 2, 4), text=True, without=())
    with serve(StandIn(version=3)) as served, LiveServer(served.address, "vit22b") as server:
        assert server.check_space(own, Path("1")) == 3
        served.swap(4, "space-two")
        with pytest.raises(NotServedError, match=r"Specific\(vit22b, 3\)"):
            server.check_space(own, Path("1"))


def test_another_export_of_the_model_is_refused_with_what_differs():
    own = standin.manifest("space-one", (1, 2), text=True, without=())
    differ = r"exports of one model that differ in batch_sizes \(1, 2, 4\) and \(1, 2\)"
    with (
        serve(StandIn()) as served,
        LiveServer(served.address, "vit22b") as server,
        pytest.raises(VitError, match=differ),
    ):
        server.check_space(own, Path("1"))


def test_errors_are_of_the_clients_tree(unused_address):
    with LiveServer(unused_address, "m") as server, pytest.raises(UnreachableError):
        server.check_space(manifest(), Path("1"))
    other = manifest(space_id="space-two")
    with serve(StandIn()) as served, LiveServer(served.address, "vit22b") as server, pytest.raises(SpaceError):
        server.check_space(other, Path("1"))
