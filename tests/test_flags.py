import dataclasses
import os

import pytest

from serving import flags
from serving.command_line import parse

# What --help of the real server lists, where its default does not depend on the machine.
REAL = {
    "port": 8500,
    "grpc_socket_path": "",
    "rest_api_port": 0,
    "rest_api_timeout_in_ms": 30000,
    "rest_api_enable_cors_support": False,
    "enable_batching": False,
    "allow_version_labels_for_unavailable_models": False,
    "batching_parameters_file": "",
    "enable_per_model_batching_parameters": False,
    "model_config_file": "",
    "model_config_file_poll_wait_seconds": 0,
    "model_name": "default",
    "model_base_path": "",
    "num_load_threads": 0,
    "num_unload_threads": 0,
    "max_num_load_retries": 5,
    "load_retry_interval_micros": 60_000_000,
    "file_system_poll_wait_seconds": 1,
    "flush_filesystem_caches": True,
    "tensorflow_session_parallelism": 0,
    "tensorflow_session_config_file": "",
    "tensorflow_intra_op_parallelism": 0,
    "tensorflow_inter_op_parallelism": 0,
    "use_alts_credentials": False,
    "ssl_config_file": "",
    "platform_config_file": "",
    "per_process_gpu_memory_fraction": 0.0,
    "saved_model_tags": "serve",
    "grpc_channel_arguments": "",
    "enable_model_warmup": True,
    "num_request_iterations_for_warmup": 0,
    "version": False,
    "monitoring_config_file": "",
    "remove_unused_fields_from_bundle_metagraph": True,
    "prefer_tflite_model": False,
    "num_tflite_interpreters_per_pool": 1,
    "enable_signature_method_name_check": False,
    "xla_cpu_compilation_enabled": False,
    "xla_gpu_compilation_enabled": False,
    "enable_profiler": True,
    "thread_pool_factory_config_file": "",
    "mixed_precision": "",
    "skip_initialize_tpu": False,
    "enable_grpc_healthcheck_service": False,
    "enable_serialization_as_tensor_content": False,
}
CORES = {"grpc_max_threads": 4, "rest_api_num_threads": 4, "num_tflite_pools": 1}  # so many a core
OURS = {
    "bind_address",
    "check_golden",
    "drain_seconds",
    "rest_ssl",
    "api_keys_file",
    "admin_keys_file",
    "admin_port",
    "max_pending",
    "max_message_bytes",
    "otlp_endpoint",
    "request_log",
    "statusz",
}


def test_every_flag_of_the_real_server_is_known_by_its_default():
    options = dataclasses.asdict(parse([]))
    assert {name: options[name] for name in REAL} == REAL
    assert {name: options[name] for name in CORES} == {name: count * os.cpu_count() for name, count in CORES.items()}
    assert options.keys() - REAL.keys() - CORES.keys() == OURS


def test_a_flag_without_meaning_is_told_of_when_it_is_set(caplog):
    flags.warn(parse(["--port=9", "--enable_profiler=true"]))
    assert caplog.text == ""
    flags.warn(parse(["--prefer_tflite_model", "--mixed_precision=bfloat16"]))
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "--prefer_tflite_model=True has no meaning here: saved_model.pb is served",
        "--mixed_precision=bfloat16 has no meaning here: a version runs in the precision that it was exported with",
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--port=0"], "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."),
        (
            ["--use_alts_credentials", "--ssl_config_file=/s"],
            "Either use_alts_credentials must be false or ssl_config_file must be empty.",
        ),
        ([], "Both server_options.model_base_path and server_options.model_config_file are empty!"),
        (
            ["--model_base_path=/m", "--batching_parameters_file=/b"],
            "server_options.batching_parameters_file is set without setting server_options.enable_batching to true.",
        ),
        (
            [
                "--model_base_path=/m",
                "--tensorflow_session_parallelism=1",
                "--tensorflow_intra_op_parallelism=1",
                "--tensorflow_inter_op_parallelism=1",
            ],
            (
                "Either configure server_options.tensorflow_session_parallelism or "
                "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) "
                "separately. You cannot configure all."
            ),
        ),
        (
            ["--model_base_path=/m", "--rest_ssl"],
            "--rest_ssl needs the certificates of --ssl_config_file, which is empty",
        ),
        (
            ["--model_base_path=/m", "--rest_ssl", "--ssl_config_file=/s"],
            "--rest_ssl is about the REST port, and there is none; give a --rest_api_port",
        ),
        (
            ["--model_base_path=/m", "--statusz"],
            "--statusz is about the REST port, and there is none; give a --rest_api_port",
        ),
        (
            ["--model_base_path=/m", "--check_golden", "--enable_model_warmup=false"],
            (
                "--check_golden compares the answers of the warm-up, and --enable_model_warmup=false leaves it out; "
                "leave out one of the two flags"
            ),
        ),
        (["--model_base_path=/m", "--check_golden", "--statusz", "--rest_api_port=8501"], ""),
        (["--model_config_file=/m", "--port=0", "--grpc_socket_path=/s"], ""),
    ],
)
def test_flags_that_contradict_each_other_are_told_in_the_real_servers_words(arguments, text):
    assert flags.contradiction(parse(arguments)) == text
