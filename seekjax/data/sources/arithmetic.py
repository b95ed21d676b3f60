"""Worked arithmetic: sums, differences and products of small numbers, digit by digit, as one does
them on paper.

47+85
7+5+0=12 write 2 carry 1
4+8+1=13 write 3 carry 1
=132
"""

import random


def generate(rng: random.Random) -> str:
    """One worked problem with operands of 1 to 4 digits (products: up to 3 by 2), ending in
    `=answer`."""
    work = (_add, _subtract, _multiply)[int(rng.random() * 3)]
    return "\n".join(work(rng)) + "\n"


def _add(rng: random.Random) -> list[str]:
    a, b = _number(rng, 4), _number(rng, 4)
    lines, carry = [f"{a}+{b}"], 0
    for p, q in _columns(a, b):
        total = p + q + carry
        lines.append(f"{p}+{q}+{carry}={total} write {total % 10} carry {total // 10}")
        carry = total // 10
    return [*lines, f"={a + b}"]


def _subtract(rng: random.Random) -> list[str]:
    b, a = sorted((_number(rng, 4), _number(rng, 4)))
    lines, borrow = [f"{a}-{b}"], 0
    for p, q in _columns(a, b):
        digit = p - q - borrow
        lines.append(f"{p}-{q}-{borrow}={digit} write {digit % 10} borrow {int(digit < 0)}")
        borrow = int(digit < 0)
    return [*lines, f"={a - b}"]


def _multiply(rng: random.Random) -> list[str]:
    a, b = _number(rng, 3), _number(rng, 2)
    lines, total = [f"{a}*{b}"], 0
    for power, digit in enumerate(reversed(str(b))):
        part = a * int(digit) * 10**power
        lines.append(f"{a}*{digit}{'0' * power}={part} sum {total}+{part}={total + part}")
        total += part
    return [*lines, f"={total}"]


def _number(rng: random.Random, digits: int) -> int:
    """Every length is equally likely, so that short numbers are not lost among long ones."""
    length = 1 + int(rng.random() * digits)
    return int(rng.random() * 10**length)


def _columns(a: int, b: int) -> list[tuple[int, int]]:
    """The digits of both numbers in pairs, the units first."""
    width = max(len(str(a)), len(str(b)))
    return [(int(p), int(q)) for p, q in zip(str(a).zfill(width)[::-1], str(b).zfill(width)[::-1])]
