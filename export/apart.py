"""A step of an export in a process of its own, which has nothing but the files and gives all of its memory back.

Between checkpoint and SavedModel on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server ->
client. The step is a program of this folder. It says itself, on stderr, what went wrong; who started it says what that
means.
"""

import signal
import subprocess
import sys
from pathlib import Path


def run(program: str, *arguments: str) -> int:
    """Runs a program and waits for it; its exit code, 0 or more.

    Args:
        program: file name in this folder.
        arguments: of its command line.

    Raises:
        ChildProcessError: a signal ended it, so that it could say nothing.
    """
    command = [sys.executable, str(Path(__file__).with_name(program)), *arguments]
    code = subprocess.run(command, check=False).returncode
    if code < 0:
        raise ChildProcessError(
            f"export/{program} was killed by {signal.Signals(-code).name} while it ran the version, as a process is "
            "where memory is short; nothing was written: export on a larger machine, or with --golden none"
        )
    return code
