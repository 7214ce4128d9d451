"""What the TPU compiler says of a planned step, and the times predicted from it: one row of a report.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
Memory, collectives and their schedule are facts about the compiled program; a time or an MFU derived from them is a
prediction, and the row says how it was made.
"""

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from train.abstract_step import Planned
from train.compilation import Program
from train.footprint import ring_bytes
from train.hlo_module import Computation, Module, parse
from train.timeline import EMPTY, Timeline, timeline
from train.topology import devices, open_axes, parse_topology
from vit22b import flops
from vit22b.chips import Chip
from vit22b.sharding import DATA, MODEL, make_mesh

# "HLO temporaries (512.00G) exceeds available HBM (95.74G)", "Used 120.00G of 95.74G hbm"
_NEEDED = re.compile(r"\((\d[\d.]*)([KMGT])\) exceeds available HBM|Used (\d[\d.]*)([KMGT]) of \S+ hbm")
_ASKED = (
    *("size", "topology", "mesh", "parallel", "split", "remat", "accumulate", "batch", "images_per_chip"),
    *("classes", "optimizer", "ema", "dtype"),
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def predict(run: Planned, program: Program) -> dict[str, Any]:
    """The row of a run and of what the compiler made of its step; docs/reports.md has the fields."""
    chip, _ = parse_topology(run.topology)
    row = asked(run) | {"flops_per_step": program.flops, "model_flops_per_step": _model_flops(run)}
    if program.refusal:
        return row | _refused(program.refusal, chip)
    memory = {
        "fits": True,
        "bytes_arguments": program.arguments,
        "bytes_temporaries": program.temporaries,
        "hbm_bytes": chip.hbm_bytes,
        "bytes_missing": 0,
    }
    return row | memory | _times(run, chip, parse(program.text)) | {"compile_seconds": program.seconds}


def asked(run: Planned) -> dict[str, Any]:
    """What was asked, as a row begins."""
    values = {**dataclasses.asdict(run), **dataclasses.asdict(run.compute)}
    values |= {"images_per_chip": run.images_per_chip, "optimizer": run.optimizer.name, "ema": run.optimizer.ema}
    return {name: values[name] for name in _ASKED}


def question(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What was asked for a row; two rows of one question are the same plan."""
    return tuple(row[name] for name in _ASKED)


def _model_flops(run: Planned) -> int:
    return run.batch * flops.train(run.config.image, run.config.image.tokens)


def _refused(message: str, chip: Chip) -> dict[str, Any]:
    """The row's end where the compiler found too little memory; what is missing as far as its message has sizes."""
    found, operation = _NEEDED.search(message), re.search(r'op_name="([^"]*)"', message)
    needed = int(float(found[1] or found[3]) * _UNITS[found[2] or found[4]]) if found else None
    return {
        "fits": False,
        "bytes_arguments": None,
        "bytes_temporaries": None,
        "hbm_bytes": chip.hbm_bytes,
        "bytes_missing": None if needed is None else needed - chip.hbm_bytes,
        "layer": None,
        "predicted_mfu": None,
        "prediction": f"none: {message.splitlines()[0]}" + (f" (largest: {operation[1]})" if operation else ""),
    }


def _times(run: Planned, chip: Chip, module: Module) -> dict[str, Any]:
    mesh = dict(zip((DATA, MODEL), run.shape, strict=True))
    lines = open_axes(run.topology, make_mesh(*run.shape, devices(run.topology)))
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
    """The body of the scan over the layers, forward and backward; empty where the program has no such two loops."""
    loops = [(body, trips) for body, trips in _loops(module, module.main) if trips == depth]
    return [body for body, _ in loops] if len(loops) == 2 else []


def _loops(module: Module, computation: Computation) -> Iterator[tuple[Computation, int]]:
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
        f"{unestimated} results over 1 MB have no estimate and count as 0 ms. Model FLOPs are those of vit22b/flops.py."
    )
