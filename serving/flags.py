"""The flags of the model server, named and defaulted as tensorflow_model_server's.

Where the server stage begins: SavedModel -> [server] -> client. command_line.py reads them. Standard library only, so
that a wrong flag is refused before TensorFlow is imported.
"""

import dataclasses
import logging
import os
from typing import Any

_CORES = os.cpu_count() or 1

logger = logging.getLogger(__name__)


def _flag(default: Any, text: str, *, instead: str = "") -> Any:
    """A flag; one without meaning here says what stands `instead`."""
    return dataclasses.field(default=default, metadata={"help": text, "instead": instead})


@dataclasses.dataclass(frozen=True)
class Flags:
    """What the command line says; every field is a flag of the same name.

    Names, meanings and defaults are tensorflow_model_server's, up to the line below which they are ours.
    """

    # Ports
    port: int = _flag(8500, "TCP port of the gRPC API; 0 for none, which takes a --grpc_socket_path")
    grpc_socket_path: str = _flag("", "path of a UNIX socket for the gRPC API, beside the port")
    rest_api_port: int = _flag(0, "TCP port of the REST API; 0 for none")
    rest_api_num_threads: int = _flag(4 * _CORES, "threads that answer REST requests")
    rest_api_timeout_in_ms: int = _flag(30_000, "milliseconds that a REST request may take")
    rest_api_enable_cors_support: bool = _flag(False, "answer REST requests with CORS headers")
    grpc_channel_arguments: str = _flag("", "arguments of the gRPC server: name=value,name=value")
    grpc_max_threads: int = _flag(4 * _CORES, "one more than the gRPC calls at once; a call beyond them is refused")
    enable_grpc_healthcheck_service: bool = _flag(False, "serve grpc.health.v1.Health")
    use_alts_credentials: bool = _flag(False, "open the gRPC port with Google's ALTS")
    ssl_config_file: str = _flag("", "text file of an SSLConfig: open the gRPC port with TLS")
    # Models
    model_name: str = _flag("default", "name that requests call the model by, unless there is a --model_config_file")
    model_base_path: str = _flag("", "absolute path of the directory that holds the model's numbered versions")
    model_config_file: str = _flag("", "text file of a ModelServerConfig: the models, their policies and labels")
    model_config_file_poll_wait_seconds: int = _flag(0, "seconds between two looks at that file; 0 reads it once")
    allow_version_labels_for_unavailable_models: bool = _flag(
        False, "let a new label name a version that is not AVAILABLE"
    )
    file_system_poll_wait_seconds: int = _flag(1, "seconds between two looks for versions; 0 looks once")
    num_load_threads: int = _flag(0, "versions loaded at once; with 0 one thread loads and unloads, one by one")
    num_unload_threads: int = _flag(0, "versions unloaded at once; with 0 one thread loads and unloads, one by one")
    max_num_load_retries: int = _flag(5, "how often a failed load is tried again; a negative number counts as 0")
    load_retry_interval_micros: int = _flag(60_000_000, "microseconds between two attempts; negative for no pause")
    enable_model_warmup: bool = _flag(True, "replay assets.extra/tf_serving_warmup_requests before AVAILABLE")
    num_request_iterations_for_warmup: int = _flag(0, "how often each of these requests is replayed; 0 for once")
    # Runs
    enable_batching: bool = _flag(False, "join requests of a signature in batches")
    batching_parameters_file: str = _flag("", "text file of BatchingParameters")
    enable_per_model_batching_parameters: bool = _flag(
        False, "read batching_params.pbtxt in each version, and of --batching_parameters_file the threads alone"
    )
    saved_model_tags: str = _flag("serve", "comma-separated tags of the graph to load")
    tensorflow_session_config_file: str = _flag("", "text file of TensorFlow's ConfigProto")
    tensorflow_session_parallelism: int = _flag(0, "threads of a run, within and between operations; 0 for automatic")
    tensorflow_intra_op_parallelism: int = _flag(0, "threads within an operation; 0 for automatic")
    tensorflow_inter_op_parallelism: int = _flag(0, "threads between operations; 0 for automatic")
    per_process_gpu_memory_fraction: float = _flag(0.0, "share of a GPU's memory to take; 0 for automatic")
    enable_signature_method_name_check: bool = _flag(False, "hold a signature to the method that it is written for")
    enable_serialization_as_tensor_content: bool = _flag(False, "answer with tensor_content, not float_val and so on")
    # Insight
    monitoring_config_file: str = _flag("", "text file of a MonitoringConfig: Prometheus metrics on the REST port")
    version: bool = _flag(False, "print the versions and exit")
    # Accepted
    xla_cpu_compilation_enabled: bool = _flag(False, "accepted: here XLA programs run with or without it")
    xla_gpu_compilation_enabled: bool = _flag(False, "accepted: here XLA programs run with or without it")
    remove_unused_fields_from_bundle_metagraph: bool = _flag(
        True, "without meaning here", instead="of a graph the signatures alone are kept"
    )
    flush_filesystem_caches: bool = _flag(True, "without meaning here", instead="files are read from local disks")
    platform_config_file: str = _flag(
        "", "without meaning here", instead="the flags of batching, sessions and warm-up say how models are run"
    )
    prefer_tflite_model: bool = _flag(False, "without meaning here", instead="saved_model.pb is served")
    num_tflite_pools: int = _flag(_CORES, "without meaning here", instead="saved_model.pb is served")
    num_tflite_interpreters_per_pool: int = _flag(1, "without meaning here", instead="saved_model.pb is served")
    enable_profiler: bool = _flag(True, "without meaning here", instead="no profiler is served, on or off")
    thread_pool_factory_config_file: str = _flag(
        "", "without meaning here", instead="--tensorflow_inter_op_parallelism and its like size the pools"
    )
    mixed_precision: str = _flag(
        "", "without meaning here", instead="a version runs in the precision that it was exported with"
    )
    skip_initialize_tpu: bool = _flag(False, "without meaning here", instead="no TPU is initialised")

    # Ours, and off
    bind_address: str = _flag("", "address to listen on, for instance 127.0.0.1; all interfaces if empty")
    check_golden: bool = _flag(False, "compare the warm-up's answers with those in its file; a mismatch fails the load")
    drain_seconds: float = _flag(20.0, "seconds that requests under way have to finish after SIGTERM")
    rest_ssl: bool = _flag(False, "open the REST port with the TLS of --ssl_config_file too")
    api_keys_file: str = _flag("", "file of hashed keys, one of which every request has to carry")
    admin_keys_file: str = _flag("", "file of hashed keys, one of which a reload has to carry")
    admin_port: int = _flag(0, "TCP port of the gRPC API that alone takes reloads; 0 for none")
    max_pending: int = _flag(1000, "requests under way and waiting beyond which the next is refused")
    max_message_bytes: int = _flag(0, "size of a request beyond which it is refused; 0 for gRPC's 2 GiB")
    otlp_endpoint: str = _flag("", "where OpenTelemetry traces go, for instance http://localhost:4317")
    request_log: str = _flag("", "json writes a line on stdout for every request")
    statusz: bool = _flag(
        False, "show /statusz, a page for people, on the REST port; like the metrics it asks for no key"
    )


def warn(flags: Flags) -> None:
    """Logs a line for each flag that was set and has no meaning here."""
    for field in dataclasses.fields(Flags):
        value = getattr(flags, field.name)
        if field.metadata["instead"] and value != field.default:
            logger.warning("--%s=%s has no meaning here: %s", field.name, value, field.metadata["instead"])


def contradiction(flags: Flags) -> str:
    """What is wrong with flags that are right each by itself, its own in the real server's words; empty if nothing."""
    if not flags.port and not flags.grpc_socket_path:
        return "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."
    if flags.use_alts_credentials and flags.ssl_config_file:
        return "Either use_alts_credentials must be false or ssl_config_file must be empty."
    if not flags.model_base_path and not flags.model_config_file:
        return "Both server_options.model_base_path and server_options.model_config_file are empty!"
    if flags.batching_parameters_file and not flags.enable_batching:
        return "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
    within, between = flags.tensorflow_intra_op_parallelism, flags.tensorflow_inter_op_parallelism
    if within > 0 and between > 0 and flags.tensorflow_session_parallelism > 0:
        return (
            "Either configure server_options.tensorflow_session_parallelism or "
            "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) "
            "separately. You cannot configure all."
        )
    return _contradiction_of_ours(flags)


def _contradiction_of_ours(flags: Flags) -> str:
    """The same of the flags that the real server does not have."""
    if flags.rest_ssl and not flags.ssl_config_file:
        return "--rest_ssl needs the certificates of --ssl_config_file, which is empty"
    for name in ("rest_ssl", "statusz"):
        if getattr(flags, name) and not flags.rest_api_port:
            return f"--{name} is about the REST port, and there is none; give a --rest_api_port"
    if flags.check_golden and not flags.enable_model_warmup:
        return (
            "--check_golden compares the answers of the warm-up, and --enable_model_warmup=false leaves it out; leave "
            "out one of the two flags"
        )
    return ""
