"""Countdown: reach a target with every number used once. Easy to check, and found only by trying.

    24 from 3 5 9     <think>3*5=15 15-9=6 24? no
                      5-9=-4 3*-4=-12 24? no
                      3*5=15 15+9=24 24? yes</think><answer>3*5+9</answer>

One operation at a time, and the target again beside what came out: a small model learns to add long
before it can value an expression at a glance, and to compare neighbours long before it finds what
to compare with.
"""

import random
from collections import Counter
from fractions import Fraction
from typing import NamedTuple

from seekjax.tasks.answer import Invalid, evaluate
from seekjax.tasks.expression import Tree, apply, draw, steps, value, write
from seekjax.tasks.task import Grade, Problem, speak

MOST = 5  # expressions that an attempt tries
LOOK = 8  # expressions looked at for each that is tried
WORDS = {"en": {"no": "no", "yes": "yes"}, "zh": {"no": "不", "yes": "对"}}


class Level(NamedTuple):
    numbers: int  # how many
    largest: int  # each is 1 to this
    operators: str  # that reach the target; an answer may use any of + - * /
    targets: range = range(100)


LEVELS = {1: Level(3, 20, "+-*"), 2: Level(4, 20, "+-"), 3: Level(3, 99, "+-*/")}


class Countdown:
    """Numbers as likely as each other, then a target as likely as every other one that they
    reach.
    """

    name = "countdown"
    levels = range(1, 4)

    def make(self, rng: random.Random, level: int) -> Problem:
        """A problem that has an answer."""
        terms, reached = LEVELS[level], []
        while not reached:
            numbers = [rng.randint(1, terms.largest) for _ in range(terms.numbers)]
            reached = sorted(v for v in ways(numbers, terms.operators) if v in terms.targets)
        target = int(rng.choice(reached))
        key = f"{target} from {' '.join(map(str, sorted(numbers)))}"
        return Problem(
            self.name,
            level,
            f"{target} from {' '.join(map(str, numbers))}",
            key,
            {"target": target, "numbers": numbers},
        )

    def verify(self, problem: Problem, answer: str) -> Grade:
        """Right where the expression has the target's value and uses each number once."""
        found = evaluate(answer)
        if isinstance(found, Invalid):
            return Grade(0.0, found.reason)
        given, used = Counter(problem.data["numbers"]), Counter(found.numbers)
        if missing := given - used:
            return Grade(
                0.0, f"{min(missing)} is not used{' often enough' if min(missing) in used else ''}"
            )
        if surplus := used - given:
            return Grade(
                0.0,
                f"{min(surplus)} is used "
                f"{'too often' if min(surplus) in given else 'but not given'}",
            )
        target = problem.data["target"]
        return (
            Grade(1.0, "right")
            if found.value == target
            else Grade(0.0, f"{str(found.value)[:40]} is not {target}")
        )

    def solve(self, problem: Problem, rng: random.Random, language: str = "en") -> tuple[str, str]:
        """Up to three near misses, as of somebody who looks before trying, and an expression that
        is right.
        """
        words, target = speak(self.name, WORDS, language), problem.data["target"]
        lines, right = {}, None
        for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
            tries = [tree for tree in self._draw(problem, rng, LOOK) if value(tree) != target]
            if tries:
                near = min(tries, key=lambda tree: abs(value(tree) - target))
                lines[write(near)] = tried(near, target, words)
        while right is None:
            right = next(
                (tree for tree in self._draw(problem, rng, LOOK) if value(tree) == target), None
            )
        return "\n".join([*lines.values(), tried(right, target, words)]), write(right)

    def attempt(
        self, problem: Problem, rng: random.Random, language: str = "en"
    ) -> tuple[str, str]:
        """Random expressions with values that a target may have, worked out rightly, and the last
        of them for an answer: right by chance, and more often the longer one tries. Somebody who
        stops two times in three when it is right, gives up one time in three when it is not, and
        never tries more than MOST.
        """
        words, target, lines = speak(self.name, WORDS, language), problem.data["target"], []
        while True:
            [tree] = self._draw(problem, rng, 1)
            if value(tree) not in LEVELS[problem.level].targets:
                continue
            lines.append(tried(tree, target, words))
            if len(lines) == MOST or rng.random() < (2 / 3 if value(tree) == target else 1 / 3):
                return "\n".join(lines), write(tree)

    def _draw(self, problem: Problem, rng: random.Random, count: int) -> list[Tree]:
        """Random expressions that have a value."""
        trees = []
        while len(trees) < count:
            tree = draw(rng, problem.data["numbers"], LEVELS[problem.level].operators)
            trees += [tree] if value(tree) is not None else []
        return trees


def tried(tree: Tree, target: int, words: dict[str, str]) -> str:
    """An expression worked out and compared with the target."""
    return f"{' '.join(steps(tree))} {target}? {words['yes' if value(tree) == target else 'no']}"


def ways(numbers: list[int], operators: str) -> Counter:
    """How many expressions with each number once have each value: all orders of the numbers, shapes
    of the tree and choices of operators.
    """
    count = len(numbers)
    found = {1 << i: Counter({number: 1}) for i, number in enumerate(numbers)}
    for chosen in range(1, 1 << count):
        if chosen not in found:
            found[chosen] = Counter()
            left = (chosen - 1) & chosen
            while left:  # every way to part what is chosen in two
                for a, ways_a in found[left].items():
                    for b, ways_b in found[chosen ^ left].items():
                        for operator in operators:
                            if (result := apply(operator, a, b)) is not None:
                                found[chosen][result] += ways_a * ways_b
                left = (left - 1) & chosen
    return found[(1 << count) - 1]


def chance(problem: Problem) -> Fraction:
    """How likely a random valid expression, of the given numbers and the level's operators, is
    right.
    """
    found = ways(problem.data["numbers"], LEVELS[problem.level].operators)
    return Fraction(found[problem.data["target"]], found.total())


def floor(problems: list[Problem], samples: int = 1) -> float:
    """pass@samples of random valid expressions on these problems: what a result is to be reported
    above.
    """
    return sum(1 - float(1 - chance(problem)) ** samples for problem in problems) / len(problems)
