"""The value of an expression with precedence and brackets, one step a line.

3+4*(5-2)=     <think>3+4*3
               3+12
               15</think><answer>15</answer>
"""

import random
from typing import Any

from seekjax.tasks.answer import grade_integer
from seekjax.tasks.expression import RANK, Tree, apply, canonical, draw, write
from seekjax.tasks.task import Grade, Problem, Solution, words_in

WORDS = {"en": {}, "zh": {}}  # a solution is made of signs alone
MAX_NUMBER = 20  # in the problem
MAX_VALUE = 99  # of every intermediate result, which is also a whole number and not negative


class Arithmetic:
    """Expressions of `level` operations."""

    name = "arithmetic"
    levels = range(1, 6)

    def make(self, rng: random.Random, level: int) -> Problem:
        """Draw expressions until one has small whole values all the way."""
        while True:
            numbers = [rng.randint(1, MAX_NUMBER) for _ in range(level + 1)]
            tree = draw(rng, numbers, "+-*/")
            if _is_plain(tree) and _small_value(tree) is not None:
                break
        data = {"steps": _steps(tree)}
        return Problem(self.name, level, f"{write(tree)}=", canonical(tree), data)

    def verify(self, problem: Problem, answer: str) -> Grade:
        """Give reward 1 for the value, written as a whole number."""
        return grade_integer(answer, int(problem.data["steps"][-1]))

    def solve(
        self,
        problem: Problem,
        rng: random.Random,
        language: str = "en",
    ) -> Solution:
        """Write the expression after each operation, brackets and products first."""
        words_in(self.name, WORDS, language)  # only to refuse other languages
        steps = problem.data["steps"]
        return "\n".join(steps), steps[-1]


def _is_plain(tree: Tree) -> bool:
    """Return whether reading the written expression from left to right gives this very tree.

    a+(b-c) is written a+b-c, which is another tree.
    """
    if isinstance(tree, int):
        return True
    operator, left, right = tree
    regrouped = operator in "+*" and isinstance(right, tuple) and RANK[right[0]] == RANK[operator]
    return not regrouped and _is_plain(left) and _is_plain(right)


def _small_value(tree: Tree) -> int | None:
    """Return the value, or None if a result is negative, over MAX_VALUE or not whole."""
    if isinstance(tree, int):
        return tree

    operator, left, right = tree
    left_value = _small_value(left)
    if left_value is None:
        return None
    right_value = _small_value(right)
    if right_value is None:
        return None

    result = apply(operator, left_value, right_value)
    if isinstance(result, int) and 0 <= result <= MAX_VALUE:
        return result
    return None


def _steps(tree: Tree) -> list[str]:
    """Return what is left of the expression after each operation."""
    steps = []
    while isinstance(tree, tuple):
        tree = _reduce(tree)
        steps.append(write(tree))
    return steps


def _reduce(tree: tuple[str, Any, Any]) -> Tree:
    """Carry out the first operation whose operands are both numbers."""
    operator, left, right = tree
    if isinstance(left, tuple):
        return operator, _reduce(left), right
    if isinstance(right, tuple):
        return operator, left, _reduce(right)

    result = _small_value(tree)
    assert result is not None, "make draws only trees with small whole values"
    return result
