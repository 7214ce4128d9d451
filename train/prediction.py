"""What the TPU compiler says of a planned step, and the times predicted from it: one row of a report.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
Memory, collectives and their schedule are facts about the compiled program; a time or an MFU derived from them is a
prediction, and the row says how it was made.
"""

import dataclasses
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from train.abstract_step import Planned
from train.compilation import Program
from train.footprint import ring_bytes
from train.hlo_module import Computation, Module, parse
from train.timeline import EMPTY, Timeline, timeline
from vit22b import flops
from vit22b.chips import Chip
from vit22b.sharding import DATA, MODEL
from vit22b.topology import parse_topology
from vit22b.whole_file import write_whole

# "HLO temporaries (512.00G) exceeds available HBM (95.74G)", "Used 120.00G of 95.74G hbm"
_NEEDED = re.compile(r"\((\d[\d.]*)([KMGT])\) exceeds available HBM|Used (\d[\d.]*)([KMGT]) of \S+ hbm")
_ASKED = (
    *("size", "topology", "mesh", "parallel", "split", "remat", "accumulate", "batch", "images_per_chip"),
    *("classes", "optimizer", "ema", "dtype"),
)
_FOUND = (
    *("fits", "bytes_arguments", "bytes_temporaries", "hbm_bytes", "bytes_missing", "flops_per_step"),
    *("model_flops_per_step", "layer", "step", "predicted_mfu", "prediction", "compile_seconds"),
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def predict(run: Planned, program: Program) -> dict[str, Any]:
    """The row of a run and of what the compiler made of its step; docs/reports.md has the fields."""
    chip, _ = parse_topology(run.topology)
    if program.refusal:
        row = impossible(run, _reason(program.refusal)) | {"bytes_missing": _bytes_missing(program.refusal, chip)}
    else:
        assert program.arguments is not None
        assert program.temporaries is not None
        missing = max(0, program.arguments + program.temporaries - chip.hbm_bytes)
        row = _row(run) | {
            "fits": not missing,
            "bytes_arguments": program.arguments,
            "bytes_temporaries": program.temporaries,
            "bytes_missing": missing,
            **_times(run, chip, program),
        }
    return row | {"flops_per_step": program.flops, "compile_seconds": program.seconds}


def impossible(run: Planned, reason: str) -> dict[str, Any]:
    """The row of a run of which there is no program, and why."""
    return _row(run) | {"fits": False, "prediction": f"none: {reason}"}


def _row(run: Planned) -> dict[str, Any]:
    """A row with what is known without a compiler, and all other fields None."""
    chip, _ = parse_topology(run.topology)
    known = {"hbm_bytes": chip.hbm_bytes, "model_flops_per_step": _model_flops(run)}
    return asked(run) | dict.fromkeys(_FOUND) | known


def asked(run: Planned) -> dict[str, Any]:
    """What was asked, as a row begins."""
    values = {**dataclasses.asdict(run), **dataclasses.asdict(run.compute)}
    values |= {
        "split": run.compute.residual_split,
        "images_per_chip": run.images_per_chip,
        "optimizer": run.optimizer.name,
        "ema": run.optimizer.ema,
    }
    return {name: values[name] for name in _ASKED}


def question(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What was asked for a row; two rows of one question are the same plan."""
    return tuple(row.get(name) for name in _ASKED)


def keep(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Adds rows to a file of rows, in place of those that were asked the same."""
    asked_again = [question(row) for row in rows]
    others = [row for row in read_rows(path) if question(row) not in asked_again]
    write_rows([*others, *rows], path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; none where there is no file."""
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return rows


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes a file of rows, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(list(rows), indent=1) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def _model_flops(run: Planned) -> int:
    return run.batch * flops.train(run.config.image, run.config.image.sequence)


def _reason(message: str) -> str:
    """The compiler's message where it found too little memory, in short."""
    operation = re.search(r'op_name="([^"]*)"', message)
    return message.splitlines()[0] + (f" (largest: {operation[1]})" if operation else "")


def _bytes_missing(message: str, chip: Chip) -> int | None:
    """By how much a chip's memory is too small, where the compiler's message has sizes."""
    found = _NEEDED.search(message)
    return int(float(found[1] or found[3]) * _UNITS[found[2] or found[4]]) - chip.hbm_bytes if found else None


def _times(run: Planned, chip: Chip, program: Program) -> dict[str, Any]:
    module, lines = parse(program.text), program.lines
    mesh = dict(zip((DATA, MODEL), run.shape, strict=True))
    whole = timeline(module, module.main, chip, mesh, lines)
    bodies = layer_bodies(module, run.config.image.depth)
    passes = [timeline(module, body, chip, mesh, lines) for body in bodies]
    return {
        "layer": _layer(run, chip, passes) if passes else None,
        "step": _milliseconds(whole),
        "predicted_mfu": _mfu(_model_flops(run) / run.chips, whole, chip),
        "prediction": assumptions(chip, lines, whole.unestimated),
    }


def layer_bodies(module: Module, depth: int) -> list[Computation]:
    """The body of the scan over the layers, forward and backward; empty where the program has no such two loops.

    The scan over the parts of a batch is around both, and may have as many trips: the innermost count.
    """

    def as_deep(within: Computation) -> list[Computation]:
        return [body for body, trips in _loops(module, within) if trips == depth]

    innermost = [body for body in as_deep(module.main) if not as_deep(body)]
    return innermost if len(innermost) == 2 else []


def _loops(module: Module, computation: Computation) -> Iterator[tuple[Computation, int | None]]:
    for instruction in computation.instructions:
        for body, trips in module.bodies(instruction):
            if module.has_matmul(instruction):
                yield body, trips
            yield from _loops(module, body)


def _layer(run: Planned, chip: Chip, passes: Sequence[Timeline]) -> dict[str, Any]:
    """One layer, forward and backward, of one part of a batch."""
    both = sum(passes, EMPTY)
    model_flops = _model_flops(run) / run.compute.accumulate / run.config.image.depth / run.chips
    ring = run.compute.parallel == "ring"
    return {
        "collectives": [
            {"pass": name, **dataclasses.asdict(transfer)}
            for name, one in zip(("forward", "backward"), passes, strict=True)
            for transfer in one.transfers
        ],
        "synchronous": both.synchronous,
        "overlapped_fraction": both.overlapped_fraction,
        "ring_bytes": both.moved("collective-permute", MODEL),
        "ring_bytes_closed_form": ring_bytes(run) if ring else None,
        **_milliseconds(both),
        "predicted_mfu": _mfu(model_flops, both, chip),
    }


def _milliseconds(spent: Timeline) -> dict[str, float]:
    return {
        "ms": spent.ms,
        "matmul_ms": spent.matmul_ms,
        "other_ms": spent.other_ms,
        "exposed_ms": spent.exposed_ms,
    }


def _mfu(model_flops: float, spent: Timeline, chip: Chip) -> float:
    """Of one chip's share of the model's FLOPs, which count attention and no recomputation."""
    return model_flops / (spent.ms / 1e3 * chip.peak_flops)


def assumptions(chip: Chip, lines: Collection[str], unestimated: int) -> str:
    """How a timeline was made, in words."""
    assert chip.clock_hz is not None
    assert chip.link_bytes_per_second is not None
    shape = ", ".join(f"{axis} is a {'line' if axis in lines else 'ring'}" for axis in (DATA, MODEL))
    return (
        f"A prediction, run on no TPU: the compiler's estimated cycles at {chip.clock_hz / 1e9:g} GHz in the order of "
        f"its schedule, and links of {chip.link_bytes_per_second / 1e9:g} GB/s in each direction. On the torus "
        f"{shape}. Assumed: a gather or a scatter uses one axis both ways, groups of distant chips share the links "
        "between, a transfer waits for those before it on its links, there is no latency. "
        f"{unestimated} results over 1 MB without an estimate and loops of unknown length count as 0 ms and one trip. "
        "Model FLOPs are those of vit22b/flops.py."
    )
