"""The value of an expression with precedence and brackets, one step a line.

3+4*(5-2)=     <think>3+4*3
               3+12
               15</think><answer>15</answer>
"""

import random

from seekjax.tasks.addition import same
from seekjax.tasks.expression import RANK, Tree, apply, canonical, draw, write
from seekjax.tasks.task import Grade, Problem, speak

WORDS = {"en": {}, "zh": {}}  # signs alone
LARGEST, MOST = (
    20,
    99,
)  # of a number in the problem, and of what stands in between: all are whole and none below zero


class Arithmetic:
    """Expressions of `level` operations."""

    name = "arithmetic"
    levels = range(1, 6)

    def make(self, rng: random.Random, level: int) -> Problem:
        """A problem that has an answer."""
        while True:
            tree = draw(rng, [rng.randint(1, LARGEST) for _ in range(level + 1)], "+-*/")
            if _is_plain(tree) and _value(tree) is not None:
                return Problem(
                    self.name, level, f"{write(tree)}=", canonical(tree), {"steps": _steps(tree)}
                )

    def verify(self, problem: Problem, answer: str) -> Grade:
        """Judge the text between the answer tags."""
        return same(answer, int(problem.data["steps"][-1]))

    def solve(self, problem: Problem, rng: random.Random, language: str = "en") -> tuple[str, str]:
        """The expression after each operation, brackets and products first."""
        speak(self.name, WORDS, language)
        return "\n".join(problem.data["steps"]), problem.data["steps"][-1]


def _is_plain(tree: Tree) -> bool:
    """Whether reading it from left to right gives this very tree: a+(b-c) is written a+b-c, which
    is another.
    """
    if isinstance(tree, int):
        return True
    operator, left, right = tree
    regrouped = operator in "+*" and isinstance(right, tuple) and RANK[right[0]] == RANK[operator]
    return not regrouped and _is_plain(left) and _is_plain(right)


def _value(tree: Tree) -> int | None:
    """None where it, or a value in between, is below zero, over MOST or no whole number."""
    if isinstance(tree, int):
        return tree
    left = _value(tree[1])
    right = None if left is None else _value(tree[2])
    result = None if right is None else apply(tree[0], left, right)
    return result if isinstance(result, int) and 0 <= result <= MOST else None


def _steps(tree: Tree) -> list[str]:
    """What is left after each operation."""
    steps = []
    while isinstance(tree, tuple):
        tree = _reduce(tree)
        steps.append(write(tree))
    return steps


def _reduce(tree: Tree) -> Tree:
    """The tree after its first operation that can be done."""
    operator, left, right = tree
    if isinstance(left, tuple):
        return operator, _reduce(left), right
    return (
        (operator, left, _reduce(right))
        if isinstance(right, tuple)
        else apply(operator, left, right)
    )
