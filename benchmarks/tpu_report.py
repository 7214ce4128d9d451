"""The 22B step under the TPU compiler: the rows of build/tpu/report.json.

    make tpu        all rows; a minute or more each on two cores, and none twice
    make tpu-ci     one row, and an error where what it promises does not hold

What the compiler says is fact, what is predicted from it is called a prediction: see train/plan.py, which makes a row
of any other run. A row is written as soon as it is known, in place of its earlier one; one that does not fit goes to
search.json, beside what `train/plan.py --search` tried.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from rich.table import Table

from train.abstract_step import Planned
from train.compilation import compile_apart
from train.compute import Compute
from train.plan import GIB
from train.prediction import asked, keep, predict, question, read_rows, write_rows
from vit22b import program, topology


@dataclasses.dataclass(frozen=True)
class Settings:
    """Compile the 22B step for TPUs that need not be there."""

    folder: Path = Path("build/tpu")
    """For report.json, search.json and the compiler's answers (programs/)."""
    ci: bool = False
    """One row only, ring on v5p, and no report: exit with 1 unless it fits and its collectives are as promised."""


def on_v5p(**compute: Any) -> Planned:
    """64 v5p, 32 images a chip."""
    return Planned(topology="v5p:4x4x4", batch=2048, compute=Compute(mesh="16x4", dtype="bfloat16", **compute))


def on_v4(**compute: Any) -> Planned:
    """1,024 v4, the paper's batch."""
    return Planned(topology="v4:8x8x16", batch=65_536, compute=Compute(dtype="bfloat16", **compute))


CI = on_v5p(parallel="ring", remat="full")
ROWS = (
    CI,
    on_v5p(parallel="ring", remat="dots"),
    on_v5p(parallel="ring", remat="full", split="features"),
    on_v5p(parallel="gspmd", remat="full"),
    on_v5p(parallel="gspmd", remat="dots"),
    on_v4(mesh="128x8", parallel="ring", remat="dots", accumulate=4),
    on_v4(mesh="128x8", parallel="ring", remat="full", accumulate=4),
    on_v4(mesh="256x4", parallel="ring", remat="dots", accumulate=4),
    on_v4(mesh="128x8", parallel="gspmd", remat="full", accumulate=4),
)


def main(settings: Settings) -> int:
    """Writes the report and prints it; the exit code."""
    if not topology.has_compiler():
        raise ValueError("the TPU compiler is not installed; pip install 'jax[tpu]'")
    rows: list[dict[str, Any]] = []
    for run in (CI,) if settings.ci else ROWS:
        row = predict(run, compile_apart(run, settings.folder / "programs"))
        row["goals_missed"] = missed(row)
        show([row])
        if settings.ci:
            return check(row)
        rows.append(row)
        write([row], settings.folder)
    show(rows)
    return 0


def missed(row: Mapping[str, Any]) -> list[str]:
    """What a row was meant to be and is not; a MFU is no goal here, as it is a prediction."""
    if not row["fits"]:
        return ["fits"]
    if not row["layer"]:
        return ["layer is known"]
    layer, ring, v4 = row["layer"], row["parallel"] == "ring", row["topology"].startswith("v4")
    goals = {
        "ring_bytes as the closed form": not ring or layer["ring_bytes"] == layer["ring_bytes_closed_form"],
        "at most one synchronous on v4": not (ring and v4) or layer["synchronous"] <= 1,
        "none synchronous": not ring or v4 or layer["synchronous"] == 0,
        "overlapped_fraction of 0.95": not ring or (layer["overlapped_fraction"] or 0) >= 0.95,
        "exposed_ms of 2% of the layer": not ring or layer["exposed_ms"] <= 0.02 * layer["ms"],
    }
    return [name for name, reached in goals.items() if not reached]


def check(row: Mapping[str, Any]) -> int:
    """Of CI: 1, and why, unless the row fits, its rings move what they should and nothing large is synchronous."""
    promised = ("fits", "layer is known", "ring_bytes as the closed form", "none synchronous")
    broken = [name for name in row["goals_missed"] if name in promised]
    for name in broken:
        print(f"{row['topology']} {row['mesh']} {row['parallel']}: not reached: {name}", file=sys.stderr)
    return 1 if broken else 0


def write(rows: Sequence[Mapping[str, Any]], folder: Path, runs: Sequence[Planned] = ROWS) -> None:
    """Takes rows into report.json, which has those of `runs` that fit, in their order; the others into search.json."""
    known = {question(row): row for row in [*read_rows(folder / "report.json"), *rows]}
    report = [known[which] for run in runs if (which := question(asked(run))) in known]
    write_rows([row for row in report if row["fits"]], folder / "report.json")
    if refused := [row for row in rows if not row["fits"]]:
        keep(refused, folder / "search.json")


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rows as a table."""
    table = Table("topology", "mesh", "parallel", "remat", "GiB of", "sync", "overlapped", "exposed", "layer", "step")
    for row in rows:
        begin = (row["topology"], row["mesh"], f"{row['parallel']} {row['split']}", row["remat"])
        if not row["fits"]:
            table.add_row(*begin, "does not fit")
            continue
        used = row["bytes_arguments"] + row["bytes_temporaries"]
        memory = f"{used / GIB:.1f} {row['hbm_bytes'] / GIB:.1f}"
        table.add_row(*begin, memory, *_layer(row["layer"]), f"{row['predicted_mfu']:.1%}")
    table.caption = "layer and step: MFU, predicted; nothing was run on a TPU"
    program.table_console().print(table)
    for row in rows:
        if row["goals_missed"]:
            print(f"{row['topology']} {row['mesh']} {row['parallel']}: not reached: {', '.join(row['goals_missed'])}")


def _layer(layer: Mapping[str, Any] | None) -> tuple[str, ...]:
    if layer is None:
        return ("not known", "", "", "")
    return (
        str(layer["synchronous"]),
        f"{layer['overlapped_fraction'] or 0:.1%}",
        f"{layer['exposed_ms']:.1f} of {layer['ms']:.1f} ms",
        f"{layer['predicted_mfu']:.1%}",
    )


if __name__ == "__main__":
    program.run(main, Settings, __doc__, failures=(BrokenProcessPool,))
