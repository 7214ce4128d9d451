import os

import pytest

from serving import flags


def test_defaults_are_the_real_servers():
    options = flags.parse([])
    assert (options.port, options.model_name, options.model_base_path) == (8500, "default", "")
    assert (options.file_system_poll_wait_seconds, options.enable_model_warmup) == (1, True)
    assert (options.max_num_load_retries, options.load_retry_interval_micros) == (5, 60_000_000)
    assert options.grpc_max_threads == 4 * os.cpu_count()
    assert not options.enable_grpc_healthcheck_service
    assert options.saved_model_tags == "serve"


@pytest.mark.parametrize(
    "arguments",
    [["--port=9", "--check_golden=true"], ["--port", "9", "--check_golden"], ["--check_golden=1", "--port=9"]],
)
def test_spellings_mean_the_same(arguments):
    options = flags.parse(arguments)
    assert (options.port, options.check_golden) == (9, True)


def test_a_switch_is_turned_off():
    assert not flags.parse(["--enable_model_warmup=false"]).enable_model_warmup


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--model_bas_path=/m", "unknown flag --model_bas_path; the nearest known one is --model_base_path"),
        ("--model=/m", "unknown flag --model; the nearest known one is --model_name"),
        ("stray", "unexpected argument 'stray'"),
        ("--port=abc", "--port: invalid int value: 'abc'"),
        ("--port=70000", "--port is 70000; expected 0 to 65535"),
        ("--check_golden=maybe", "invalid value 'maybe'; expected true or false"),
        ("--grpc_max_threads=1", "--grpc_max_threads is 1; expected 2 or more"),
        ("--file_system_poll_wait_seconds=-1", "--file_system_poll_wait_seconds is -1; expected 0 or more"),
    ],
)
def test_a_wrong_argument_is_one_line_and_code_2(argument, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        flags.parse([argument])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
