"""What a compiled program says it sends: its collectives, read from XLA's text of it."""

import math
import re
from collections import defaultdict
from dataclasses import dataclass

KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
)

# Bytes of a number, by XLA's name of its type; those it has none for here are flags of the runtime
BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "f8e4m3fn": 1,
    "f8e5m2": 1,
    "bf16": 2,
    "f16": 2,
    "s16": 2,
    "u16": 2,
    "f32": 4,
    "s32": 4,
    "u32": 4,
    "s64": 8,
    "u64": 8,
}

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$", re.M)
CALLED = re.compile(r"(?:calls|body)=%([\w.-]+)")
CONDITION = re.compile(r" while\(.*condition=%([\w.-]+)")
TRIPS = re.compile(r"known_trip_count\D*(\d+)")
CONSTANT = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
COLLECTIVE = re.compile(r" = (.*?) (" + "|".join(KINDS) + r")(-start)?\(")
ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")


@dataclass
class Collective:
    """The collectives of one kind in a program."""

    written: int = 0  # how many are in the text
    runs: int = 0  # how many run, with loops unrolled
    bytes: int = 0  # of their results on one device, over all runs

    def add(self, times: int, size: int) -> None:
        """Count one more instruction of this kind, with its runs and its bytes."""
        self.written += 1
        self.runs += times
        self.bytes += times * size


def collectives(text: str) -> dict[str, Collective]:
    """Return the collectives of a compiled program by kind.

    A ragged all-to-all counts its whole buffer, of which only the rows that exist travel. A
    reduce-scatter may be written as a fusion named all-reduce-scatter.
    """
    bodies, entry = _computations(text)
    found = {kind: Collective() for kind in KINDS}
    for name, times in _runs(bodies, entry).items():
        for line in bodies[name]:
            match = COLLECTIVE.search(line)
            if match:
                result, kind, start = match.groups()
                if "all-reduce-scatter" in name:
                    kind = "reduce-scatter"
                found[kind].add(times, _size(result, is_start=bool(start)))
    return found


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Return the lines of each computation by its name, and the name of the program's entry."""
    heads = list(COMPUTATION.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    bodies, entry = {}, ""
    for head, end in zip(heads, ends):
        is_entry, name = head.groups()
        bodies[name] = text[head.end() : end].split("\n")
        if is_entry:
            entry = name
    return bodies, entry


def _runs(bodies: dict[str, list[str]], entry: str) -> dict[str, int]:
    """Return how often each computation runs when the program runs once."""
    runs: dict[str, int] = defaultdict(int)

    def visit(name: str, times: int) -> None:
        runs[name] += times
        for line in bodies.get(name, ()):
            for called in CALLED.findall(line):
                visit(called, times * _trips(line, bodies))

    visit(entry, 1)
    return {name: times for name, times in runs.items() if name in bodies}


def _trips(line: str, bodies: dict[str, list[str]]) -> int:
    """Return how often the loop of a line runs; 1 if the line is not a loop."""
    condition = CONDITION.search(line)
    if condition is None:
        return 1

    known = TRIPS.search(line)
    if known:
        return int(known[1])
    # A scan's counter runs up to a constant in its condition
    constants = CONSTANT.findall("\n".join(bodies[condition[1]]))
    return max(map(int, constants), default=1)


def _size(result: str, is_start: bool) -> int:
    """Return the bytes of a collective's result; that of a start has its operand too."""
    sizes = []
    for dtype, dimensions in ARRAY.findall(result):
        shape = [int(n) for n in dimensions.split(",") if n]
        sizes.append(BYTES.get(dtype, 0) * math.prod(shape))
    return max(sizes) if is_start else sum(sizes)
