"""How a program starts and fails: a command line from a dataclass, an error in one line.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client; the programs on it run
through here. Exit codes: 0 done, or told to stop and the work saved; 1 failed; 2 what the user gave is wrong; 130
interrupted; 141 nobody reads stdout any more.
"""

import functools
import io
import os
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

import tyro
from rich.console import Console

Settings = TypeVar("Settings")


class Interrupted(Exception):  # noqa: N818 (it is no error)
    """The program was told to stop, and has saved what it had."""

    def __init__(self, message: str, code: int = 0) -> None:
        """Takes what to say, and the exit code."""
        super().__init__(message)
        self.code = code


def run(
    main: Callable[..., int | None],
    settings: type[Settings],
    description: str | None,
    failures: tuple[type[Exception], ...] = (),
    *,
    rest: bool = False,
) -> NoReturn:
    """Parses the command line into `settings`, runs `main` on it, and exits.

    A ValueError is the user's to mend, an OSError or one of `failures` is the world's: they are told in one line on
    stderr. Anything else is a defect of ours and comes with its traceback.

    Args:
        main: the program; what it returns is the exit code, None for 0.
        settings: a dataclass, every field of which becomes a flag.
        description: for --help, the module's docstring.
        failures: further exceptions to tell in one line.
        rest: whether flags that `settings` does not have are somebody else's: `main` gets them as a list, second.
    """
    command_line = functools.partial(
        tyro.cli,
        settings,
        description=description,
        use_underscores=True,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file's name need not be text that stdout can hold; what is done already must not fail for it.
        sys.stdout.reconfigure(errors="backslashreplace")
    given = command_line(return_unknown_args=True) if rest else (command_line(),)
    told: tuple[type[Exception], ...] = (OSError, *failures)
    try:
        code = main(*given) or 0
        sys.stdout.flush()  # here, where it is known what a failure means
    except BrokenPipeError:
        # What reads it, such as `head`, has enough. The rest is for nobody, and Python would complain of it as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141  # 128 + SIGPIPE, as of a program that does not handle the signal
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        code = stopped.code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except told as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)


class _TableConsole(Console):
    """A console that leaves it to `run` when nobody reads it any more."""

    def on_broken_pipe(self) -> None:
        """See Console, which would end the program by itself."""
        raise BrokenPipeError("nobody reads the tables")


def table_console() -> Console:
    """Where a program prints its tables: the terminal, or a file, which has no width and is given enough."""
    console = _TableConsole()
    return console if console.is_terminal else _TableConsole(width=160)
