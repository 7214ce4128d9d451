"""The models of a server: what they are configured to be, and the threads that keep them so.

The walk SavedModel -> [server] -> client from above: configuration.py checks what is asked for, repository.py looks
for versions, lifecycle.py loads and unloads them, labels.py names them. Answers, codes and texts of a reload are
TensorFlow Serving's; where it would wait for ever for a model whose directory is missing, this refuses at once.
"""

import contextlib
import dataclasses
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Self

import tensorflow as tf
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest, ReloadConfigResponse
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

from serving import configuration, repository
from serving.call import Call
from serving.flags import Flags
from serving.lifecycle import Lifecycle
from serving.repository import Repository
from serving.status import going_down, invalid, not_found
from serving.text_protos import read_text_proto

MetricValues = Callable[[Sequence[str]], Mapping[str, int]]

_LOOK = 0.1  # seconds between two looks at whether somebody waits in vain

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ModelsOptions:
    """How models are kept.

    Attributes:
        poll_seconds: between two looks at the file system; with 0 it is looked at once a configuration.
        unavailable_labels: whether a new label may name a version that is not AVAILABLE.
        load_threads: how many versions are loaded at once after the start; with 0 one thread does everything.
        start_threads: the same during the start.
    """

    poll_seconds: float = Flags.file_system_poll_wait_seconds
    unavailable_labels: bool = False
    load_threads: int = Flags.num_load_threads
    start_threads: int = 4 * (os.cpu_count() or 1)

    @classmethod
    def of(cls, flags: Flags) -> Self:
        """What the flags say."""
        return cls(
            flags.file_system_poll_wait_seconds,
            flags.allow_version_labels_for_unavailable_models,
            flags.num_load_threads,
        )


class Models:
    """Every model of a server."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        stop: threading.Event,
        options: ModelsOptions = ModelsOptions(),
        metric_values: MetricValues = lambda names: dict.fromkeys(names, 0),
    ):
        """No models yet.

        Args:
            lifecycle: loads and unloads.
            stop: ends every wait, the lifecycle's too, and the threads when they look next; `close` waits for them.
            options: how models are kept.
            metric_values: the counters that a reload may ask for by name; one that is unknown is 0.
        """
        self._lifecycle = lifecycle
        self._stop = stop
        self._options = options
        self._metric_values = metric_values
        self._repository = Repository(lifecycle.want, options.poll_seconds, stop)
        self._one_at_a_time = threading.Lock()
        self._models: dict[str, ModelConfig] | None = None
        self._threads: list[threading.Thread] = []

    def start(self, config: ModelServerConfig) -> None:
        """Starts with a first configuration, and returns when each of its models answers.

        A base path that is missing or holds no version is waited for, with a line in the log at every look.

        Raises:
            tf.errors.OpError: the configuration is refused; UNKNOWN: a model did not load; NOT_FOUND: there is no
                version, and the file system is looked at once only; UNAVAILABLE: the server goes down.
        """
        self._run(self._lifecycle.manage, "manage")
        self._run(self._repository.watch, "watch")
        self._lifecycle.load_with(self._options.start_threads)
        with self._alone():
            self._configure(config, self._required_at_start, "servable")
        self._lifecycle.load_with(self._options.load_threads)

    def configure(self, config: ModelServerConfig, call: Call | None = None) -> None:
        """Puts a configuration in the place of the one before, and returns when each model that is new answers.

        A model that is left out is unloaded, a changed one follows at the next look; neither is waited for. What is
        waited for, too, is a configuration that is on its way. The wait ends when the caller has gone, when its
        deadline has passed, and when the server goes down.

        Raises:
            tf.errors.OpError: what is asked for is refused, and nothing has changed; UNKNOWN: a new model did not
                load; NOT_FOUND, too: its versions have gone meanwhile, and it is served as soon as there are others.
        """

        def require(models: Iterable[ModelConfig]) -> None:
            self._check(call)
            self._require(models)

        with self._alone(call):
            self._configure(config, require, "model")

    def reload(self, request: ReloadConfigRequest, call: Call | None = None) -> ReloadConfigResponse:
        """HandleReloadConfigRequest.

        Raises:
            tf.errors.OpError: as `configure`.
        """
        if request.config.WhichOneof("config") != configuration.LIST:
            raise invalid(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
                "supported",
            )
        before = self._metric_values(request.metric_names)
        try:
            self.configure(request.config, call)
        except tf.errors.OpError as error:
            logger.error("ReloadConfig failed: %s", error.message)
            raise
        after = self._metric_values(request.metric_names)
        response = ReloadConfigResponse()
        response.status.SetInParent()
        for name in after:
            response.metric.add(name=name, int64_value_increase=after[name] - before[name])
        return response

    def follow_file(self, path: str, interval: float) -> None:
        """Reads a configuration file every so many seconds from now on; what is wrong with it is logged."""

        def follow() -> None:
            while not self._stop.wait(interval):
                try:
                    self._configure_from(path)
                except Exception:  # the next look goes on
                    logger.critical("A defect of the server; the models stay as they are", exc_info=True)

        self._run(follow, "configuration")

    def close(self) -> None:
        """Sets the stop, and returns when nothing follows or loads any more; the versions that are loaded answer on.

        For a process that ends as Python does (model_server.py leaves by os._exit): a daemon thread that is the last to
        let go of a session closes it in C++, where the interpreter cannot end the thread, and the process aborts.
        """
        self._stop.set()
        self._repository.wake()
        for thread in self._threads:
            thread.join()

    def _configure_from(self, path: str) -> None:
        try:
            config = read_text_proto(path, ModelServerConfig())
        except tf.errors.OpError as error:
            logger.error("Failed to read ModelServerConfig file: %s", error.message)
            return
        try:
            self.configure(config)
        except tf.errors.OpError as error:
            logger.error("PollFilesystemAndReloadConfig failed to ReloadConfig: %s", error.message)

    def _run(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    @contextlib.contextmanager
    def _alone(self, call: Call | None = None) -> Iterator[None]:
        """The time in which no other configuration takes effect."""
        while not self._one_at_a_time.acquire(timeout=_LOOK):
            self._check(call)
        try:
            self._check(call)
            yield
        finally:
            self._one_at_a_time.release()

    def _check(self, call: Call | None) -> None:
        if self._stop.is_set():
            raise going_down()
        if call is not None:
            call.check()

    def _configure(
        self, config: ModelServerConfig, require: Callable[[Iterable[ModelConfig]], None], noun: str
    ) -> None:
        if not configuration.is_list(config, first=self._models is None):
            return
        before = self._models or {}
        models = configuration.check_list(config, before)
        labels = self._lifecycle.labels.check(
            models.values(), self._lifecycle.states, unavailable=self._options.unavailable_labels
        )
        configuration.check_models(models)
        new = [models[name] for name in models if name not in before]
        require(new)
        since = self._lifecycle.states.now()
        self._lifecycle.labels.set(labels)
        self._models = models
        for name in sorted(models):
            if models[name] != before.get(name):
                logger.info(" (Re-)adding model: %s", name)
        self._repository.follow(models.values())
        self._wait_for(new, since, noun, require)

    def _wait_for(
        self,
        models: Iterable[ModelConfig],
        since: int,
        noun: str,
        require: Callable[[Iterable[ModelConfig]], None],
    ) -> None:
        by_name = {model.name: model for model in models}

        def look(undecided: Collection[str]) -> None:
            require(by_name[name] for name in undecided if not self._lifecycle.expects(name))

        failed = self._lifecycle.states.wait(by_name, since, look)
        if failed:
            causes = "".join(
                f"{{{{name: {name} version: {number}}} due to error: {status}}}, "
                for (name, number), status in failed.items()
            )
            text = f"{len(failed)} {noun}(s) did not become available: {{{causes}}}"
            raise tf.errors.UnknownError(None, None, text)

    def _required_at_start(self, models: Iterable[ModelConfig]) -> None:
        if not self._options.poll_seconds:
            self._require(models)

    def _require(self, models: Iterable[ModelConfig]) -> None:
        """Refuses models that have no version on disk: to wait for them would hold up this reload and all after it."""
        for model in models:
            try:
                found = repository.wanted(model)
            except OSError as error:
                raise not_found(str(error)) from error
            if not found:
                raise not_found(repository.nothing_found(model))
