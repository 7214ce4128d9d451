"""How a version is loaded: what the flags say of sessions, batching and warm-up, as one function.

Between flags.py and lifecycle.py on the way SavedModel -> [server] -> client.
"""

import contextlib
import os
import time
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

from serving import saved_model, warmup
from serving.batch_queue import Threads
from serving.flags import Flags
from serving.loading import Load, Retries
from serving.monitoring import Monitoring
from serving.servable import Servable, ServableOptions
from serving.server_config_pb2 import BatchingParameters
from serving.session_batching import Batching
from serving.status import status_text
from serving.text_protos import read_text_proto

_POOL = "model_server_batch_threads"


def loader(flags: Flags, monitoring: Monitoring) -> Load:
    """What makes a version ready to answer, by the flags.

    Raises:
        tf.errors.OpError: a file that a flag names cannot be read, or makes no sense.
    """
    how = ServableOptions(
        tags=frozenset(flags.saved_model_tags.split(",")),
        config=session_config(flags),
        as_tensor_content=flags.enable_serialization_as_tensor_content,
        check_method=flags.enable_signature_method_name_check,
        batching=_batching(flags, monitoring),
    )

    def load(name: str, version: int, path: Path) -> Servable:
        start, result = time.monotonic(), "fail"
        try:
            loaded = Servable.load(name, version, path, how)
            result = "success"
        finally:
            monitoring.loaded(str(path), result, time.monotonic() - start)
        with contextlib.ExitStack() as undo:
            undo.callback(loaded.close)
            saved_model.warn_of_expiry(path)
            if flags.enable_model_warmup:
                _warm_up(loaded, path, flags, monitoring)
            undo.pop_all()
        return loaded

    return load


def retries(flags: Flags) -> Retries:
    """What is done when a load fails."""
    return Retries(
        flags.max_num_load_retries,
        max(0, flags.load_retry_interval_micros) / 1e6,
        vain=(warmup.GoldenError, saved_model.WindowError),
    )


def session_config(flags: Flags) -> config_pb2.ConfigProto:
    """Threads and devices of a session: the file of --tensorflow_session_config_file, and the flags over it.

    Raises:
        tf.errors.OpError: the file cannot be read.
    """
    config = config_pb2.ConfigProto()
    if flags.tensorflow_session_config_file:
        read_text_proto(flags.tensorflow_session_config_file, config)
    config.gpu_options.per_process_gpu_memory_fraction = flags.per_process_gpu_memory_fraction
    # As there: either of the two flags leaves the other at automatic, not at --tensorflow_session_parallelism.
    intra, inter = flags.tensorflow_intra_op_parallelism, flags.tensorflow_inter_op_parallelism
    if intra <= 0 and inter <= 0:
        intra = inter = flags.tensorflow_session_parallelism
    config.intra_op_parallelism_threads, config.inter_op_parallelism_threads = intra, inter
    return config


def _batching(flags: Flags, monitoring: Monitoring) -> Batching | None:
    if not flags.enable_batching:
        return None
    parameters = BatchingParameters()
    if flags.batching_parameters_file:
        read_text_proto(flags.batching_parameters_file, parameters)
    else:
        parameters.thread_pool_name.value = _POOL
    threads = parameters.num_batch_threads.value if parameters.HasField("num_batch_threads") else os.cpu_count() or 1
    return Batching(
        Threads(threads),
        parameters,
        per_model=flags.enable_per_model_batching_parameters,
        observe=monitoring.batched,
    )


def _warm_up(loaded: Servable, path: Path, flags: Flags, monitoring: Monitoring) -> None:
    start = time.monotonic()
    iterations = max(1, flags.num_request_iterations_for_warmup)
    try:
        count = warmup.warm_up(loaded, path, check_golden=flags.check_golden, iterations=iterations)
    except tf.errors.OpError as error:
        monitoring.warmed_up(str(path), status_text(error), time.monotonic() - start, 0)
        raise
    if count:
        monitoring.warmed_up(str(path), "OK", time.monotonic() - start, count)
