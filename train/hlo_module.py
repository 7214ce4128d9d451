"""A compiled program's text, read: computations, and in each the instructions in the order of their schedule.

Beside the train state on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client; under
train/hlo.py, which knows the collectives. XLA has no public reader of its text in Python, so this is one, for what is
asked of it: order, sizes, loops, the compiler's estimates. All sizes are one chip's, since a partitioned program is
what one chip runs.
"""

import dataclasses
import math
import re
from functools import cached_property

_BITS = {"pred": 8, "token": 0, "opaque": 0, "bf16": 16, "c64": 64, "c128": 128}
_HEADER = re.compile(r"(ENTRY )?%?([\w.-]+) .*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (.*)")
_OPCODE = re.compile(r"([\w-]+)\(")
_BRACKETS = re.compile(r"[()]")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.-]+)|branch_computations=\{([^}]*)\}"
)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        name: unique in its module.
        opcode: for instance "fusion".
        type: of its result, as written.
        operands: names.
        attributes: the rest of its line.
    """

    name: str
    opcode: str
    type: str
    operands: tuple[str, ...]
    attributes: str

    @cached_property
    def bytes(self) -> int:
        """Of the result, without the padding of tiles; of a tuple, the sum."""
        return _bytes(self.type)

    @cached_property
    def cycles(self) -> int | None:
        """The compiler's estimate, or None where it made none."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(found[1]) if found else None

    @cached_property
    def op_name(self) -> str:
        """Where in the traced program it comes from; empty where the compiler does not say."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @cached_property
    def channel(self) -> str | None:
        """What the parts of one asynchronous collective have in common."""
        found = re.search(r"channel_id=(\d+)", self.attributes)
        return found[1] if found else None

    @cached_property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it runs; a reduction's function is not one."""
        if self.opcode not in ("fusion", "while", "call", "conditional", "async-start", "call-start"):
            return ()
        names = [one or several for one, several in _CALLED.findall(self.attributes)]
        return tuple(name.strip().lstrip("%") for several in names for name in several.split(","))


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions in the order of their schedule."""

    name: str
    instructions: tuple[Instruction, ...]

    @cached_property
    def by_name(self) -> dict[str, Instruction]:
        return {instruction.name: instruction for instruction in self.instructions}

    def operand_bytes(self, instruction: Instruction) -> int:
        """Bytes of all operands of one of its instructions."""
        return sum(self.by_name[name].bytes for name in instruction.operands)


@dataclasses.dataclass(frozen=True)
class Module:
    """A whole program."""

    entry: str
    computations: dict[str, Computation]

    @cached_property
    def main(self) -> Computation:
        """Where it begins."""
        return self.computations[self.entry]

    def bodies(self, instruction: Instruction) -> list[tuple[Computation, int | None]]:
        """The computations that an instruction runs as a sequence of their own, and how often.

        That is None of a loop whose trips cannot be read. Fusions are not among them: they are one piece of work.
        """
        if instruction.opcode == "while":
            body = re.search(r"body=%?([\w.-]+)", instruction.attributes)
            assert body
            return [(self.computations[body[1]], self.trips(instruction))]
        if instruction.opcode in ("call", "conditional"):
            return [(self.computations[name], 1) for name in instruction.called]
        return []

    def trips(self, loop: Instruction) -> int | None:
        """How often a loop runs, as its annotation says or as its condition compares a counter that starts at 0."""
        noted = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if noted:
            return int(noted[1])
        name = re.search(r"condition=%?([\w.-]+)", loop.attributes)
        assert name
        condition = self.computations[name[1]].instructions
        compares = [i for i in condition if i.opcode == "compare" and "direction=LT" in i.attributes]
        limits = [i for i in condition if i.opcode == "constant" and any(i.name in c.operands for c in compares)]
        return int(limits[0].operands[0]) if len(limits) == 1 else None

    def has_matmul(self, instruction: Instruction) -> bool:
        """Whether a convolution or a dot is in it, at any depth; the TPU compiler writes matmuls as convolutions."""
        if instruction.opcode in ("convolution", "dot"):
            return True
        inner = (self.computations[name] for name in instruction.called)
        return any(self.has_matmul(i) for computation in inner for i in computation.instructions)


def parse(text: str) -> Module:
    """Reads a module's text.

    Raises:
        ValueError: the text is no scheduled HLO module.
    """
    if not re.match(r"HloModule .*is_scheduled=true", text):
        raise ValueError("this is not the text of a compiled program; give what jax.stages.Compiled.as_text() returns")
    computations: dict[str, Computation] = {}
    entry, name, instructions = "", "", []
    for line in text.splitlines():
        if line.startswith("}"):
            computations[name] = Computation(name, tuple(instructions))
        elif header := _HEADER.match(line):
            name, instructions = header[2], []
            entry = name if header[1] else entry
        elif name and (found := _INSTRUCTION.match(line)):
            instructions.append(_instruction(found[1], re.sub(r"/\*.*?\*/", "", found[2])))
    return Module(entry, computations)


def _instruction(name: str, text: str) -> Instruction:
    end = _balanced(text, 0) if text.startswith("(") else text.index(" ")
    opcode = _OPCODE.search(text, end)
    assert opcode, text[:200]
    close = _balanced(text, opcode.end() - 1)
    inside = text[opcode.end() : close - 1]
    operands = re.findall(r"%([\w.-]+)", inside) or ([inside] if opcode[1] == "constant" else [])
    return Instruction(name, opcode[1], text[:end], tuple(operands), text[close:])


def _balanced(text: str, start: int) -> int:
    """The index behind the parenthesis that closes the one at start."""
    depth = 0
    for found in _BRACKETS.finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return found.end()
    raise ValueError(f"a parenthesis is not closed in {text[:200]!r}")


def _bytes(shapes: str) -> int:
    total = 0
    for dtype, dimensions in re.findall(r"([a-z]\w*)\[([\d,]*)\]", shapes):
        digits = re.match(r"[a-z]+(\d+)", dtype)
        bits = _BITS[dtype] if dtype in _BITS else int(digits[1]) if digits else 0
        total += bits * math.prod(int(size) for size in dimensions.split(",") if size) // 8
    return total
