"""The flags of the model server, spelt and defaulted as tensorflow_model_server's.

Where the server stage begins: SavedModel -> [server] -> client. Standard library only, so that a wrong flag is refused
before TensorFlow is imported. `--flag=value`, `--flag value`, and for a switch `--flag` alone are understood.
"""

import argparse
import dataclasses
import difflib
import os
from collections.abc import Sequence
from typing import Any, NoReturn


def _flag(default: Any, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class Flags:
    """What the command line says; every field is a flag of the same name.

    `bind_address`, `check_golden` and `drain_seconds` are ours. The others, their meanings and their defaults are
    tensorflow_model_server's.
    """

    port: int = _flag(8500, "TCP port of the gRPC API; 0 takes a free one and logs it")
    bind_address: str = _flag("", "address to listen on, for instance 127.0.0.1; all interfaces if empty")
    model_name: str = _flag("default", "name that requests call the model by")
    model_base_path: str = _flag("", "absolute path of the directory that holds the model's numbered versions")
    file_system_poll_wait_seconds: int = _flag(1, "seconds between two looks for versions; 0 looks once")
    enable_model_warmup: bool = _flag(True, "replay assets.extra/tf_serving_warmup_requests before AVAILABLE")
    check_golden: bool = _flag(False, "compare the warm-up's answers with those in its file; a mismatch fails the load")
    max_num_load_retries: int = _flag(5, "how often a failed load is tried again; a negative number counts as 0")
    load_retry_interval_micros: int = _flag(60_000_000, "microseconds between two attempts to load")
    grpc_max_threads: int = _flag(
        4 * (os.cpu_count() or 1), "threads of the gRPC server; one takes requests in, the others answer them"
    )
    enable_grpc_healthcheck_service: bool = _flag(False, "serve grpc.health.v1.Health")
    enable_serialization_as_tensor_content: bool = _flag(False, "answer with tensor_content, not float_val and so on")
    saved_model_tags: str = _flag("serve", "comma-separated tags of the graph to load")
    tensorflow_session_parallelism: int = _flag(0, "threads of a run, within and between operations; 0 for automatic")
    tensorflow_intra_op_parallelism: int = _flag(0, "threads within an operation; 0 for automatic")
    tensorflow_inter_op_parallelism: int = _flag(0, "threads between operations; 0 for automatic")
    xla_cpu_compilation_enabled: bool = _flag(False, "accepted: here XLA programs run with or without it")
    drain_seconds: float = _flag(20.0, "seconds that requests under way have to finish after SIGTERM")


def parse(arguments: Sequence[str]) -> Flags:
    """Reads a command line, without the program's name.

    Raises:
        SystemExit: a flag that is not known (the message has the nearest name), a value that does not fit, or --help.
            The code is 2 for the first two, 0 for --help.
    """
    parser = _parser()
    values, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.error(_unknown(unknown[0]))
    flags = Flags(**vars(values))
    _check(parser, flags)
    return flags


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line and no usage: the list of flags would hide the mistake."""
        self.exit(2, f"error: {message}\n")


def _parser() -> _Parser:
    parser = _Parser(
        prog="model_server.py",
        description="Serves the versions of one SavedModel over tensorflow_model_server's gRPC protocol.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    for field in dataclasses.fields(Flags):
        options: dict[str, Any] = {"default": field.default, "help": field.metadata["help"], "type": field.type}
        if field.type is bool:
            options |= {"type": _boolean, "nargs": "?", "const": True, "metavar": "true|false"}
        else:
            options["metavar"] = "VALUE"
        parser.add_argument(f"--{field.name}", **options)
    return parser


def _boolean(text: str) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"invalid value {text!r}; expected true or false")
    return known[text.lower()]


def _unknown(argument: str) -> str:
    if not argument.startswith("-"):
        return f"unexpected argument {argument!r}; expected --flag=value"
    name = argument.lstrip("-").partition("=")[0]
    near = difflib.get_close_matches(name, [field.name for field in dataclasses.fields(Flags)], n=1, cutoff=0.0)
    return f"unknown flag --{name}; the nearest known one is --{near[0]}"


def _check(parser: argparse.ArgumentParser, flags: Flags) -> None:
    if not 0 <= flags.port <= 65535:
        parser.error(f"--port is {flags.port}; expected 0 to 65535")
    if flags.grpc_max_threads < 2:
        parser.error(f"--grpc_max_threads is {flags.grpc_max_threads}; expected 2 or more, since one takes requests in")
    for name in ("file_system_poll_wait_seconds", "load_retry_interval_micros", "drain_seconds"):
        if getattr(flags, name) < 0:
            parser.error(f"--{name} is {getattr(flags, name)}; expected 0 or more")
