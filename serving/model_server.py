"""The embedded model server: TensorFlow Serving's gRPC protocol in one Python process.

The last hop but one, SavedModel -> [server] -> client. It takes tensorflow_model_server's flags and directory layout,
so that the real one takes its place by a change of the binary's name.

    .venv/bin/python serving/model_server.py --model_name=vit --model_base_path=/models/vit --port=8500

It follows the versions below the base path, opens the port once the first is AVAILABLE, and on SIGTERM finishes the
requests that are under way. A second SIGTERM ends it at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
import threading
from concurrent import futures
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving import flags, repository

if TYPE_CHECKING:
    from serving.lifecycle import Lifecycle
    from serving.servable import Servable

_FAILED_TO_START = 255  # the real server's exit code

logger = logging.getLogger("serving.model_server")


def main() -> int:
    """Serves until a signal; returns the exit code."""
    options = flags.parse(sys.argv[1:])
    if problem := _base_path_problem(options):
        return _refuse(f"INVALID_ARGUMENT: {problem}")
    _set_up_logging()
    stop = threading.Event()
    news: queue.SimpleQueue[str | futures.Future[None]] = queue.SimpleQueue()
    _tell_of_signals(news)
    lifecycle = _lifecycle(options, stop)
    _follow_versions(options, lifecycle, stop, news)
    code = _serve(options, lifecycle, news)
    stop.set()
    return code


def _serve(options: flags.Flags, lifecycle: Lifecycle, news: queue.SimpleQueue[Any]) -> int:
    """Waits for the first version, opens the port, waits for a signal, drains."""
    event = _next(news)
    if event == "signal":
        return 0
    if event == "watched":
        text = f"No versions of servable {options.model_name} found under base path {options.model_base_path}"
        return _refuse(f"NOT_FOUND: {text}, and --file_system_poll_wait_seconds=0 looks only once")
    if failures := lifecycle.failures():
        return _refuse(f"UNKNOWN: {failures}")
    from serving import services

    health = services.Health() if options.enable_grpc_healthcheck_service else None
    try:
        server, port = services.serve(
            services.Services(lifecycle, max_calls=options.grpc_max_threads - 1),
            address=f"{_host(options)}:{options.port}",
            threads=options.grpc_max_threads,
            health_service=health,
        )
    except OSError as error:
        logger.error("%s", error)
        return _refuse("INVALID_ARGUMENT: Failed to BuildAndStart gRPC server")
    logger.info("Running gRPC ModelServer at %s:%d ...", options.bind_address or "0.0.0.0", port)
    while _next(news) != "signal":
        pass
    logger.info("Draining: requests under way have %g seconds to finish", options.drain_seconds)
    drained = server.stop(options.drain_seconds)
    if health is not None:
        health.end()
    drained.wait()
    logger.info("Drained")
    return 0


def _next(news: queue.SimpleQueue[Any]) -> str:
    """The next thing to happen: "signal", "settled" or "watched"."""
    item = news.get()
    if isinstance(item, str):
        return item
    item.result()  # raises what ended the watch, a defect of ours
    return "watched"


def _tell_of_signals(news: queue.SimpleQueue[Any]) -> None:
    """Tells of the first signal; the second has its default effect. To be called before any other thread starts.

    Every thread inherits that the signals are blocked, so that one thread alone receives them: a handler would wait
    until the main thread wakes up, and the signal that another thread received would not wake it.
    """
    handled = {signal.SIGTERM, signal.SIGINT}
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # not KeyboardInterrupt
    signal.pthread_sigmask(signal.SIG_BLOCK, handled)

    def receive() -> None:
        signal.sigwait(handled)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)
        news.put("signal")
        signal.pause()

    threading.Thread(target=receive, name="signals", daemon=True).start()


def _follow_versions(
    options: flags.Flags, lifecycle: Lifecycle, stop: threading.Event, news: queue.SimpleQueue[Any]
) -> None:
    """Starts the thread that loads and unloads; it tells when the first versions are AVAILABLE or have failed."""

    def aspire(name: str, versions: repository.Versions) -> None:
        first = not lifecycle.status(name)
        lifecycle.aspire(name, versions)
        if first and versions:
            news.put("settled")

    watched = futures.ThreadPoolExecutor(1, thread_name_prefix="versions").submit(
        repository.watch,
        options.model_name,
        Path(options.model_base_path),
        aspire,
        interval=options.file_system_poll_wait_seconds,
        stop=stop,
    )
    watched.add_done_callback(news.put)


def _lifecycle(options: flags.Flags, stop: threading.Event) -> Lifecycle:
    """The models' life cycle, with the loading that the flags ask for. Imports TensorFlow."""
    import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
    import tensorflow as tf

    from serving import lifecycle, saved_model, servable, warmup

    tf.get_logger().setLevel(logging.ERROR)
    intra = options.tensorflow_intra_op_parallelism or options.tensorflow_session_parallelism
    inter = options.tensorflow_inter_op_parallelism or options.tensorflow_session_parallelism
    how = servable.Options(
        tags=frozenset(options.saved_model_tags.split(",")),
        config=tf.compat.v1.ConfigProto(intra_op_parallelism_threads=intra, inter_op_parallelism_threads=inter),
        as_tensor_content=options.enable_serialization_as_tensor_content,
    )

    def load(name: str, version: int, path: Path) -> Servable:
        with contextlib.ExitStack() as undo:
            loaded = servable.Servable.load(name, version, path, how)
            undo.callback(loaded.close)
            saved_model.warn_of_expiry(path)
            if options.enable_model_warmup:
                warmup.warm_up(loaded, path, check_golden=options.check_golden)
            undo.pop_all()
        return loaded

    retries = lifecycle.Retries(
        options.max_num_load_retries,
        options.load_retry_interval_micros / 1e6,
        vain=(warmup.GoldenError, saved_model.WindowError),
    )
    return lifecycle.Lifecycle(load, retries, stop)


def _base_path_problem(options: flags.Flags) -> str:
    if not options.model_base_path:
        return "--model_base_path is empty; expected the absolute path of a model's directory"
    if not Path(options.model_base_path).is_absolute():
        return (
            f"Expected model {options.model_name} to have an absolute path or URI; "
            f"got base_path()={options.model_base_path}"
        )
    return ""


def _host(options: flags.Flags) -> str:
    """The host to listen on as gRPC wants it; "[::]" is every interface, of IPv4 too."""
    host = options.bind_address or "::"
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


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
