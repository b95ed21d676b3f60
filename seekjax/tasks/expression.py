"""Random expressions as trees: drawn, evaluated, written with the fewest brackets, and compared
whatever the order of their operands.

A tree is a whole number or (operator, left, right).
"""

import random
from fractions import Fraction
from functools import cache
from math import comb
from typing import Any

Tree = int | tuple[str, Any, Any]
RANK = {"+": 1, "-": 1, "*": 2, "/": 2}
INVERSE = {"+": "-", "-": "+", "*": "/", "/": "*"}


def draw(
    rng: random.Random,
    numbers: list[int],
    operators: str,
) -> Tree:
    """Draw a tree with each number once.

    Every order of the numbers, shape of the tree and choice of operators is equally likely.
    """
    return _grow(rng, rng.sample(numbers, len(numbers)), operators)


def apply(
    operator: str,
    left: Fraction | int,
    right: Fraction | int,
) -> Fraction | int | None:
    """Return the result of one operation, or None for a division by zero.

    A whole result of whole numbers stays an int.
    """
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    if not right:
        return None
    if left % right == 0:
        return left // right
    return Fraction(left) / right


def value(tree: Tree) -> Fraction | int | None:
    """Return the value of a tree, or None if it divides by zero."""
    if isinstance(tree, int):
        return tree
    operator, left, right = tree
    left_value, right_value = value(left), value(right)
    if left_value is None or right_value is None:
        return None
    return apply(operator, left_value, right_value)


def steps(tree: Tree) -> list[str]:
    """Return the operations of a tree that has a value, innermost first: 3*5=15, 15+9=24."""
    if isinstance(tree, int):
        return []
    operator, left, right = tree
    last = f"{value(left)}{operator}{value(right)}={value(tree)}"
    return [*steps(left), *steps(right), last]


def write(tree: Tree) -> str:
    """Return the text of a tree, such as 3*(5+7).

    Brackets stand only where the value needs them, so a+(b-c) is written a+b-c.
    """
    if isinstance(tree, int):
        return str(tree)

    operator, left, right = tree
    left_text, right_text = write(left), write(right)
    if isinstance(left, tuple) and RANK[left[0]] < RANK[operator]:
        left_text = f"({left_text})"
    if isinstance(right, tuple):
        binds_looser = RANK[right[0]] < RANK[operator]
        changes_sign = operator in "-/" and RANK[right[0]] == RANK[operator]
        if binds_looser or changes_sign:
            right_text = f"({right_text})"
    return f"{left_text}{operator}{right_text}"


def canonical(tree: Tree) -> str:
    """Return one text for all trees that differ only in order and grouping.

    Terms of a sum and factors of a product are sorted: 3+4*2 and 2*4+3 have the same text.
    """
    if isinstance(tree, int):
        return str(tree)

    rank = RANK[tree[0]]
    first_sign = "+" if rank == 1 else "*"
    parts = sorted(f"{sign}{canonical(part)}" for sign, part in _flatten(tree, rank, first_sign))
    return "(" + "".join(parts) + ")"


def _flatten(
    tree: Tree,
    rank: int,
    sign: str,
) -> list[tuple[str, Tree]]:
    """Return the terms of a sum with their signs, or the factors of a product."""
    if isinstance(tree, int) or RANK[tree[0]] != rank:
        return [(sign, tree)]
    operator, left, right = tree
    right_sign = INVERSE[sign] if operator in "-/" else sign
    return _flatten(left, rank, sign) + _flatten(right, rank, right_sign)


def _grow(
    rng: random.Random,
    numbers: list[int],
    operators: str,
) -> Tree:
    """Draw a tree over numbers whose order is fixed."""
    if len(numbers) == 1:
        return numbers[0]

    sizes = range(1, len(numbers))
    [size] = rng.choices(sizes, _split_weights(len(numbers)))
    operator = rng.choice(operators)
    left = _grow(rng, numbers[:size], operators)
    right = _grow(rng, numbers[size:], operators)
    return operator, left, right


@cache
def _split_weights(leaves: int) -> list[int]:
    """Return how many shapes a tree has for each size of its left subtree, from 1 on."""
    return [_shapes(size) * _shapes(leaves - size) for size in range(1, leaves)]


def _shapes(leaves: int) -> int:
    """Return the number of binary trees with this many leaves: a Catalan number."""
    return comb(2 * leaves - 2, leaves - 1) // leaves
