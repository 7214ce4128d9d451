import re
from importlib import metadata

import pytest

from serving import command_line
from serving.flags import Flags


@pytest.mark.parametrize(
    "arguments",
    [["--port=9", "--check_golden=true"], ["--port", "9", "--check_golden"], ["--check_golden=1", "--port=9"]],
)
def test_spellings_mean_the_same(arguments):
    options = command_line.parse(arguments)
    assert (options.port, options.check_golden) == (9, True)


def test_a_switch_is_turned_off():
    assert not command_line.parse(["--enable_model_warmup=false"]).enable_model_warmup


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--model_bas_path=/m", "unknown flag --model_bas_path; the nearest known one is --model_base_path"),
        ("--model=/m", "unknown flag --model; the nearest known one is --model_name"),
        ("-port=8500", "unknown flag -port; a flag begins with two dashes, the nearest known one is --port"),
        ("stray", "unexpected argument 'stray'"),
        ("--port=abc", "Couldn't interpret value abc for flag port."),
        ("--enable_batching=maybe", "Couldn't interpret value maybe for flag enable_batching."),
        ("--port", "argument --port: expected one argument"),
        ("--port=70000", "--port is 70000; expected 0 to 65535"),
        ("--admin_port=-1", "--admin_port is -1; expected 0 to 65535"),
        ("--grpc_max_threads=1", "--grpc_max_threads is 1; expected 2 to 2147483647, since one takes"),
        ("--rest_api_num_threads=0", "--rest_api_num_threads is 0; expected 1 to 2147483647"),
        ("--file_system_poll_wait_seconds=-1", "--file_system_poll_wait_seconds is -1; expected 0 to 2147483647"),
        (
            "--file_system_poll_wait_seconds=100000000000",
            "--file_system_poll_wait_seconds is 100000000000; expected 0 to 2147483647",
        ),
        (
            "--model_config_file_poll_wait_seconds=2147483648",
            "--model_config_file_poll_wait_seconds is 2147483648; expected 0 to 2147483647",
        ),
        ("--drain_seconds=inf", "--drain_seconds is inf; expected 0 to 2147483647"),
        ("--max_message_bytes=2147483648", "--max_message_bytes is 2147483648; expected 0 to 2147483647"),
        ("--drain_seconds=nan", "--drain_seconds is nan; expected 0 to 2147483647"),
        ("--per_process_gpu_memory_fraction=1.5", "--per_process_gpu_memory_fraction is 1.5; expected 0 to 1"),
        ("--request_log=xml", "--request_log is 'xml'; expected json"),
    ],
)
def test_a_wrong_argument_is_one_line_and_the_real_servers_code(argument, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        command_line.parse([argument])
    assert stopped.value.code == 255
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_help_lists_every_flag_on_stdout(capsys):
    with pytest.raises(SystemExit) as stopped:
        command_line.parse(["--help"])
    assert stopped.value.code == 255
    out = capsys.readouterr().out
    assert out.startswith("usage: model_server.py\nFlags:\n")
    for name in Flags.__dataclass_fields__:
        assert f"\t--{name}=" in out


def test_the_version_names_ours_and_tensorflows(capsys):
    with pytest.raises(SystemExit) as stopped:
        command_line.parse(["--version", "--port=0"])
    assert stopped.value.code == 0
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"TensorFlow ModelServer: vit22b \d+\.\d.*", first)
    assert re.fullmatch(r"TensorFlow Library: 2\.\d.*", second)


def test_a_package_that_is_not_installed_has_no_version(monkeypatch, capsys):
    assert command_line.installed("pytest") == pytest.__version__
    assert command_line.installed("vit22b-no-such-package") == ""

    def unknown(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", unknown)
    with pytest.raises(SystemExit) as stopped:
        command_line.parse(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == (
        "TensorFlow ModelServer: vit22b of unknown version\nTensorFlow Library: of unknown version\n"
    )
