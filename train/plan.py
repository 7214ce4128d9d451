"""Does my run fit? The real step, compiled by the TPU compiler for chips that need not be there.

    .venv/bin/python train/plan.py --size 22b --topology v5p:4x4x4 --mesh 16x4 --batch 2048 --remat full --parallel ring

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Shows
a chip's memory, the collectives of one layer and what is scheduled beside them, and predicts the step's time and MFU.
With --search, all meshes of the topology, ranked. Needs libtpu (`pip install 'jax[tpu]'`); without it, closed forms.
Exits with 1 where the run does not fit.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from train.abstract_step import Planned, abstract_arguments
from train.compilation import compile_apart, compile_step, only_cpu
from train.footprint import footprint, remedies, ring_bytes, weight_bytes
from train.prediction import impossible, keep, predict
from train.timeline import LARGE
from vit22b import program, topology

GIB, MB = 2**30, 1e6
CLOSED_FORMS = (
    "These are closed forms: libtpu is not installed, so nothing was compiled. For the compiler's answer: "
    "pip install 'jax[tpu]'"
)


@dataclasses.dataclass(frozen=True)
class Settings(Planned):
    """Plan a run: memory, collectives, predicted time."""

    search: bool = False
    """Try all meshes that tile the topology, whatever --mesh is, and rank them."""
    folder: Path = Path("build/tpu")
    """For search.json, and for what the compiler answered before (programs/)."""

    def __post_init__(self) -> None:
        if not self.search:  # else each mesh is looked at by itself
            super().__post_init__()

    def run(self, mesh: str | None = None) -> Planned:
        """The run to plan, on another mesh if one is given."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(Planned)}
        return Planned(**fields | {"compute": dataclasses.replace(self.compute, mesh=mesh or self.compute.mesh)})


def main(settings: Settings) -> int:
    """Plans a run; the exit code."""
    only_cpu()
    console = program.table_console()
    if settings.compute.print_sharding:
        run = settings.run()
        run.compute.shows_sharding(abstract_arguments(run)[0].params, topology.abstract_mesh(*run.shape))
        return 0
    runs = on_every_mesh(settings, console) if settings.search else [settings.run()]
    if not topology.has_compiler():
        return show_closed_forms(runs, console)
    if settings.search:
        return show_ranking(search(runs, settings.folder, console), console)
    (run,) = runs
    print("asking the TPU compiler, which takes minutes at large sizes ...", file=sys.stderr, flush=True)
    row = predict(run, compile_step(run, settings.folder / "programs"))
    show(row, console)
    if not row["fits"]:
        print(missing(run, row), file=sys.stderr)
    return 0 if row["fits"] else 1


def on_every_mesh(settings: Settings, console: Console) -> list[Planned]:
    """The run on each mesh that its topology has; prints why where it cannot be, of the batch for instance.

    Raises:
        ValueError: it can be on none.
    """
    runs = []
    for data, model in topology.meshes(settings.topology):
        try:
            runs.append(settings.run(f"{data}x{model}"))
        except ValueError as error:
            console.print(f"{data}x{model}: {error}", markup=False, highlight=False)
    if not runs:
        raise ValueError(f"the run can be on no mesh of {settings.topology}")
    return runs


def search(runs: Sequence[Planned], folder: Path, console: Console) -> list[dict[str, Any]]:
    """The rows of runs, the best first; each mesh is told and kept in search.json as soon as it is known."""
    rows: list[dict[str, Any]] = []
    for run in runs:
        rows = ranked([*rows, row := attempt(run, folder / "programs")])
        keep(rows, folder / "search.json")
        found = f"predicted MFU {row['predicted_mfu']:.1%}" if row["fits"] else row["prediction"]
        console.print(f"{row['mesh']}: {found}", markup=False, highlight=False)
    return rows


def attempt(run: Planned, cache: Path) -> dict[str, Any]:
    """The row of one mesh of several; one that cannot be, or that the compiler fails on, has why as `prediction`."""
    try:
        return predict(run, compile_apart(run, cache))
    except (ValueError, BrokenProcessPool, jax.errors.JaxRuntimeError) as error:
        return impossible(run, str(error).partition("\n")[0])


def ranked(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows by predicted MFU, the best first; what does not fit comes last."""
    return [dict(row) for row in sorted(rows, key=lambda row: -(row["predicted_mfu"] or 0.0))]


def show(row: Mapping[str, Any], console: Console) -> None:
    """Prints a row: memory, and where the program fits, the layer's collectives and the prediction."""
    console.print(_title(row), style="bold", highlight=False)
    if row["fits"]:
        memory = Table("memory of a chip", "GiB")
        memory.columns[1].justify = "right"
        used = row["bytes_arguments"] + row["bytes_temporaries"]
        for name, size in (
            ("arguments: state and batch", row["bytes_arguments"]),
            ("temporaries", row["bytes_temporaries"]),
            ("limit", row["hbm_bytes"]),
            ("free", row["hbm_bytes"] - used),
        ):
            memory.add_row(name, f"{size / GIB:.2f}")
        console.print(memory)
    if row["layer"]:
        if any(one["bytes"] > LARGE for one in row["layer"]["collectives"]):
            console.print(_collectives(row["layer"]["collectives"]))
        console.print(_layer(row["layer"]), highlight=False)
    elif row["fits"]:
        console.print("the program has no two loops over the layers, so that nothing can be said of one layer")
    executed, needed = row["flops_per_step"], row["model_flops_per_step"]
    console.print(
        f"FLOPs of a step: {executed:.4g} in matmuls, {executed / needed:.3f} of the model's", highlight=False
    )
    if row["predicted_mfu"]:
        console.print(
            f"predicted: {row['step']['ms'] / 1e3:.2f} s a step, MFU {row['predicted_mfu']:.1%}", highlight=False
        )
        console.print(row["prediction"], style="dim", highlight=False)


def _title(row: Mapping[str, Any]) -> str:
    return (
        f"{row['size']} on {row['topology']}, mesh {row['mesh']}, {row['parallel']} by {row['split']}, remat "
        f"{row['remat']}, batch {row['batch']:,} in {row['accumulate']} ({row['images_per_chip']:g} images a chip)"
    )


def _collectives(transfers: Sequence[Mapping[str, Any]]) -> Table:
    """Those over 1 MB, alike ones in one line."""
    table = Table("pass", "collective", "axis", "MB", "times", "start/done", "matmul between, ms", "exposed, ms")
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for one in transfers:
        if one["bytes"] > LARGE:
            alike = tuple(one[name] for name in ("pass", "kind", "axis", "bytes", "asynchronous", "overlapped"))
            groups.setdefault(alike, []).append(one)
    for (name, kind, axis, size, asynchronous, _), alike in groups.items():
        times = sum(one["times"] for one in alike)
        between = sum(one["times"] * one["matmul_ms"] for one in alike)
        exposed = sum(one["times"] * one["exposed_ms"] for one in alike)
        table.add_row(
            *(name, kind, axis, f"{size / MB:.2f}", str(times), "yes" if asynchronous else "no"),
            *(f"{between / times:.2f}" if asynchronous else "", f"{exposed / times:.2f}"),
        )
    table.caption = "times are of each; collectives of 1 MB or less are not shown"
    return table


def _layer(layer: Mapping[str, Any]) -> str:
    closed = layer["ring_bytes_closed_form"]
    fraction = layer["overlapped_fraction"]
    return (
        f"one layer, forward and backward: {layer['synchronous']} collectives over 1 MB synchronous, "
        f"{'no pairs' if fraction is None else f'{fraction:.1%} of the pairs'} with a matmul between, "
        f"{layer['ring_bytes'] / MB:.1f} MB round the ring"
        f"{'' if closed is None else f' (closed form {closed / MB:.1f})'}\n"
        f"predicted: {layer['ms']:.2f} ms = {layer['matmul_ms']:.2f} matmul + {layer['other_ms']:.2f} other + "
        f"{layer['exposed_ms']:.2f} exposed; MFU of the layer {layer['predicted_mfu']:.1%}"
    )


def missing(run: Planned, row: Mapping[str, Any]) -> str:
    """By how much a run does not fit, and what to change."""
    if "memory space vmem" in row["prediction"]:
        return (
            "the compiler lacks on-chip memory (vmem) for one operation; HBM was not the limit. Take another mesh or "
            f"--accumulate, or other compiler options in vit22b/chips.py.\n{row['prediction']}"
        )
    lacks = row["bytes_missing"]
    amount = f"{lacks / GIB:.1f} GiB a chip are missing" if lacks else "the compiler does not say by how much"
    changes = remedies(run, row["hbm_bytes"])
    remedy = " or ".join(changes) if changes else "more chips, or a larger model axis"
    return f"does not fit: {amount}. Take {remedy} (by the closed forms).\n{row['prediction']}"


def show_ranking(rows: Sequence[Mapping[str, Any]], console: Console) -> int:
    """Prints the rows of a search, best first; 1 where none fits."""
    table = Table("mesh", "fits", "GiB", "synchronous", "overlapped", "exposed, ms", "predicted MFU", "why not")
    for row in rows:
        layer = row.get("layer") or {}
        fraction = layer.get("overlapped_fraction")
        table.add_row(
            row["mesh"],
            "yes" if row["fits"] else "no",
            f"{(row['bytes_arguments'] + row['bytes_temporaries']) / GIB:.1f}" if row["fits"] else "",
            str(layer.get("synchronous", "")),
            "" if fraction is None else f"{fraction:.0%}",
            f"{layer['exposed_ms']:.2f}" if layer else "",
            f"{row['predicted_mfu']:.1%}" if row["predicted_mfu"] else "",
            "" if row["fits"] else escape(row["prediction"]),
        )
    console.print(table)
    return 0 if any(row["fits"] for row in rows) else 1


def show_closed_forms(runs: Sequence[Planned], console: Console) -> int:
    """Prints what can be said without the compiler, and that it is no more; 1 where nothing fits by it."""
    chip, _ = topology.parse_topology(runs[0].topology)
    names = ("arguments", "gradients", "saved", "working", "total")
    table = Table("mesh", *names, "ring, MB a layer", "weights, MB a layer")
    fitting = False
    for run in runs:
        try:
            needed = footprint(run)
        except ValueError as error:
            if len(runs) == 1:
                raise
            console.print(f"{run.compute.mesh}: {error}", markup=False, highlight=False)
            continue
        fitting |= needed.total <= chip.hbm_bytes
        sizes = (f"{getattr(needed, name) / GIB:.2f}" for name in names)
        table.add_row(run.compute.mesh, *sizes, f"{ring_bytes(run) / MB:.1f}", f"{weight_bytes(run) / MB:.1f}")
    table.caption = f"GiB of the {chip.hbm_bytes / GIB:.2f} of a chip; bytes that a chip sends, forward and backward"
    console.print(table)
    console.print(CLOSED_FORMS, markup=False, highlight=False)
    if not fitting and len(runs) == 1:
        row = {"hbm_bytes": chip.hbm_bytes, "bytes_missing": needed.total - chip.hbm_bytes, "prediction": ""}
        print(missing(runs[0], row).strip(), file=sys.stderr)
    return 0 if fitting else 1


if __name__ == "__main__":
    program.run(main, Settings, __doc__, failures=(BrokenProcessPool,))
