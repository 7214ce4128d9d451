"""The steps of docs/production.md, with the recipes' flags and files, on the embedded server."""

import contextlib
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving import command_line, configuration, models, version_loader
from serving.answers import Answers
from serving.desk import Desk
from serving.lifecycle import Lifecycle
from serving.monitoring import Monitoring
from serving.operations import Operations
from serving.ports import Ports
from tests.lifecycles import aspire
from tests.recipes import CONFIG, ROOT, container, model_config, rendered, services
from tests.small_models import plus, put
from tests.standin import closed_address

PAGE = ROOT / "docs" / "production.md"
SECONDS = 60  # that anything is waited for
REFUSAL = "Request to assign label to version 1 of model digits, which is not currently available for inference"
STATUS = "/v1/models/digits"


class Server:
    """The embedded server as a recipe starts it, in this process: in other folders, and looking more often."""

    def __init__(self, folder, **changed):
        self.peers = set()
        self._config = folder / "etc" / "models.config"
        self._base_path = folder / "models" / "digits"
        self._base_path.parent.mkdir()
        shutil.copytree(CONFIG, self._config.parent)
        self.write(model_config())
        self.options = command_line.parse([_elsewhere(flag, self._config.parent, changed) for flag in _given()])

    def write(self, config):
        """Puts a configuration in the place of the one that there is."""
        config.model_config_list.config[0].base_path = str(self._base_path)
        staged = self._config.with_suffix(".new")
        staged.write_text(text_format.MessageToString(config))
        staged.rename(self._config)

    def copy(self, version):
        put(plus(version), self._base_path, version)

    def start(self):
        options, monitoring = self.options, Monitoring()
        self._stop = threading.Event()
        load, retries = version_loader.loader(options, monitoring), version_loader.retries(options)
        self._lifecycle = Lifecycle(load, retries, self._stop, options.num_unload_threads)
        self._models = models.Models(self._lifecycle, self._stop, models.ModelsOptions.of(options))
        pages = Operations(options, monitoring).pages(self._lifecycle)
        desk = Desk(observers=[self])
        self._ports = Ports(options, Answers(self._lifecycle), desk, self._models.reload, pages)
        self._models.start(configuration.first_configuration(options))
        self._models.follow_file(options.model_config_file, options.model_config_file_poll_wait_seconds)
        self._ports.open()
        self._channel = grpc.insecure_channel(f"127.0.0.1:{options.port}")

    def close(self):
        self._channel.close()
        self._ports.stop(0)
        self._models.close()
        aspire(self._lifecycle, "digits", {})

    def end(self, call, _status, _seconds):
        self.peers.add(call.peer)

    def get(self, path):
        """The status of an answer over REST."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.options.rest_api_port}{path}", timeout=SECONDS) as got:
                return got.status
        except urllib.error.HTTPError as error:
            return error.code

    def predict(self, label=""):
        """The version that answers, or the code of an error."""
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "digits"
        if label:
            request.model_spec.version_label = label
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.zeros(1, np.float32)))
        try:
            answer = prediction_service_pb2_grpc.PredictionServiceStub(self._channel).Predict(request, timeout=SECONDS)
        except grpc.RpcError as error:
            return error.code()
        return int(answer.outputs["y"].float_val[0])


def _given():
    return container(rendered("base"))["args"]


def _elsewhere(flag, folder, changed):
    """A flag of the recipe, for this process."""
    name, _, value = flag.removeprefix("--").partition("=")
    if name in ("port", "rest_api_port"):
        value = closed_address().rpartition(":")[2]
    if name.endswith("poll_wait_seconds"):
        value = "1"
    return f"--{name}={changed.get(name, value.replace('/etc/serving', str(folder)))}"


@pytest.fixture
def make(tmp_path):
    """Makes a server with version 1 on its volume, and ends it."""
    made = []

    def server(**changed):
        made.append(Server(tmp_path, **changed))
        made[0].copy(1)
        return made[0]

    yield server
    made[0].close()


def wait_for(condition, wanted):
    end = time.monotonic() + SECONDS
    while (found := condition()) != wanted:
        assert time.monotonic() < end, found
        time.sleep(0.05)


def check_health(port):
    """The exit code of the health check of the compose file."""
    kind, *command = (part.replace("$$", "$") for part in services()["cpu"]["healthcheck"]["test"])
    assert kind == "CMD"
    return subprocess.run([part.replace("/8501", f"/{port}") for part in command], check=False).returncode


def test_the_probes_say_what_is_true(make):
    server = make()
    pod = container(rendered("base"))
    ready, alive = (pod[probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe"))
    unready = model_config()
    unready.model_config_list.config[0].version_labels["stable"] = 9
    server.write(unready)
    assert check_health(server.options.rest_api_port) != 0
    server.start()
    # Version 1 is AVAILABLE, and nothing is behind the label; the path of the status does not tell.
    assert [server.get(path) for path in (ready, alive, STATUS)] == [404, 200, 200]
    assert check_health(server.options.rest_api_port) != 0
    server.write(model_config())
    wait_for(lambda: server.get(ready), 200)
    assert check_health(server.options.rest_api_port) == 0


def steps():
    """The configurations that the page goes through, by their headings."""
    found = {}
    paragraph = r"^\*\*(.+?)\*\*(?:[^\n]|\n(?!\n))*\n\n((?:    .*\n)+)"
    for heading, block in re.findall(paragraph, PAGE.read_text(), flags=re.M):
        if block.lstrip().startswith("model_version_policy"):
            text = f'model_config_list {{ config {{ name: "digits" model_platform: "tensorflow" {block} }} }}'
            found[heading] = text_format.Parse(text, ModelServerConfig())
    return found


@contextlib.contextmanager
def traffic(server):
    """Asks for the label stable all the time, and gives what was not answered by a version."""
    wrong, ended = [], threading.Event()

    def ask():
        while not ended.is_set():
            if (answer := server.predict("stable")) not in (1, 2):
                wrong.append(answer)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield wrong
    finally:
        ended.set()
        thread.join()


def test_a_version_is_rolled_out_and_back_under_traffic(make):
    page = steps()
    assert list(page) == ["Load it beside the other.", "Promote.", "Roll back.", "Retire."]
    server = make()
    server.start()
    server.copy(2)
    with traffic(server) as wrong:
        server.write(page["Load it beside the other."])
        wait_for(lambda: server.predict("canary"), 2)
        assert server.predict("stable") == 1
        assert server.predict() == 2  # as the page warns: who names no version gets the highest
        for step, version in [("Promote.", 2), ("Roll back.", 1), ("Promote.", 2)]:
            server.write(page[step])
            wait_for(lambda: server.predict("stable"), version)
        server.write(page["Retire."])
        wait_for(lambda: server.get(f"{STATUS}/versions/1/metadata"), 404)
    assert wrong == []


def test_the_way_back_to_a_version_that_is_gone_takes_two_steps_as_the_page_says(make, caplog):
    server = make()
    server.copy(2)
    server.write(steps()["Retire."])
    server.start()
    server.write(steps()["Roll back."])
    wait_for(lambda: any(REFUSAL in message for message in caplog.messages), True)
    assert REFUSAL in PAGE.read_text()
    assert server.predict("stable") == 2
    server.write(steps()["Promote."])
    wait_for(lambda: server.get(f"{STATUS}/versions/1/metadata"), 200)
    server.write(steps()["Roll back."])
    wait_for(lambda: server.predict("stable"), 1)


def test_connections_that_are_of_age_end_without_a_failed_request(make):
    server = make(grpc_channel_arguments="grpc.max_connection_age_ms=200")
    server.start()
    end = time.monotonic() + SECONDS
    while len(server.peers) < 4:
        assert server.predict("stable") == 1
        assert time.monotonic() < end


def commands():
    """The lines of the page that are to be typed."""
    return [line.strip() for line in re.findall(r"^    (\S.*)$", PAGE.read_text(), flags=re.M)]


def test_the_commands_and_links_of_the_page_lead_somewhere():
    programs = [command.split()[1] for command in commands() if command.startswith(".venv/bin/python ")]
    assert set(programs) == {"export/to_savedmodel.py", "export/verify.py", "clients/embed.py"}
    paths = {path for command in commands() for path in re.findall(r"serving/(?:kubernetes|docker)\S*", command)}
    paths |= set(re.findall(r"`(serving/[^`]*/[^`]*)`", PAGE.read_text()))
    assert len(paths) > 6
    missing = [path for path in paths | set(programs) if not (ROOT / path).exists()]
    links = re.findall(r"\]\(([^)#:]+)\)", PAGE.read_text())
    assert missing + [link for link in links if not (PAGE.parent / link).exists()] == []


def test_a_version_reaches_the_volume_whole(tmp_path):
    """The commands of the page, with a shell in the place of the pod."""
    source, volume = tmp_path / "build" / "models" / "digits", tmp_path / "volume" / "digits"
    source.parent.mkdir(parents=True)
    put(plus(1), source, 1)
    piped = [command for command in commands() if "vit22b-copy -- " in command]
    assert len(piped) == 4
    for command in piped:
        local = re.sub(r"kubectl exec (-i )?vit22b-copy -- ", "", command)
        local = re.sub(r"(build)?/models/digits", lambda path: str(source if path[1] else volume), local)
        subprocess.run(["bash", "-euo", "pipefail", "-c", local], check=True)
    assert [child.name for child in volume.iterdir()] == ["1"]
    assert contents(volume) == contents(source) != {}


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
