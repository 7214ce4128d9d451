"""Configurations and reloads, as they were measured on the real server."""

import contextlib
import threading
import time
from concurrent import futures

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.call import Call
from serving.configuration import first_configuration
from serving.flags import Flags
from serving.lifecycle import Lifecycle
from serving.loading import Retries
from serving.models import Models, ModelsOptions
from serving.repository import Repository
from serving.servable import Servable, ServableOptions
from tests.small_models import plus, put
from tests.waiting import until


class Server:
    """Models, and what a client asks of them."""

    def __init__(self, **options):
        self.stop = threading.Event()
        load = lambda *what: Servable.load(*what, ServableOptions())  # noqa: E731
        self.lifecycle = Lifecycle(load, Retries(count=0), self.stop)
        self.counts = {}
        self.models = Models(
            self.lifecycle,
            self.stop,
            ModelsOptions(poll_seconds=0.05, **options),
            lambda names: {name: self.counts.get(name, 0) for name in names},
        )

    def reload(self, *models, metrics=()):
        return self.models.reload(ReloadConfigRequest(config=listing(*models), metric_names=metrics))

    def refusal(self, *models):
        with pytest.raises(tf.errors.OpError) as refused:
            self.reload(*models)
        return refused.value

    def predict(self, name, number=None, label=None):
        request = predict_pb2.PredictRequest()
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.zeros(1, np.float32)))
        with self.lifecycle.lease(name, number, label) as servable:
            return servable.predict(request).outputs["y"].float_val[0]

    def states(self, name):
        return [(status.version, ModelVersionStatus.State.Name(status.state)) for status in self.lifecycle.status(name)]


def listing(*models):
    config = ModelServerConfig()
    config.model_config_list.SetInParent()
    for model in models:
        config.model_config_list.config.add().MergeFrom(model)
    return config


def model(name, base_path, rest=""):
    text = f'model_config_list {{ config {{ name: "{name}" base_path: "{base_path}" model_platform: "tensorflow" '
    return text_format.Parse(f"{text}{rest} }} }}", ModelServerConfig()).model_config_list.config[0]


@contextlib.contextmanager
def serving(*models, **options):
    server = Server(**options)
    try:
        server.models.start(listing(*models))
        yield server
    finally:
        server.models.close()


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """A base path with versions 1 and 2, and one with 3."""
    root = tmp_path_factory.mktemp("models")
    put(plus(1), root / "a", 1)
    put(plus(2), root / "a", 2)
    put(plus(3), root / "b", 3)
    return root


def test_models_are_added_changed_removed_and_added_again(versions):
    a, b = model("a", versions / "a"), model("b", versions / "b")
    with serving(a) as server:
        assert (server.predict("a"), server.states("a")) == (2, [(2, "AVAILABLE")])
        assert server.reload(a, b).HasField("status")  # returns once b answers
        assert server.predict("b") == 3
        server.reload(a, b)
        server.reload(a)
        until(lambda: server.states("b") == [(3, "END")])
        with pytest.raises(tf.errors.NotFoundError, match=r"Servable not found for request: Latest\(b\)"):
            server.predict("b")
        server.reload(a, b)
        assert server.predict("b") == 3
        server.reload(model("a", versions / "b"), b)
        until(lambda: server.states("a") == [(3, "AVAILABLE"), (2, "END")])
        server.reload()
        until(lambda: server.states("a") == [(3, "END"), (2, "END")])
        assert server.lifecycle.names() == ["a", "b"]


def test_a_policy_says_which_versions_are_served(versions):
    def with_policy(policy):
        return model("a", versions / "a", f"model_version_policy {{ {policy} }}")

    with serving(with_policy("all {}")) as server:
        assert [server.predict("a", number) for number in (1, 2)] == [1, 2]
        server.reload(with_policy("latest { num_versions: 0 }"))
        until(lambda: server.states("a") == [(2, "AVAILABLE"), (1, "END")])
        server.reload(with_policy("specific { versions: 1 }"))
        until(lambda: server.states("a") == [(2, "END"), (1, "AVAILABLE")])
        server.reload(with_policy("latest { num_versions: 2 }"))
        until(lambda: server.states("a") == [(2, "AVAILABLE"), (1, "AVAILABLE")])
        server.reload(with_policy("specific { versions: 9 }"))
        until(lambda: server.states("a") == [(2, "END"), (1, "END")])


def test_labels_follow_a_reload(versions):
    def with_labels(policy="all {}", **labels):
        written = " ".join(f'version_labels {{ key: "{key}" value: {value} }}' for key, value in labels.items())
        return model("a", versions / "a", f"model_version_policy {{ {policy} }} {written}")

    with serving(with_labels()) as server:
        until(lambda: server.states("a") == [(2, "AVAILABLE"), (1, "AVAILABLE")])
        server.reload(with_labels(stable=1, canary=2))
        assert [server.predict("a", label=label) for label in ("stable", "canary")] == [1, 2]
        refused = server.refusal(with_labels(stable=9))
        assert refused.message.startswith("Request to assign label to version 9 of model a, which is not currently")
        assert server.predict("a", label="stable") == 1
        server.reload(with_labels("latest {}", stable=1))  # the version goes only now
        until(lambda: server.states("a") == [(2, "AVAILABLE"), (1, "END")])
        with pytest.raises(tf.errors.NotFoundError, match=r"request: Specific\(a, 1\)"):
            server.predict("a", label="stable")
        assert isinstance(server.refusal(with_labels("latest {}", stable=1)), tf.errors.FailedPreconditionError)


def test_a_reload_that_is_refused_changes_nothing(versions, tmp_path):
    a, away = model("a", versions / "a"), tmp_path / "away"
    with serving(a) as server:
        refused = server.refusal(a, model("b", "models/b"))
        assert refused.message == "Expected model b to have an absolute path or URI; got base_path()=models/b"
        # The real server waits, and lets every later reload wait.
        refused = server.refusal(model("b", away))
        assert isinstance(refused, tf.errors.NotFoundError)
        assert (
            refused.message == f"Could not find base path {away} for servable b with error NOT_FOUND: {away} not found"
        )
        away.mkdir()
        assert server.refusal(a, model("b", away)).message.startswith("No versions of servable b found under base path")
        for request in (ReloadConfigRequest(), ReloadConfigRequest(config=ModelServerConfig(custom_model_config={}))):
            with pytest.raises(tf.errors.InvalidArgumentError) as refused:
                server.models.reload(request)
            assert refused.value.message == (
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
                "supported"
            )
        assert (server.predict("a"), server.lifecycle.names()) == (2, ["a"])


def test_a_reload_does_not_wait_for_versions_that_have_gone_meanwhile(versions, tmp_path):
    away = put(plus(1), tmp_path / "b", 1)
    with serving(model("a", versions / "a")) as server:
        follow = server.models._repository.follow

        def remove_first(models):
            away.rename(tmp_path / "removed")
            follow(models)

        server.models._repository.follow = remove_first
        refused = server.refusal(model("a", versions / "a"), model("b", tmp_path / "b"))
        assert isinstance(refused, tf.errors.NotFoundError)
        assert refused.message.startswith("No versions of servable b found under base path")
        (tmp_path / "removed").rename(away)
        until(lambda: server.states("b") == [(1, "AVAILABLE")])


def test_a_reload_does_not_wait_longer_than_its_caller(versions):
    opened = threading.Event()
    with serving(model("a", versions / "a")) as server:
        load = server.lifecycle._load
        server.lifecycle._load = lambda *what: opened.wait(60) and load(*what)
        request = ReloadConfigRequest(config=listing(model("a", versions / "a"), model("b", versions / "b")))
        gone = threading.Event()
        with futures.ThreadPoolExecutor(1) as pool:
            call = Call("HandleReloadConfigRequest", "GRPC", gone=gone.is_set)
            waiting = pool.submit(server.models.reload, request, call)
            until(lambda: server.states("b") == [(3, "LOADING")])
            gone.set()
            assert isinstance(waiting.exception(60), tf.errors.CancelledError)
        opened.set()
        until(lambda: server.states("b") == [(3, "AVAILABLE")])


def test_a_defect_ends_none_of_the_threads_that_keep_models_true(versions, tmp_path, caplog, monkeypatch):
    defects = []

    def once(original):
        def call(*what, **more):
            if original not in defects:
                defects.append(original)
                raise RuntimeError("a defect")
            return original(*what, **more)

        return call

    file = tmp_path / "models.config"
    file.write_text(text_format.MessageToString(listing(model("b", versions / "b"))))
    with serving(model("a", versions / "a")) as server:
        monkeypatch.setattr(Lifecycle, "step", once(Lifecycle.step))
        monkeypatch.setattr(Repository, "_look_at", once(Repository._look_at))
        monkeypatch.setattr(Models, "configure", once(Models.configure))
        server.models.follow_file(str(file), 0.05)
        until(lambda: server.states("b") == [(3, "AVAILABLE")])
        assert (len(defects), caplog.text.count("A defect of the server")) == (3, 3)


def test_a_new_model_that_does_not_load_is_told_by_the_reload(versions, tmp_path):
    (tmp_path / "b" / "1").mkdir(parents=True)
    with serving(model("a", versions / "a")) as server:
        refused = server.refusal(model("a", versions / "a"), model("b", tmp_path / "b"))
        assert isinstance(refused, tf.errors.UnknownError)
        assert refused.message == (
            "1 model(s) did not become available: {{{name: b version: 1} due to error: NOT_FOUND: Specified file path "
            "does not appear to contain a SavedModel bundle (should have a file called `saved_model.pb`)\n"
            f"Specified file path: {tmp_path / 'b' / '1'}}}, }}"
        )
        assert server.predict("a") == 2


def test_a_reload_counts_by_how_much_metrics_grew(versions):
    with serving(model("a", versions / "a")) as server:
        load = server.lifecycle._load
        server.lifecycle._load = lambda *what: server.counts.update(loads=8) or load(*what)
        server.counts["loads"] = 7
        response = server.reload(model("a", versions / "a"), model("b", versions / "b"), metrics=["loads", "nope"])
        assert [(metric.name, metric.int64_value_increase) for metric in response.metric] == [("loads", 1), ("nope", 0)]


def test_a_start_waits_for_a_base_path_and_fails_with_a_version(versions, tmp_path, caplog):
    server = Server()
    with futures.ThreadPoolExecutor(1) as pool:
        starting = pool.submit(server.models.start, listing(model("b", versions / "b"), model("c", tmp_path / "c")))
        until(lambda: caplog.text.count("Could not find base path") > 1)
        assert not starting.done()
        put(plus(1) / "variables", tmp_path / "c", 1)
        with pytest.raises(tf.errors.UnknownError, match=r"^1 servable\(s\) did not become available: \{\{\{name: c"):
            starting.result(timeout=60)
    server.models.close()


def test_a_server_that_goes_down_does_not_wait_for_its_start(tmp_path, caplog):
    server = Server()
    with futures.ThreadPoolExecutor(1) as pool:
        starting = pool.submit(server.models.start, listing(model("c", tmp_path / "c")))
        until(lambda: "Could not find base path" in caplog.text)
        server.models.close()
        with pytest.raises(tf.errors.UnavailableError):
            starting.result(timeout=60)


def test_a_file_system_that_is_looked_at_once_has_to_hold_a_version(tmp_path):
    before, stop = threading.enumerate(), threading.Event()
    models = Models(Lifecycle(None, Retries(), stop), stop, ModelsOptions(poll_seconds=0))
    with pytest.raises(tf.errors.NotFoundError, match="No versions of servable c found"):
        models.start(listing(model("c", tmp_path)))
    started = set(threading.enumerate()) - set(before)
    assert {thread.name for thread in started} == {"manage", "watch"}
    models.close()
    assert not any(thread.is_alive() for thread in started)


def test_an_empty_configuration_serves_nothing_and_is_no_second_one(versions):
    server = Server()
    server.models.start(ModelServerConfig())
    server.models.configure(listing(model("b", versions / "b")))
    with pytest.raises(tf.errors.FailedPreconditionError, match="Cannot transition to requested config"):
        server.models.configure(ModelServerConfig())
    assert server.predict("b") == 3
    server.models.close()


def test_a_configuration_file_is_followed_and_a_broken_one_changes_nothing(versions, tmp_path, caplog):
    file = tmp_path / "models.config"
    file.write_text(text_format.MessageToString(listing(model("a", versions / "a"))))
    with serving(*first_configuration(Flags(model_config_file=str(file))).model_config_list.config) as server:
        server.models.follow_file(str(file), 0.05)
        file.write_text("model_config_list { nofield: 1 }")
        until(lambda: f"Failed to read ModelServerConfig file: Invalid protobuf file: '{file}'" in caplog.text)
        file.unlink()
        until(lambda: f"ModelServerConfig file: {file}; No such file or directory" in caplog.text)
        file.write_text(text_format.MessageToString(listing(model("a", tmp_path), model("b", "b"))))
        until(lambda: "PollFilesystemAndReloadConfig failed to ReloadConfig: Expected model b" in caplog.text)
        assert server.states("a") == [(2, "AVAILABLE")]
        staged = tmp_path / "staged"
        staged.write_text(text_format.MessageToString(listing(model("b", versions / "b"))))
        staged.rename(file)
        until(lambda: server.states("b") == [(3, "AVAILABLE")])
        until(lambda: server.states("a") == [(2, "END")])


def test_a_reload_waits_for_another_no_longer_than_its_caller_and_its_server(versions, tmp_path):
    with serving(model("a", versions / "a")) as server, futures.ThreadPoolExecutor(2) as pool:
        put(plus(2), tmp_path / "slow", 1)
        begun, go_on, load = threading.Event(), threading.Event(), server.lifecycle._load

        def slow(*what):
            begun.set()
            assert go_on.wait(60)
            return load(*what)

        server.lifecycle._load = slow
        try:
            first = pool.submit(server.reload, model("a", versions / "a"), model("slow", tmp_path / "slow"))
            assert begun.wait(60)
            late = Call("HandleReloadConfigRequest", "GRPC", deadline=time.monotonic() + 0.2)
            with pytest.raises(tf.errors.DeadlineExceededError):
                server.models.configure(listing(), late)
            gone = Call("HandleReloadConfigRequest", "GRPC", gone=lambda: True)
            with pytest.raises(tf.errors.CancelledError):
                server.models.configure(listing(), gone)
            assert not first.done()
            waiting = pool.submit(server.models.configure, listing())
            server.stop.set()
            for ended in (first, waiting):
                with pytest.raises(tf.errors.UnavailableError):
                    ended.result(timeout=60)
        finally:
            go_on.set()
    server.models.close()
