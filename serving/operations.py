"""What stands around the desk: who is let in, who keeps an account, and the pages that show it; as the flags say.

Between flags.py and desk.py on the way SavedModel -> [server] -> client.
"""

import sys
from collections.abc import Callable, Mapping

from serving import metrics_page, statusz
from serving.admission import Admission
from serving.desk import Desk, Observer
from serving.flags import Flags
from serving.guard import Guard
from serving.keys import KeyFile
from serving.lifecycle import Lifecycle
from serving.monitoring import Monitoring
from serving.rates import Rates
from serving.request_log import RequestLog
from serving.server_config_pb2 import MonitoringConfig
from serving.status import invalid
from serving.text_protos import read_text_proto

Pages = Mapping[str, Callable[[], tuple[str, str]]]  # path -> content type and text


class Operations:
    """Keys, limits, metrics, logs, traces and pages.

    Attributes:
        desk: that every request passes; it has all of them but the pages.
    """

    def __init__(self, flags: Flags, monitoring: Monitoring):
        """Sets up what the flags ask for.

        Raises:
            tf.errors.OpError: a file that a flag names cannot be read, or makes no sense.
        """
        self._monitoring = monitoring
        self._rates = Rates(names=monitoring.names)
        self._metrics_path = _metrics_path(flags)
        self._statusz = flags.statusz
        self._ends: list[Callable[[], None]] = []
        guard = Guard(
            keys=_keys("api_keys_file", flags),
            admin_keys=_keys("admin_keys_file", flags),
            admin_port=bool(flags.admin_port),
        )
        self.desk = Desk(
            admission=Admission(max_pending=flags.max_pending), guard=guard, observers=self._observers(flags)
        )
        monitoring.watch("/vit22b/serving/queue_depth", lambda: self.desk.admission.waiting)
        monitoring.watch("/vit22b/serving/requests_running", lambda: self.desk.admission.running)

    def pages(self, lifecycle: Lifecycle) -> Pages:
        """What the REST port shows besides the API. The models of the life cycle are counted by name from now on."""
        self._monitoring.names.follow(lifecycle.names)
        pages: dict[str, Callable[[], tuple[str, str]]] = {}
        if self._statusz:
            status = statusz.Statusz(
                lambda: [(name, lifecycle.status(name)) for name in lifecycle.names()], self._rates, self.desk.admission
            )
            pages[statusz.PATH] = lambda: (statusz.CONTENT_TYPE, status.page())
        if self._metrics_path:
            pages[self._metrics_path] = lambda: (metrics_page.CONTENT_TYPE, metrics_page.text(self._monitoring))
        return pages

    def close(self) -> None:
        """Brings out what is still held back: traces, lines of the log of requests."""
        for end in self._ends:
            end()

    def _observers(self, flags: Flags) -> list[Observer]:
        observers: list[Observer] = [self._monitoring, self._rates]
        if flags.request_log:
            log = RequestLog(sys.stdout)
            self._ends.append(log.close)
            observers.append(log)
        if flags.otlp_endpoint:
            from serving.tracing import Tracing

            try:
                tracing = Tracing(flags.otlp_endpoint)
            except ValueError as error:
                raise invalid(str(error)) from error
            self._ends.append(tracing.close)
            observers.append(tracing)
        return observers


def _metrics_path(flags: Flags) -> str:
    """Where the metrics are shown; empty for nowhere."""
    if not flags.monitoring_config_file:
        return ""
    config = read_text_proto(flags.monitoring_config_file, MonitoringConfig()).prometheus_config
    return (config.path or metrics_page.PATH) if config.enable else ""


def _keys(name: str, flags: Flags) -> KeyFile | None:
    path = getattr(flags, name)
    if not path:
        return None
    try:
        return KeyFile(path)
    except OSError as error:
        raise invalid(f"--{name}={path}: {error.strerror}") from error
    except ValueError as error:
        raise invalid(f"--{name}={path}: {error}") from error
