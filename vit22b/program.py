"""How every program of the project starts and fails: a command line from a dataclass, an error in one line.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client; every program on it runs
through here. Exit codes: 0 done, 1 failed (the reason is on stderr), 2 the command line is wrong, 143 stopped by a
signal with all work saved.
"""

import sys
from collections.abc import Callable
from typing import TypeVar

import tyro

S = TypeVar("S")


def run(main: Callable[[S], int | None], settings: type[S], description: str | None) -> None:
    """Parses the command line into `settings`, runs `main` on it, and exits.

    A ValueError or OSError is the user's to mend and is told in one line; anything else is ours, with its traceback.

    Args:
        main: the program; what it returns is the exit code.
        settings: a dataclass, every field of which becomes a flag.
        description: for --help, usually the module's docstring.
    """
    try:
        code = main(tyro.cli(settings, description=description, use_underscores=True))
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(143)
    sys.exit(code)


class Interrupted(Exception):  # noqa: N818 (it is no error: the state is saved)
    """The program was told to stop, and has saved what it had."""
