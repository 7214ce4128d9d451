import importlib.util
import json
import threading
from pathlib import Path

import grpc
import pytest
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving import grpc_server, models, rest_server, services
from serving.answers import Answers
from serving.desk import Desk
from serving.lifecycle import Lifecycle
from serving.loading import Retries
from serving.servable import Servable, ServableOptions
from serving.text_protos import read_text_proto

CONFORMANCE = Path(__file__).parent / "conformance"
CASES = [json.loads(line) for line in (CONFORMANCE / "cases.jsonl").read_text().splitlines()]


def module(name):
    spec = importlib.util.spec_from_file_location(name, CONFORMANCE / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A channel, and the address of REST, to the models that the cases were recorded with."""
    root = tmp_path_factory.mktemp("conformance")
    module("make_models").main(root)
    stop = threading.Event()
    lifecycle = Lifecycle(lambda *what: Servable.load(*what, ServableOptions()), Retries(0), stop)
    served = models.Models(lifecycle, stop, models.ModelsOptions(unavailable_labels=True))
    served.start(read_text_proto(str(root / "models.config"), ModelServerConfig()))
    answers, desk = Answers(lifecycle), Desk()
    rest = rest_server.serve(answers, desk, rest_server.HttpOptions(host="127.0.0.1"))
    server, port = grpc_server.serve(services.Services(answers, desk, 7), address="127.0.0.1:0")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel, f"127.0.0.1:{rest.port}"
    server.stop(None).wait()
    rest.stop(0)
    served.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_it_answers_as_recorded_from_tensorflow_serving(server, case):
    replay, (channel, address) = module("replay"), server
    answer = replay.call_grpc(case, channel) if case["api"] == "grpc" else replay.call_rest(case, address)
    answer = json.loads(json.dumps(answer))
    assert replay.same(answer, case["expect"]), answer
