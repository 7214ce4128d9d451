"""How long a compiled program is predicted to take: the compiler's estimated cycles, and wires that are assumed.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client:
train/plan.py's view of a step that no TPU has run.

The instructions are walked in the order of their schedule. Each takes the cycles that the compiler estimates for it; a
collective takes a wire, starts when its wire is free, and is waited for where its result is. What is waited for is the
exposed time. It is a prediction: nothing here was compared with a TPU's clock, and a few percent between two programs
are inside its error.
"""

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np

from train.hlo import Collective, collectives
from train.hlo_module import Computation, Instruction, Module
from vit22b.chips import Chip

LARGE = 1_000_000  # bytes; a smaller collective is not counted as synchronous
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "-start", "-update", "-done", "custom-call")
_KERNEL = 'custom_call_target="tpu_custom_call"'  # of Pallas: work whose cycles the compiler does not know


@dataclasses.dataclass(frozen=True)
class Transfer:
    """A collective in the schedule.

    Attributes:
        kind: see train.hlo.KINDS.
        axis: the mesh axis along which its chips lie; several are joined by "+".
        bytes: that a chip sends, each time.
        times: how often it runs in one run of the computation that was asked for.
        asynchronous: whether it has a start and a done of its own.
        overlapped: whether a matmul is scheduled between the two.
        matmul_ms: of the matmuls between them, each time.
        exposed_ms: that the chip waits, each time.
    """

    kind: str
    axis: str
    bytes: int
    times: int
    asynchronous: bool
    overlapped: bool
    matmul_ms: float
    exposed_ms: float


@dataclasses.dataclass(frozen=True)
class Timeline:
    """A prediction for one run of a computation, loops included.

    Attributes:
        matmul_ms: of instructions with a matmul in them.
        other_ms: of all other instructions.
        exposed_ms: spent waiting for wires.
        transfers: the collectives.
        unestimated: results over 1 MB of instructions that the compiler has no estimate for, which count as 0 ms, and
            loops whose trips cannot be read, which count as one.
    """

    matmul_ms: float
    other_ms: float
    exposed_ms: float
    transfers: tuple[Transfer, ...]
    unestimated: int

    @property
    def ms(self) -> float:
        """The whole."""
        return self.matmul_ms + self.other_ms + self.exposed_ms

    @property
    def synchronous(self) -> int:
        """How many collectives over 1 MB have no start and done."""
        return sum(one.times for one in self.transfers if not one.asynchronous and one.bytes > LARGE)

    @property
    def overlapped_fraction(self) -> float | None:
        """The share of pairs of start and done with a matmul between; None where there are none."""
        pairs = [one for one in self.transfers if one.asynchronous]
        covered = sum(one.times for one in pairs if one.overlapped)
        return covered / sum(one.times for one in pairs) if pairs else None

    def moved(self, kind: str, axis: str) -> int:
        """Bytes that a chip sends by the collectives of a kind along a mesh axis."""
        return sum(one.bytes * one.times for one in self.transfers if (one.kind, one.axis) == (kind, axis))

    def __add__(self, other: "Timeline") -> "Timeline":
        """One behind the other."""
        return Timeline(
            self.matmul_ms + other.matmul_ms,
            self.other_ms + other.other_ms,
            self.exposed_ms + other.exposed_ms,
            self.transfers + other.transfers,
            self.unestimated + other.unestimated,
        )

    def repeated(self, times: int) -> "Timeline":
        """The same, times over."""
        return Timeline(
            self.matmul_ms * times,
            self.other_ms * times,
            self.exposed_ms * times,
            tuple(dataclasses.replace(one, times=one.times * times) for one in self.transfers),
            self.unestimated * times,
        )


EMPTY = Timeline(0.0, 0.0, 0.0, (), 0)


def timeline(
    module: Module, computation: Computation, chip: Chip, mesh: Mapping[str, int], lines: Collection[str] = ()
) -> Timeline:
    """Walks a computation.

    Args:
        module: that it belongs to.
        computation: the whole program (`module.main`), or the body of a loop for one trip.
        chip: whose clock and links count.
        mesh: size by axis, in the order in which the program's devices are numbered.
        lines: the axes that are not closed to rings.

    Raises:
        ValueError: the chip table has no clock or no links for this chip.
    """
    if chip.clock_hz is None or chip.link_bytes_per_second is None:
        raise ValueError(f"no timeline for {chip.name}: vit22b/chips.py has no clock or no links for it")
    walk = _Walk(chip.clock_hz, chip.link_bytes_per_second, mesh, lines)
    for instruction in computation.instructions:
        parts = collectives(module, computation, instruction)
        for part in parts:
            walk.collective(instruction, part)
        walk.finish(computation, instruction)
        for body, trips in module.bodies(instruction):
            walk.loop(timeline(module, body, chip, mesh, lines), trips)
        if all(part.role == "step" for part in parts):  # else the work is the wire's
            walk.compute(instruction, module.has_matmul(instruction))
    return walk.end()


class _Walk:
    """Where the walk stands: what was spent, when each wire is free, and what is under way."""

    def __init__(self, clock_hz: float, link: float, mesh: Mapping[str, int], lines: Collection[str]) -> None:
        self._cycle_ms = 1e3 / clock_hz
        self._link = link / 1e3  # bytes a millisecond, in one direction
        self._mesh, self._lines = mesh, frozenset(lines)
        self._free: dict[tuple[str, str], float] = {}
        self._under_way: dict[str, list[_UnderWay]] = {}
        self._matmuls = 0
        self.sum = EMPTY

    def add(self, spent: Timeline) -> None:
        self.sum += spent
        self._matmuls += spent.matmul_ms > 0

    def loop(self, body: Timeline, trips: int | None) -> None:
        self.add(body.repeated(1 if trips is None else trips))
        self.add(dataclasses.replace(EMPTY, unestimated=int(trips is None)))

    def compute(self, instruction: Instruction, matmul: bool) -> None:
        if instruction.cycles is None:
            passive = instruction.opcode.endswith(_FREE) or instruction.called
            work = _KERNEL in instruction.attributes or not passive
            self.add(dataclasses.replace(EMPTY, unestimated=int(work and instruction.bytes > LARGE)))
        elif matmul:
            self.add(dataclasses.replace(EMPTY, matmul_ms=instruction.cycles * self._cycle_ms))
        else:
            self.add(dataclasses.replace(EMPTY, other_ms=instruction.cycles * self._cycle_ms))

    def collective(self, instruction: Instruction, part: Collective) -> None:
        """Sends what starts here, and waits for what ends here."""
        # A chain of fusions is known by its channel, every other pair by the name of its start.
        key = part.instruction.channel or instruction.name if instruction.opcode == "fusion" else instruction.name
        if part.role in ("synchronous", "start"):
            sent = _UnderWay(part, self._send(part), self._matmuls, self.sum.matmul_ms)
            self._under_way.setdefault(key, []).append(sent)
        if part.role in ("synchronous", "done"):
            self._wait(key)

    def finish(self, computation: Computation, instruction: Instruction) -> None:
        """Waits for the pair whose done this instruction is."""
        if instruction.opcode.endswith("-done") and instruction.operands:
            start = instruction.operands[0]
            while start not in self._under_way and (before := computation.by_name.get(start)) and before.operands:
                start = before.operands[0]  # through the updates between
            if start in self._under_way:
                self._wait(start)

    def _send(self, part: Collective) -> float:
        """Occupies the wires; the time at which the last byte is there.

        Neighbours in a group that are h hops apart share their links with h - 1 other groups. Round a line, what would
        go from the last to the first goes back along all of it.
        """
        axes, hops, forward = self._route(part.group)
        spent = part.bytes * hops / self._link
        permute = part.kind == "collective-permute"
        if self._is_ring(axes, hops, part) and not permute:
            spent /= 2  # half of it goes each way
        one_way = permute and not set(axes) & self._lines
        wires = [(axis, direction) for axis in axes for direction in (("+" if forward else "-") if one_way else "+-")]
        end = max([self.sum.ms, *(self._free.get(wire, 0.0) for wire in wires)]) + (spent if wires else 0.0)
        self._free.update(dict.fromkeys(wires, end))
        return end

    def _is_ring(self, axes: list[str], hops: int, part: Collective) -> bool:
        """Whether a group goes all the way round: a part of an axis is a line as well."""
        around = sum(self._mesh[axis] for axis in axes)
        return not set(axes) & self._lines and (len(axes) > 1 or hops * len(part.group) == around)

    def end(self) -> Timeline:
        """Waits for what is still under way; the whole."""
        for key in list(self._under_way):
            self._wait(key)
        return self.sum

    def _wait(self, key: str) -> None:
        for sent in self._under_way.pop(key):
            self._arrive(sent)

    def _arrive(self, sent: "_UnderWay") -> None:
        exposed = max(0.0, sent.end - self.sum.ms)
        transfer = Transfer(
            kind=sent.part.kind,
            axis="+".join(self._route(sent.part.group)[0]),
            bytes=sent.part.bytes,
            times=1,
            asynchronous=sent.part.role == "start",
            overlapped=self._matmuls > sent.matmuls,
            matmul_ms=self.sum.matmul_ms - sent.matmul_ms,
            exposed_ms=exposed,
        )
        self.sum += dataclasses.replace(EMPTY, exposed_ms=exposed, transfers=(transfer,))

    def _route(self, group: tuple[int, ...]) -> tuple[list[str], int, bool]:
        """The mesh axes that a group spans, the hops from its first device to its second, and whether they go up."""
        sizes = tuple(self._mesh.values())
        places = np.array(np.unravel_index(group, sizes))
        spanned = [i for i in range(len(sizes)) if len(set(places[i].tolist())) > 1]
        if not spanned:
            return [], 0, True
        steps = [int(places[i][1] - places[i][0]) % sizes[i] for i in spanned]
        hops = sum(min(step, sizes[i] - step) for i, step in zip(spanned, steps, strict=True))
        return [list(self._mesh)[i] for i in spanned], hops, 2 * steps[0] <= sizes[spanned[0]]


@dataclasses.dataclass(frozen=True)
class _UnderWay:
    """A collective on its wire: when it ends, and what matmuls there had been when it began."""

    part: Collective
    end: float
    matmuls: int
    matmul_ms: float
