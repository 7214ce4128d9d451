"""The collectives of a compiled program: which, over which chips, and how many bytes they move.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client: the
text of a compiled step (`compiled.as_text()`) in, and what train/timeline.py and the tests of the parallel layers ask
of it out.

Every form of a collective is read: the plain instruction; the pair -start and -done; the pair call-start and call-done
of a SparseCore; and the TPU's chain of fusions, which starts and ends in fusions of their own while the steps between
sit inside the matmuls.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Literal

import numpy as np

from train.hlo_module import Computation, Instruction, Module, parse

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all")
_MESH_GROUPS = re.compile(
    r"replica_groups=mesh\[([^]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}"
)
Role = Literal["synchronous", "start", "step", "done"]


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective, or one part of an asynchronous one, where it was found.

    Attributes:
        kind: one of KINDS; a reduce-scatter that is written as an all-reduce with a slice is one.
        role: what part of it the instruction is.
        bytes: what a chip sends when the chips of the group form a ring. Of a permute the operand, of an all-gather
            g - 1 operands, of a reduce-scatter or an all-to-all (g - 1) / g of one, of an all-reduce twice that.
        group: numbers of the devices of the first group; for a permute, of the first pair.
        instruction: the collective itself, maybe inside a fusion.
    """

    kind: str
    role: Role
    bytes: int
    group: tuple[int, ...]
    instruction: Instruction


def collectives(module: Module, computation: Computation, instruction: Instruction) -> list[Collective]:
    """The collectives that an instruction is or holds; those of loops, calls and branches are their bodies'."""
    kind, _, part = instruction.opcode.rpartition("-")
    if instruction.opcode in KINDS:
        return [_collective(computation, instruction, "synchronous")]
    if kind in KINDS:
        return [_collective(computation, instruction, "start")] if part == "start" else []
    if instruction.opcode in ("async-start", "call-start"):
        return [dataclasses.replace(found, role="start") for found in _inside(module, instruction)]
    return _inside(module, instruction) if instruction.opcode == "fusion" else []


def moved_bytes(text: str, kind: str) -> int:
    """Bytes that a chip sends by the collectives of one kind in a whole run of a program.

    Args:
        text: of the compiled program.
        kind: one of KINDS. Loops count as often as they run, an asynchronous collective counts once.

    Raises:
        ValueError: an unknown kind, a text that is no compiled program, or one that moves such bytes in a loop whose
            trips cannot be read.
    """
    if kind not in KINDS:
        raise ValueError(f"no collective {kind!r}; expected one of {', '.join(KINDS)}")
    module = parse(text)
    moved = 0
    for one, times in _executed(module, module.main, 1):
        if one.kind == kind:
            if times is None:
                raise ValueError(f"the {kind} {one.instruction.name} is in a loop whose trips cannot be read")
            moved += times * one.bytes
    return moved


def _executed(module: Module, computation: Computation, times: int | None) -> Iterator[tuple[Collective, int | None]]:
    """The collectives of a computation that runs so often; None where that is not known."""
    for instruction in computation.instructions:
        for found in collectives(module, computation, instruction):
            if found.role in ("synchronous", "start"):
                yield found, times
        for body, trips in module.bodies(instruction):
            yield from _executed(module, body, None if times is None or trips is None else times * trips)


def _inside(module: Module, instruction: Instruction) -> list[Collective]:
    found = []
    for name in instruction.called:
        computation = module.computations[name]
        for inner in computation.instructions:
            if inner.opcode in KINDS:
                part = _collective(computation, inner, _role(computation, inner))
                found.append(_as_scatter(part) if name.startswith("all-reduce-scatter") else part)
            elif inner.opcode == "fusion":
                found.extend(_inside(module, inner))
    return found


def _role(computation: Computation, collective: Instruction) -> Role:
    """The part that a collective inside a fusion is: the compiler marks the ends of a chain by custom calls."""
    users = [i for i in computation.instructions if i.opcode == "custom-call" and collective.name in i.operands]
    if any("AsyncCollectiveStart" in i.attributes for i in users):
        return "start"
    if any("AsyncCollectiveDone" in i.attributes for i in users):
        return "done"
    return "step" if "async_collective_fusion_config" in collective.attributes else "synchronous"


def _collective(computation: Computation, instruction: Instruction, role: Role) -> Collective:
    kind = instruction.opcode.removesuffix("-start")
    group = _group(instruction.attributes)
    g, operand = len(group), computation.operand_bytes(instruction)
    if kind == "collective-permute":
        sent = operand
    elif kind == "all-gather":
        sent = (g - 1) * operand
    else:
        sent = (2 if kind == "all-reduce" else 1) * (g - 1) * operand // g
    return Collective(kind, role, sent, group, instruction)


def _as_scatter(reduce: Collective) -> Collective:
    return dataclasses.replace(reduce, kind="reduce-scatter", bytes=reduce.bytes // 2)


def _group(attributes: str) -> tuple[int, ...]:
    """The first group of devices of a collective, in any of the ways that HLO writes them.

    Of a permute, the first pair that leads from one device to another, or the first.
    """
    if found := re.search(r"source_target_pairs=\{(.*?)\}\}", attributes):
        pairs = [_numbers(pair) for pair in re.findall(r"\{([\d,]+)", found[1])]
        return next((pair for pair in pairs if pair[0] != pair[1]), pairs[0])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return _numbers(found[1])
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        groups = _iota(_numbers(found[1]), found[2], found[3])
        return tuple(groups.reshape(-1, groups.shape[-1])[0].tolist())
    if found := _MESH_GROUPS.search(attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
        whole = _iota(tuple(sizes.values()), found[2] or str(math.prod(sizes.values())), found[3])
        axes = re.findall(r"'(\w+)'", found[4])
        return tuple(whole[tuple(slice(None) if name in axes else 0 for name in sizes)].ravel().tolist())
    raise ValueError(f"no group of devices is known in {attributes[:200]!r}; train/hlo.py has to learn this form")


def _iota(shape: tuple[int, ...], dimensions: str, order: str | None) -> np.ndarray:
    """The devices' numbers in a shape, counted over dimensions and transposed first: HLO's [2,4]<=[4,2]T(1,0)."""
    counted = np.arange(math.prod(shape)).reshape(_numbers(dimensions))
    return (counted.transpose(_numbers(order)) if order else counted).reshape(shape)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))
