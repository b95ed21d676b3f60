"""Random expressions as trees: drawn, valued, written with no bracket too many, and compared
whatever the order of their operands.

A tree is a whole number or (operator, left, right).
"""

import random
from fractions import Fraction
from math import comb

Tree = int | tuple
RANK = {"+": 1, "-": 1, "*": 2, "/": 2}


def draw(rng: random.Random, numbers: list[int], operators: str) -> Tree:
    """Every order of the numbers, shape of the tree and choice of operators is as likely as every
    other."""
    return _grow(rng, rng.sample(numbers, len(numbers)), operators)


def apply(operator: str, left: Fraction | int, right: Fraction | int) -> Fraction | int | None:
    """None for a division by zero; a whole result of whole numbers stays an int."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    if not right:
        return None
    return left // right if not left % right else Fraction(left) / right


def value(tree: Tree) -> Fraction | int | None:
    """None where something is divided by zero."""
    if isinstance(tree, int):
        return tree
    left, right = value(tree[1]), value(tree[2])
    return None if left is None or right is None else apply(tree[0], left, right)


def steps(tree: Tree) -> list[str]:
    """The operations one at a time, innermost first: 3*5=15, 15+9=24. The tree has a value."""
    if isinstance(tree, int):
        return []
    operator, left, right = tree
    return [*steps(left), *steps(right), f"{value(left)}{operator}{value(right)}={value(tree)}"]


def write(tree: Tree) -> str:
    """3*(5+7): brackets only where the value needs them, so a+(b-c) is written a+b-c."""
    if isinstance(tree, int):
        return str(tree)
    operator, left, right = tree
    first, second = write(left), write(right)
    if isinstance(left, tuple) and RANK[left[0]] < RANK[operator]:
        first = f"({first})"
    if isinstance(right, tuple) and (
        RANK[right[0]] < RANK[operator] or (operator in "-/" and RANK[right[0]] == RANK[operator])
    ):
        second = f"({second})"
    return f"{first}{operator}{second}"


def canonical(tree: Tree) -> str:
    """One text for all trees that differ only in the order and grouping of what is added or
    multiplied: 3+4*2, 2*4+3."""
    if isinstance(tree, int):
        return str(tree)
    rank = RANK[tree[0]]
    parts = sorted(
        (sign, canonical(part)) for sign, part in _flat(tree, rank, "+" if rank == 1 else "*")
    )
    return "(" + "".join(f"{sign}{part}" for sign, part in parts) + ")"


def _flat(tree: Tree, rank: int, sign: str) -> list[tuple[str, Tree]]:
    """The terms of a sum with their signs, or the factors of a product."""
    if isinstance(tree, int) or RANK[tree[0]] != rank:
        return [(sign, tree)]
    operator, left, right = tree
    turned = {"+": "-", "-": "+", "*": "/", "/": "*"}[sign]
    return _flat(left, rank, sign) + _flat(right, rank, turned if operator in "-/" else sign)


def _grow(rng: random.Random, numbers: list[int], operators: str) -> Tree:
    if len(numbers) == 1:
        return numbers[0]
    sizes = range(1, len(numbers))
    left = rng.choices(sizes, [_shapes(size) * _shapes(len(numbers) - size) for size in sizes])[0]
    return (
        rng.choice(operators),
        _grow(rng, numbers[:left], operators),
        _grow(rng, numbers[left:], operators),
    )


def _shapes(leaves: int) -> int:
    """Trees of so many leaves: Catalan's numbers."""
    return comb(2 * leaves - 2, leaves - 1) // leaves
