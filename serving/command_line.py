"""The command line of the model server, read as tensorflow_model_server reads its own.

Between the shell and flags.py, where the server of SavedModel -> [server] -> client begins. Standard library only.
`--flag=value`, `--flag value`, and for a switch `--flag` alone are understood. A value that does not fit is answered as
there; a flag that is not known, with which the real server starts all the same, is an error with the nearest name.
"""

import argparse
import dataclasses
import difflib
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any, NoReturn

from serving.flags import Flags

EXIT_CODE = 255  # of a command line that is wrong, and of --help

_INT32 = 2**31 - 1  # the type of the real server's numbers; a wait of more seconds is beyond Python, too
_PORT = (0, 65535, "0 to 65535")
_SOME = (1, _INT32, f"1 to {_INT32}")
_ANY = (0, _INT32, f"0 to {_INT32}")
_BOUNDS: dict[str, tuple[float, float, str]] = {
    "port": _PORT,
    "rest_api_port": _PORT,
    "admin_port": _PORT,
    "grpc_max_threads": (2, _INT32, f"2 to {_INT32}, since one takes requests in"),
    "rest_api_num_threads": _SOME,
    "rest_api_timeout_in_ms": _SOME,
    "max_pending": _SOME,
    "file_system_poll_wait_seconds": _ANY,
    "model_config_file_poll_wait_seconds": _ANY,
    "num_load_threads": _ANY,
    "num_unload_threads": _ANY,
    "drain_seconds": _ANY,
    "max_message_bytes": (0, _INT32, f"0 to {_INT32}, which is gRPC's own bound"),
    "per_process_gpu_memory_fraction": (0, 1, "0 to 1"),
}


def parse(arguments: Sequence[str]) -> Flags:
    """Reads a command line, without the program's name.

    Raises:
        SystemExit: with code 255 for a flag that is not known (the message has the nearest name), a value that does not
            fit, and --help; with code 0 for --version.
    """
    if any(argument in ("-h", "-help", "--help") for argument in arguments):
        sys.stdout.write(usage())
        raise SystemExit(EXIT_CODE)
    values, unknown = _parser().parse_known_args(arguments)
    if unknown:
        _refuse(_unknown(unknown[0]))
    flags = Flags(**vars(values))
    if flags.version:
        print(f"TensorFlow ModelServer: vit22b {installed('vit22b') or 'of unknown version'}")
        print(f"TensorFlow Library: {installed('tensorflow') or 'of unknown version'}")
        raise SystemExit(0)
    _check(flags)
    return flags


def installed(package: str) -> str:
    """The version of an installed package; empty in a checkout that is not installed, or with another build's name."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def usage() -> str:
    """The flags, their defaults and their meanings, laid out as the real server's."""
    lines = ["usage: model_server.py", "Flags:"]
    for field in dataclasses.fields(Flags):
        default = str(field.default).lower() if field.type is bool else field.default
        setting = f"--{field.name}={default!r}" if field.type is str else f"--{field.name}={default}"
        lines.append(f"\t{setting:<50}\t{field.type.__name__}\t{field.metadata['help']}")
    return "\n".join(lines) + "\n"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _refuse(message)


def _parser() -> _Parser:
    parser = _Parser(allow_abbrev=False, add_help=False)
    for field in dataclasses.fields(Flags):
        options: dict[str, Any] = {"default": field.default, "type": _value(field)}
        if field.type is bool:
            options |= {"nargs": "?", "const": True}
        parser.add_argument(f"--{field.name}", **options)
    return parser


def _value(field: dataclasses.Field[Any]) -> Any:
    """How a flag's value is read, with the real server's words for one that cannot be."""
    read = _boolean if field.type is bool else field.type

    def value(text: str) -> Any:
        try:
            return read(text)
        except ValueError:
            _refuse(f"Couldn't interpret value {text} for flag {field.name}.")

    return value


def _boolean(text: str) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in known:
        raise ValueError(text)
    return known[text.lower()]


def _unknown(argument: str) -> str:
    if not argument.startswith("-"):
        return f"unexpected argument {argument!r}; expected --flag=value"
    written = argument.partition("=")[0]
    name = written.lstrip("-")
    near = difflib.get_close_matches(name, [field.name for field in dataclasses.fields(Flags)], n=1, cutoff=0.0)
    dashes = "" if written == f"--{name}" else "a flag begins with two dashes, "
    return f"unknown flag {written}; {dashes}the nearest known one is --{near[0]}"


def _check(flags: Flags) -> None:
    for name, (least, most, expected) in _BOUNDS.items():
        if not least <= getattr(flags, name) <= most:
            _refuse(f"--{name} is {getattr(flags, name)}; expected {expected}")
    if flags.request_log not in ("", "json"):
        _refuse(f"--request_log is {flags.request_log!r}; expected json")


def _refuse(message: str) -> NoReturn:
    """One line and no list of flags, which would hide the mistake."""
    sys.stderr.write(f"error: {message}\n")
    raise SystemExit(EXIT_CODE)
