import json
import threading

import pytest
import tensorflow as tf
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from serving import command_line, metrics_page, statusz
from serving.call import Call
from serving.keys import line, make_key
from serving.lifecycle import Lifecycle, Retries
from serving.monitoring import Monitoring
from serving.operations import Operations
from tests.collector import collecting
from tests.desks import serve


def operations(*arguments):
    return Operations(command_line.parse(arguments), Monitoring())


def pages(made):
    return made.pages(Lifecycle(lambda *_: None, Retries(count=0), threading.Event()))


def test_by_default_everybody_is_let_in_and_no_page_is_shown(capsys):
    made = operations()
    assert serve(made.desk, Call("HandleReloadConfigRequest", "GRPC"), lambda: "done") == "done"
    assert pages(made) == {}
    assert made.desk.admission.max_pending == 1000
    made.close()
    assert capsys.readouterr().out == ""


def test_the_models_that_are_served_are_counted_by_name(tmp_path):
    (tmp_path / "monitoring").write_text("prometheus_config { enable: true }")
    made = operations(f"--monitoring_config_file={tmp_path / 'monitoring'}", "--statusz")
    lifecycle = Lifecycle(lambda *_: None, Retries(count=0), threading.Event())
    shown = made.pages(lifecycle)
    for number in range(30):
        serve(made.desk, Call("Predict", "GRPC", model=f"m{number}"), lambda: None)
    lifecycle.states.publish("vit", 1, ModelVersionStatus.AVAILABLE)
    serve(made.desk, Call("Predict", "GRPC", model="vit"), lambda: None)
    text = shown[metrics_page.PATH]()[1]
    assert ':tensorflow:serving:request_count{model_name="vit",status="OK"} 1\n' in text
    assert ':tensorflow:serving:request_count{model_name="(other)",status="OK"} 10\n' in text
    assert "vit" in shown[statusz.PATH]()[1]


def test_the_pages_show_the_requests_of_the_desk(tmp_path):
    (tmp_path / "monitoring").write_text("prometheus_config { enable: true }")
    made = operations(f"--monitoring_config_file={tmp_path / 'monitoring'}", "--statusz", "--max_pending=2")
    shown = pages(made)
    assert list(shown) == [statusz.PATH, metrics_page.PATH]

    def answer():
        return {path: page()[1] for path, page in shown.items()}

    texts = serve(made.desk, Call("Predict", "GRPC", model="m"), answer)
    serve(made.desk, Call("Predict", "GRPC", model="m"), lambda: None)
    assert ":vit22b:serving:requests_running{} 1\n" in texts[metrics_page.PATH]
    assert "1 running, 0 waiting; beyond 2 together" in texts[statusz.PATH]
    kind, text = shown[metrics_page.PATH]()
    assert kind == "text/plain"
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 2\n' in text


@pytest.mark.parametrize(
    ("config", "path"),
    [('prometheus_config { enable: true path: "/m" }', ["/m"]), ('prometheus_config { path: "/m" }', [])],
)
def test_where_the_metrics_are_is_in_their_file(tmp_path, config, path):
    (tmp_path / "monitoring").write_text(config)
    assert list(pages(operations(f"--monitoring_config_file={tmp_path / 'monitoring'}"))) == path


def test_keys_and_the_log_of_requests_are_as_the_flags_say(tmp_path, capsys):
    key = make_key()
    (tmp_path / "keys").write_text(line("alice", key))
    made = operations(f"--api_keys_file={tmp_path / 'keys'}", "--request_log=json")
    with pytest.raises(tf.errors.UnauthenticatedError):
        serve(made.desk, Call("Predict", "GRPC"), lambda: pytest.fail("it was computed"))
    serve(made.desk, Call("Predict", "GRPC", metadata={"x-api-key": key}), lambda: None)
    made.close()
    entries = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [(entry["status"], entry["user"]) for entry in entries] == [("UNAUTHENTICATED", ""), ("OK", "alice")]


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--api_keys_file=nope", "--api_keys_file=nope: .*No such file"),
        (
            "--admin_keys_file=pyproject.toml",
            "--admin_keys_file=pyproject.toml: pyproject.toml, line [0-9]+: expected 'NAME sha256:HEX'",
        ),
        ("--otlp_endpoint=localhost:4317", "expected http://HOST:PORT"),
    ],
)
def test_a_flag_that_makes_no_sense_keeps_the_server_from_starting(flag, text):
    with pytest.raises(tf.errors.InvalidArgumentError, match=text):
        operations(flag)


def test_traces_are_sent_when_the_server_ends():
    with collecting() as (collector, address):
        made = operations(f"--otlp_endpoint={address}")
        serve(made.desk, Call("Predict", "GRPC"), lambda: None)
        made.close()
    assert "Predict" in {span.name for span in collector.spans}
