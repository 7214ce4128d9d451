"""The TPU compiler's word on a version, without a TPU: whether its towers fit one chip, at every allowed batch size.

    .venv/bin/python export/tpu_memory.py build/models/digits/1 --chips v4 v5e v6e

takes the programs out of saved_model.pb, compiles them with libtpu (`pip install 'jax[tpu]'`), prints what they need
and exits with 3 where something does not fit. A compiled program is a fact about memory. It ran nowhere.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import jax
import tensorflow as tf
import tyro
from rich.table import Table

from export import artefact, xla_modules
from export.xla_modules import XlaModule
from vit22b import program, topology
from vit22b.chips import GIB, Chip, tpu

DOES_NOT_FIT = 3  # an exit code that a failure of the program has not


@dataclasses.dataclass(frozen=True)
class Settings:
    """Ask the TPU compiler what a SavedModel version needs."""

    version: Annotated[Path, tyro.conf.Positional]
    """The version's folder."""
    chips: tuple[str, ...] = ("v4", "v5e", "v6e")
    """Chips to compile for, one by itself each."""
    report: Path | None = None
    """JSON file for what came out; rows of other models in it stay."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What one tower needs on one chip at one batch size.

    Attributes:
        model: the version's folder and the one above, as "digits/1".
        tower: function alias.
        chip: name in vit22b/chips.py.
        batch: images or texts.
        weights: bytes of all weights of the version, which the towers share; as stored, unpadded.
        arguments: bytes of the tower's own weights and inputs in the chip's layout; None where it does not fit.
        temporaries: bytes beside them; None where it does not fit.
        limit: bytes of the chip that a program can use.
        fits: the compiler took it, and all weights of the version with these temporaries are within the limit.
        refusal: the compiler's first line where it did not take it, else empty.
        seconds: that the compiler took.
    """

    model: str
    tower: str
    chip: str
    batch: int
    weights: int
    arguments: int | None
    temporaries: int | None
    limit: int
    fits: bool
    refusal: str
    seconds: float


def report(settings: Settings) -> int:
    """Compiles, prints and writes; the exit code.

    Raises:
        ValueError: no version, no such chip, no libtpu, or towers that are not lowered for TPUs.
    """
    if not topology.has_compiler():
        raise ValueError("the TPU compiler is not installed; pip install 'jax[tpu]'")
    chips = [tpu(name) for name in settings.chips]
    rows = []
    for row in measure(settings.version.absolute(), chips):
        rows.append(row)
        print(f"{row.chip} {row.tower}, batch {row.batch}: {'fits' if row.fits else 'DOES NOT FIT'}", flush=True)
    _print(rows)
    for chip in chips:
        print(advice([row for row in rows if row.chip == chip.name]))
    if settings.report:
        write(settings.report, rows)
    return 0 if all(row.fits for row in rows) else DOES_NOT_FIT


def measure(version: Path, chips: Sequence[Chip]) -> Iterator[Row]:
    """What every tower of a version needs on every chip at every allowed batch size."""
    modules = xla_modules.read(version)
    manifest = artefact.read_manifest(version)
    weights = weight_bytes(version)
    for chip in chips:
        for module in modules.values():
            for batch in manifest.batch_sizes:
                yield _row(f"{version.parent.name}/{version.name}", module, chip, batch, weights)


def weight_bytes(version: Path) -> int:
    """Bytes of a version's weights as they are stored."""
    variables = tf.train.load_checkpoint(str(version / "variables" / "variables"))
    dtypes = variables.get_variable_to_dtype_map()
    return sum(
        tf.TensorShape(shape).num_elements() * dtypes[name].size
        for name, shape in variables.get_variable_to_shape_map().items()
        if dtypes[name] != tf.string
    )


def advice(rows: Sequence[Row]) -> str:
    """What fits a chip, and what to do where not all does: the rows of one chip, in a line."""
    chip, limit = rows[0].chip, f"{rows[0].limit / GIB:.2f} GiB"
    sizes = sorted({row.batch for row in rows})
    good = [size for size in sizes if all(row.fits for row in rows if row.batch == size)]
    if good == sizes:
        return f"one {chip} ({limit}): every tower fits at every allowed batch size ({', '.join(map(str, sizes))})"
    if good:
        return f"one {chip} ({limit}): only batch sizes {', '.join(map(str, good))} fit; export with --batch_sizes " + (
            " ".join(map(str, good))
        )
    return (
        f"one {chip} ({limit}): no allowed batch size fits beside {rows[0].weights / GIB:.2f} GiB of weights; export "
        "with smaller --batch_sizes or with --weights bfloat16 or int8, or take a larger chip"
    )


def _row(model: str, module: XlaModule, chip: Chip, batch: int, weights: int) -> Row:
    begin = time.perf_counter()
    compiled = topology.compile_lowered(module.lower(batch, topology.one_chip(chip)))
    within = compiled.temporaries is not None and weights + compiled.temporaries <= chip.hbm_bytes
    return Row(
        model=model,
        tower=module.tower,
        chip=chip.name,
        batch=batch,
        weights=weights,
        arguments=compiled.arguments,
        temporaries=compiled.temporaries,
        limit=chip.hbm_bytes,
        fits=within,
        refusal=compiled.refusal.partition("\n")[0],
        seconds=round(time.perf_counter() - begin, 1),
    )


def _print(rows: Sequence[Row]) -> None:
    table = Table("chip", "tower", "batch", "arguments, MiB", "temporaries, MiB", "limit, MiB", "fits")
    for row in rows:
        sizes = (row.arguments, row.temporaries, row.limit)
        shown = ("-" if size is None else f"{size / 2**20:,.1f}" for size in sizes)
        table.add_row(row.chip, row.tower, str(row.batch), *shown, "yes" if row.fits else "NO")
    program.table_console().print(table)


def write(path: Path, rows: Sequence[Row]) -> None:
    """Writes the rows; those of other models and chips that the file has already stay."""
    mine = {(row.model, row.chip) for row in rows}
    kept = json.loads(path.read_text())["rows"] if path.is_file() else []
    others = [row for row in kept if (row["model"], row["chip"]) not in mine]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": others + [dataclasses.asdict(row) for row in rows]}, indent=2))


if __name__ == "__main__":
    # libtpu is asked as a compiler; JAX itself must not look for a TPU.
    jax.config.update("jax_platforms", "cpu")
    program.run(report, Settings, __doc__)
