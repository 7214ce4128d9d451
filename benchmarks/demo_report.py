"""Puts the demo's results into one report: build/demo/report.json, and the table of stages.

    .venv/bin/python benchmarks/demo_report.py build/demo

Its fields are listed in docs/reports.md. Every figure was written by the stage that found it; nothing is computed here.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from vit22b import program
from vit22b.signature import MANIFEST_FILE, Manifest


@dataclasses.dataclass(frozen=True)
class Settings:
    """Gather the demo's results."""

    folder: Annotated[Path, tyro.conf.Positional]
    """What `make demo` wrote: stages.tsv, zero_shot.json, parity.json, models/digits/1/."""
    least_top1: float = 0.9
    """Exit with 1 where zero_shot_top1 is below this."""


def gather(folder: Path) -> dict[str, Any]:
    """The report of a demo's folder."""
    zero_shot = json.loads((folder / "zero_shot.json").read_text())
    parity = json.loads((folder / "parity.json").read_text())
    manifest = Manifest.from_json((folder / "models" / "digits" / "1" / MANIFEST_FILE).read_text())
    stages = [line.split("\t") for line in (folder / "stages.tsv").read_text().splitlines()]
    return {
        "zero_shot_top1": zero_shot["zero_shot_top1"],
        "chance": zero_shot["chance"],
        "n": zero_shot["n"],
        "max_abs_error_served_vs_jax": parity["max_abs_error_served_vs_jax"],
        "classes_seen_in_training": True,
        "stages": {name: float(seconds) for name, seconds in stages},
        "model": {
            "space_id": manifest.space_id,
            "step": manifest.step,
            "config": dataclasses.asdict(manifest.config),
            "versions": manifest.versions,
        },
    }


def main(settings: Settings) -> int:
    """Writes report.json and prints the table; the exit code."""
    report = gather(settings.folder)
    path = settings.folder / "report.json"
    path.write_text(json.dumps(report, indent=2) + "\n")
    table = Table("stage", "seconds")
    for name, seconds in report["stages"].items():
        table.add_row(name, f"{seconds:.1f}")
    table.add_row("all", f"{sum(report['stages'].values()):.1f}", style="bold")
    Console().print(table)
    top1, chance = report["zero_shot_top1"], report["chance"]
    print(f"zero-shot top-1 {top1:.1%} of {report['n']} held-out digits, chance {chance:.0%}")
    print(f"served against JAX: max abs error {report['max_abs_error_served_vs_jax']:.1e}")
    print(f"{path}, {settings.folder / 'predictions.png'}")
    if top1 < settings.least_top1:
        print(f"that is below {settings.least_top1:.0%}: something is wrong, training reaches more", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    program.run(main, Settings, __doc__)
