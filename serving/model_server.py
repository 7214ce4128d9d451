"""The embedded model server: TensorFlow Serving's protocols in one Python process.

The last hop but one, SavedModel -> [server] -> client. It takes tensorflow_model_server's flags, configuration files
and directory layout, so that the real one takes its place by a change of the binary's name.

    .venv/bin/python serving/model_server.py --model_name=vit --model_base_path=/models/vit --port=8500

It follows the models' directories, opens its ports once every model answers, and on SIGTERM finishes the requests that
are under way. A second SIGTERM ends it at once.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading

from serving import command_line
from serving.flags import Flags, contradiction, warn

# Before TensorFlow is imported. Its own pool of memory keeps what an unloaded version took, for good.
os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")

_FAILED_TO_START = 255  # the real server's exit code

logger = logging.getLogger("serving.model_server")


def main() -> int:
    """Serves until a signal; returns the exit code."""
    flags = command_line.parse(sys.argv[1:])
    if problem := contradiction(flags):
        return _refuse(f"INVALID_ARGUMENT: {problem}")
    _set_up_logging()
    warn(flags)
    stop = threading.Event()
    _stop_at_signals(stop)
    import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
    import tensorflow as tf

    from serving.status import status_text

    tf.get_logger().setLevel(logging.ERROR)
    try:
        _serve(flags, stop)
    except tf.errors.OpError as error:
        if not stop.is_set():
            return _refuse(status_text(error))
    return 0


def _serve(flags: Flags, stop: threading.Event) -> None:
    """Loads the models, opens the ports, waits for a signal, drains.

    Raises:
        tf.errors.OpError: what keeps the server from starting.
    """
    from serving import configuration, version_loader
    from serving.answers import Answers
    from serving.lifecycle import Lifecycle
    from serving.models import Models, ModelsOptions
    from serving.monitoring import Monitoring
    from serving.operations import Operations
    from serving.ports import Ports

    config = configuration.first_configuration(flags)
    monitoring = Monitoring()
    load, retries = version_loader.loader(flags, monitoring), version_loader.retries(flags)
    lifecycle = Lifecycle(load, retries, stop, flags.num_unload_threads)
    models = Models(lifecycle, stop, ModelsOptions.of(flags), monitoring.values)
    operations = Operations(flags, monitoring)
    ports = Ports(flags, Answers(lifecycle), operations.desk, models.reload, operations.pages(lifecycle))
    gc.freeze()  # what was imported stays, and no collection need walk it, which large bodies of JSON bring about
    models.start(config)
    if flags.model_config_file and flags.model_config_file_poll_wait_seconds:
        models.follow_file(flags.model_config_file, flags.model_config_file_poll_wait_seconds)
    ports.open()
    stop.wait()
    logger.info("Draining: requests under way have %g seconds to finish", flags.drain_seconds)
    ports.stop(flags.drain_seconds)
    operations.close()
    logger.info("Drained")


def _stop_at_signals(stop: threading.Event) -> None:
    """Sets `stop` at the first signal; the second has its default effect. To be called before any other thread starts.

    Every thread inherits that the signals are blocked, so that one thread alone receives them: a handler would wait
    until the main thread wakes up, and the signal that another thread received would not wake it.
    """
    handled = {signal.SIGTERM, signal.SIGINT}
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # not KeyboardInterrupt
    signal.pthread_sigmask(signal.SIG_BLOCK, handled)

    def receive() -> None:
        signal.sigwait(handled)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)
        stop.set()
        signal.pause()

    threading.Thread(target=receive, name="signals", daemon=True).start()


def _refuse(status: str) -> int:
    """Says why the server does not start, where and as the real one does."""
    print(f"Failed to start server. Error: {status}", flush=True)
    return _FAILED_TO_START


def _set_up_logging() -> None:
    """Lines on stderr as TensorFlow writes them: time, level's letter, source, message."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        logging.Formatter("%(asctime)s.%(msecs)03d: %(levelname).1s %(filename)s:%(lineno)d] %(message)s", "%F %T")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])


if __name__ == "__main__":
    # Not sys.exit, which would wait for the threads: a run that outlasted its grace, or a load, cannot be interrupted,
    # and the log of requests holds the standard output's lock for as long as nobody reads it.
    os._exit(main())
