"""Worked arithmetic: sums, differences and products of small numbers, digit by digit as on paper.

For example:

    47+85
    7+5+0=12 write 2 carry 1
    4+8+1=13 write 3 carry 1
    =132
"""

import random
from functools import partial

from seekjax.config import DataConfig
from seekjax.data.sources.generated import generated_split
from seekjax.data.split import Split, is_held_out


def load(config: DataConfig) -> Split:
    """Return problems without end; a hash of its text decides the side of each."""
    # With an unlimited supply it costs nothing to hold some back, so a share of 0 is not used.
    share = config.held_out or 0.05

    return generated_split(
        "arithmetic",
        generate,
        keep_train=partial(_is_on_side, held_out=False, share=share),
        keep_held_out=partial(_is_on_side, held_out=True, share=share),
    )


def _is_on_side(text: str, held_out: bool, share: float) -> bool:
    return is_held_out(text, share) == held_out


def generate(rng: random.Random) -> str:
    """Return one worked problem, ending in `=answer`.

    Operands have 1 to 4 digits; those of a product have up to 3 and up to 2.
    """
    operations = (_add, _subtract, _multiply)
    operation = operations[int(rng.random() * len(operations))]
    return "\n".join(operation(rng)) + "\n"


def _add(rng: random.Random) -> list[str]:
    a = _number(rng, 4)
    b = _number(rng, 4)
    lines = [f"{a}+{b}"]
    carry = 0

    for p, q in _columns(a, b):
        total = p + q + carry
        lines.append(f"{p}+{q}+{carry}={total} write {total % 10} carry {total // 10}")
        carry = total // 10

    return [*lines, f"={a + b}"]


def _subtract(rng: random.Random) -> list[str]:
    b, a = sorted((_number(rng, 4), _number(rng, 4)))
    lines = [f"{a}-{b}"]
    borrow = 0

    for p, q in _columns(a, b):
        digit = p - q - borrow
        lines.append(f"{p}-{q}-{borrow}={digit} write {digit % 10} borrow {int(digit < 0)}")
        borrow = int(digit < 0)

    return [*lines, f"={a - b}"]


def _multiply(rng: random.Random) -> list[str]:
    a = _number(rng, 3)
    b = _number(rng, 2)
    lines = [f"{a}*{b}"]
    total = 0

    for power, digit in enumerate(reversed(str(b))):
        part = a * int(digit) * 10**power
        lines.append(f"{a}*{digit}{'0' * power}={part} sum {total}+{part}={total + part}")
        total += part

    return [*lines, f"={total}"]


def _number(rng: random.Random, digits: int) -> int:
    """Draw a number of up to `digits` digits; every length is equally likely.

    Drawn evenly from all numbers instead, nine in ten would have the full length.
    """
    length = 1 + int(rng.random() * digits)
    return int(rng.random() * 10**length)


def _columns(a: int, b: int) -> list[tuple[int, int]]:
    """Return the digits of both numbers in pairs, units first."""
    width = max(len(str(a)), len(str(b)))
    digits_a = map(int, reversed(str(a).zfill(width)))
    digits_b = map(int, reversed(str(b).zfill(width)))
    return list(zip(digits_a, digits_b))
