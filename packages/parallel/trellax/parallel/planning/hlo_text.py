"""The text of an HLO module, read: computations, instructions, loops and how often they run.

    for visit in visits(parse_hlo(text)):
        print(visit.times, visit.instruction.opcode)

Only what planning needs is read: names, opcodes, shapes, operands, called computations, and constants that bound loops.
The syntax is described at https://openxla.org/xla/operation_semantics and .../hlo_to_thunks; XLA prints operands by name.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

_BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,<=? ]*)\]")
_HEADER = re.compile(r"^(ENTRY )?%?([^\s({]+) (?:\(.*)?\{\s*$")
_NAMED = re.compile(r"^\s+(?:ROOT )?%?([^\s=]+) = (.*)$")
_OPCODE = re.compile(r"\s([a-z][a-z0-9-]*)\(")
_OPERAND = re.compile(r"(?<![^\s,(])%?([A-Za-z_][\w.-]*)(?:#(\d+))?(?=,|$)")
_CALLED = re.compile(
    r"(?:to_apply|calls|body|condition|true_computation|false_computation)=%?([^\s,})]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r"known_trip_count\W+n\W+(\d+)")
_OP_NAME = re.compile(r'op_name="([^"]*)"')


@dataclasses.dataclass(frozen=True)
class ArrayShape:
    """Type and dimensions of an array; a tuple's result has several."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        """Bytes without padding; types of 4 bits take half a byte."""
        return self.size * _bits(self.dtype) / 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    shapes: tuple[ArrayShape, ...]
    """Of the result; of all parts where it is a tuple."""
    operands: tuple[tuple[str, int | None], ...]
    """Name, and which part of a tuple, of each operand."""
    attributes: str
    """Everything after the operands."""

    @property
    def bytes(self) -> float:
        """Bytes of the result."""
        return sum(shape.bytes for shape in self.shapes)

    @property
    def op_name(self) -> str:
        """Where the program says that the instruction comes from: "jit(step)/transpose(jvp())/while/body/dot_general"."""
        found = _OP_NAME.search(self.attributes)
        return found[1] if found else ""

    def called(self) -> tuple[str, ...]:
        """Returns the names of the computations that it calls."""
        branches = _BRANCHES.search(self.attributes)
        several = re.findall(r"%?([^\s,]+)", branches[1]) if branches else []
        return (*_CALLED.findall(self.attributes), *several)


@dataclasses.dataclass(frozen=True)
class Computation:
    """A function of the module."""

    name: str
    instructions: Mapping[str, Instruction]


@dataclasses.dataclass(frozen=True)
class HloModule:
    """Computations by name, and which one is run."""

    computations: Mapping[str, Computation]
    entry: str


@dataclasses.dataclass(frozen=True)
class Visit:
    """An instruction, and how often one run of the module executes it."""

    instruction: Instruction
    computation: Computation
    times: int

    def operand_shape(self, index: int) -> ArrayShape:
        """Returns the shape of an operand, which is an array."""
        name, part = self.instruction.operands[index]
        return self.computation.instructions[name].shapes[part or 0]


def parse_hlo(text: str) -> HloModule:
    """Returns the module that a text describes.

    Raises:
        ValueError: if it has no ENTRY computation.
    """
    computations: dict[str, Computation] = {}
    entry, name = "", ""
    instructions: dict[str, Instruction] = {}
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            name, instructions = header[2], {}
            entry = name if header[1] else entry
        elif line.startswith("}"):
            computations[name] = Computation(name, instructions)
        elif named := _NAMED.match(line):
            instruction = _instruction(named[1], named[2])
            if instruction is not None:
                instructions[instruction.name] = instruction
    if not entry:
        raise ValueError("This is no HLO module: it has no ENTRY computation.")
    return HloModule(computations, entry)


def visits(module: HloModule) -> Iterator[Visit]:
    """Yields every instruction of everything that is called, with the number of times that it runs.

    Bodies of loops count as often as the loop runs, or once where that is not known before it runs (`unbounded_loops`);
    every branch of a conditional counts as taken.
    """
    yield from _visits(module, module.computations[module.entry], 1)


def unbounded_loops(module: HloModule) -> list[Instruction]:
    """Returns the loops that compare no counter with a constant, so that nobody can know how often they run."""
    return [
        visit.instruction
        for visit in visits(module)
        if visit.instruction.opcode == "while"
        and _trip_count(module, visit.instruction, visit.computation) is None
    ]


def _visits(module: HloModule, computation: Computation, times: int) -> Iterator[Visit]:
    for instruction in computation.instructions.values():
        yield Visit(instruction, computation, times)
        inner = times
        if instruction.opcode == "while":
            inner *= _trip_count(module, instruction, computation) or 1
        elif instruction.opcode not in ("call", "conditional", "fusion", "async-start"):
            continue  # Others apply scalar functions, as reduce does.
        for name in instruction.called():
            yield from _visits(module, module.computations[name], inner)


def _trip_count(module: HloModule, loop: Instruction, computation: Computation) -> int | None:
    known = _TRIPS.search(loop.attributes)
    if known:
        return int(known[1])
    named = re.search(r"condition=%?([^\s,})]+)", loop.attributes)
    assert named is not None, loop
    condition = module.computations[named[1]]
    compares = [i for i in condition.instructions.values() if i.opcode == "compare"]
    if len(compares) != 1 or "direction=LT" not in compares[0].attributes:
        return None
    name, part = compares[0].operands[1]
    bound = condition.instructions[name]
    if bound.opcode == "get-tuple-element":
        part = int(re.findall(r"index=(\d+)", bound.attributes)[0])
    if bound.opcode in (
        "parameter",
        "get-tuple-element",
    ):  # The bound is carried; look at what it starts from.
        start = computation.instructions[loop.operands[0][0]]
        if start.opcode != "tuple" or part is None:
            return None
        bound = computation.instructions[start.operands[part][0]]
    return _constant_value(bound)  # JAX's loops count from 0 by 1.


def _constant_value(instruction: Instruction) -> int | None:
    if instruction.opcode != "constant" or any(shape.dims for shape in instruction.shapes):
        return None
    found = re.match(r"-?\d+$", instruction.attributes.split(")")[0])
    return int(found[0]) if found else None


def _instruction(name: str, rest: str) -> Instruction | None:
    opcode = _OPCODE.search(" " + rest)
    if opcode is None:
        return None
    start = opcode.end() - 1
    if opcode[1] == "constant":  # Its value stands where others have operands.
        return Instruction(name, "constant", _shapes(rest[: opcode.start()]), (), rest[start:])
    end = _closing(rest, start)
    operands = tuple(
        (n, int(part) if part else None) for n, part in _OPERAND.findall(rest[start:end])
    )
    return Instruction(name, opcode[1], _shapes(rest[: opcode.start()]), operands, rest[end:])


def _shapes(text: str) -> tuple[ArrayShape, ...]:
    return tuple(
        ArrayShape(dtype, tuple(int(d.lstrip("<=")) for d in dims.split(",") if d.strip()))
        for dtype, dims in _ARRAY.findall(text)
    )


def _closing(text: str, start: int) -> int:
    """Returns where the parenthesis that opens just before `start` closes."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return position
    return len(text)


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    found = re.match(r"[a-z]+(\d+)", dtype)
    assert found is not None, dtype
    return int(found[1])
