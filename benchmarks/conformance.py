"""Asks the server what TensorFlow Serving was asked, and compares the answers with the recorded ones.

    .venv/bin/python benchmarks/conformance.py

Beside the walk SavedModel -> [server] -> client: the real program, on the models that the cases were recorded with, is
asked by tests/conformance/replay.py over gRPC and REST. Prints what differs; exit code 1 if anything does.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path

from benchmarks.server_process import ROOT, ServerError, ServerProcess
from vit22b import program

CONFORMANCE = ROOT / "tests" / "conformance"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Compare the server's answers with TensorFlow Serving's."""

    folder: Path = Path("build/conformance")
    """Where the models and the server's log go."""


def make_models(folder: Path) -> list[str]:
    """Writes the models of the recorded cases; the server's flags that serve them as the recorded server did."""
    if code := run("make_models.py", folder):
        raise ServerError(f"make_models.py ended with code {code}")
    # The file labels versions that are not loaded yet.
    return [f"--model_config_file={folder / 'models.config'}", "--allow_version_labels_for_unavailable_models=true"]


def run(script: str, *arguments: object) -> int:
    """Runs a script of tests/conformance; its exit code. What TensorFlow writes when it is imported is not shown."""
    command = [sys.executable, str(CONFORMANCE / script), *map(str, arguments)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
    return done.returncode


def main(settings: Settings) -> int:
    """The exit code of replay.py."""
    folder = settings.folder.absolute()
    flags = make_models(folder)
    with ServerProcess([*flags, "--max_num_load_retries=0"], folder / "server.log") as server:
        code = run("replay.py", CONFORMANCE / "cases.jsonl", "--grpc", server.grpc, "--rest", server.rest)
        faults = server.faults()
    for line in faults:
        print(f"the server's log: {line}")
    return 1 if faults else code


if __name__ == "__main__":
    program.run(main, Settings, __doc__, failures=(ServerError,))
