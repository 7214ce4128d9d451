"""Verifies an exported version on other TensorFlows, each in an environment of its own: docs/compatibility.md's rows.

    .venv/bin/python benchmarks/compatibility.py build/demo/models/digits/1 --tensorflow 2.19.1 2.20.0

makes build/compatibility/tensorflow-<version>/ with what export/verify.py needs and nothing else, runs it there on the
version's golden requests, prints what came, and writes build/compatibility/report.json. An environment that is there is
used again.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from vit22b import program
from vit22b.signature import MANIFEST_FILE, Manifest

ROOT = Path(__file__).parents[1]
_PACKAGES = ("rich", "tokenizers", "tyro")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Verify a version on other TensorFlows."""

    version: Annotated[Path, tyro.conf.Positional]
    """The version's folder."""
    tensorflow: tuple[str, ...] = ("2.19.1", "2.20.0")
    """Releases to run it on; tensorflow and tensorflow-serving-api of each have to be in the package index."""
    output: Path = ROOT / "build" / "compatibility"
    """Where the environments and the report go."""


def main(settings: Settings) -> int:
    """Runs every row, prints and writes them; the exit code is 0 whatever came, since a refusal is a result."""
    written = settings.version / MANIFEST_FILE
    if not written.is_file():
        raise ValueError(f"{written} is missing; name an exported version, or run make demo first, which makes one")
    manifest = Manifest.from_json(written.read_text())
    rows = [verify(settings.version, environment(settings.output, release)) for release in settings.tensorflow]
    report = {
        "exported_with": {name: manifest.versions[name] for name in ("jax", "tensorflow")},
        "xla_call_module_version": manifest.xla_call_module_version,
        "stablehlo_version": manifest.stablehlo_version,
        "rows": [{"tensorflow": release, **row} for release, row in zip(settings.tensorflow, rows, strict=True)],
    }
    path = settings.output / "report.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    table = Table("tensorflow", "exit code", "what it says")
    for row in report["rows"]:
        table.add_row(row["tensorflow"], str(row["exit_code"]), row["says"])
    program.table_console().print(table)
    print(path)
    return 0


def environment(folder: Path, release: str) -> Path:
    """The Python of an environment with a TensorFlow, made where it is not there."""
    place = folder / f"tensorflow-{release}"
    python, done = place / "bin" / "python", place / ".installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        ours = (f"tensorflow=={release}", f"tensorflow-serving-api=={release}", *_PACKAGES)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *ours], check=True)
        done.touch()
    return python


def verify(version: Path, python: Path) -> dict[str, Any]:
    """What export/verify.py does under a Python: its exit code and its last word."""
    found = subprocess.run(
        [python, ROOT / "export" / "verify.py", version.absolute()],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (found.stderr if found.returncode else found.stdout).strip().splitlines()
    return {"exit_code": found.returncode, "says": lines[-1] if lines else ""}


if __name__ == "__main__":
    program.run(main, Settings, __doc__, failures=(subprocess.CalledProcessError,))
