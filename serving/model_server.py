"""The embedded model server: TensorFlow Serving's protocols in one Python process.

The last hop but one, SavedModel -> [server] -> client. It takes tensorflow_model_server's flags, configuration files
and directory layout, so that the real one takes its place by a change of the binary's name.

    .venv/bin/python serving/model_server.py --model_name=vit --model_base_path=/models/vit --port=8500

It follows the models' directories, opens its ports once every model answers, and on SIGTERM finishes the requests that
are under way. A second SIGTERM ends it at once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading

from serving import flags
from serving.status import status_text

# Before TensorFlow is imported. Its own pool of memory keeps what an unloaded version took, for good.
os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")

_FAILED_TO_START = 255  # the real server's exit code

logger = logging.getLogger("serving.model_server")


def main() -> int:
    """Serves until a signal; returns the exit code."""
    options = flags.parse(sys.argv[1:])
    if problem := flags.contradiction(options):
        return _refuse(f"INVALID_ARGUMENT: {problem}")
    _set_up_logging()
    flags.warn(options)
    stop = threading.Event()
    _stop_at_signals(stop)
    import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
    import tensorflow as tf

    tf.get_logger().setLevel(logging.ERROR)
    try:
        _serve(options, stop)
    except tf.errors.OpError as error:
        if not stop.is_set():
            return _refuse(status_text(error))
    return 0


def _serve(options: flags.Flags, stop: threading.Event) -> None:
    """Loads the models, opens the ports, waits for a signal, drains.

    Raises:
        tf.errors.OpError: what keeps the server from starting.
    """
    from serving import models, version_loader
    from serving.answers import Answers
    from serving.lifecycle import Lifecycle
    from serving.monitoring import Monitoring
    from serving.ports import Front, Ports
    from serving.reception import Reception

    config = models.first_configuration(options)
    monitoring = Monitoring()
    load, retries = version_loader.loader(options, monitoring), version_loader.retries(options)
    lifecycle = Lifecycle(load, retries, stop, options.num_unload_threads)
    served = models.Models(lifecycle, stop, models.Options.of(options), monitoring.values)
    reception = Reception(options, monitoring)
    ports = Ports(options, Front(Answers(lifecycle), reception.desk, served.reload, reception.pages(lifecycle)))
    served.start(config)
    if options.model_config_file and options.model_config_file_poll_wait_seconds:
        served.follow_file(options.model_config_file, options.model_config_file_poll_wait_seconds)
    ports.open()
    stop.wait()
    logger.info("Draining: requests under way have %g seconds to finish", options.drain_seconds)
    ports.stop(options.drain_seconds)
    reception.close()
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
    print(f"Failed to start server. Error: {status}")
    return _FAILED_TO_START


def _set_up_logging() -> None:
    """Lines on stderr as TensorFlow writes them: time, level's letter, source, message."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        logging.Formatter("%(asctime)s.%(msecs)03d: %(levelname).1s %(filename)s:%(lineno)d] %(message)s", "%F %T")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    # Not sys.exit, which would wait for the threads: a run that outlasted its grace, or a load, cannot be interrupted.
    os._exit(exit_code)
