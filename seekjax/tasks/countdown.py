"""Countdown: reach a target with every number used once. Easy to check, and found only by trying.

    24 from 3 5 9     <think>3*5=15 15-9=6 24? no
                      5-9=-4 3*-4=-12 24? no
                      3*5=15 15+9=24 24? yes</think><answer>3*5+9</answer>

A thought writes one operation at a time, and the target again next to the result: a small model
learns to add long before it can evaluate an expression at a glance, and to compare neighbours long
before it finds what to compare with.
"""

import random
from collections import Counter
from fractions import Fraction
from typing import NamedTuple

from seekjax.tasks.answer import Invalid, evaluate
from seekjax.tasks.expression import Tree, apply, draw, steps, value, write
from seekjax.tasks.task import Grade, Problem, Solution, words_in

MAX_TRIED = 5  # expressions in one attempt
CANDIDATES = 8  # expressions drawn for each one that a solution shows
WORDS = {"en": {"no": "no", "yes": "yes"}, "zh": {"no": "不", "yes": "对"}}


class Level(NamedTuple):
    """The numbers, operators and targets of one level."""

    numbers: int  # how many
    largest: int  # each number is from 1 to this
    operators: str  # that reach the target; an answer may use any of + - * /
    targets: range = range(100)


LEVELS = {1: Level(3, 20, "+-*"), 2: Level(4, 20, "+-"), 3: Level(3, 99, "+-*/")}


class Candidate(NamedTuple):
    """A random expression and its value."""

    tree: Tree
    value: Fraction | int


class Countdown:
    """Uniformly drawn numbers, then a uniformly drawn target out of those that they reach."""

    name = "countdown"
    levels = range(1, 4)

    def make(self, rng: random.Random, level: int) -> Problem:
        """Draw numbers that reach a target of the level, and one such target."""
        settings = LEVELS[level]
        while True:
            numbers = [rng.randint(1, settings.largest) for _ in range(settings.numbers)]
            values = ways(numbers, settings.operators)
            reached = sorted(result for result in values if result in settings.targets)
            if reached:
                break
        target = int(rng.choice(reached))

        prompt = f"{target} from {' '.join(map(str, numbers))}"
        key = f"{target} from {' '.join(map(str, sorted(numbers)))}"
        return Problem(self.name, level, prompt, key, {"target": target, "numbers": numbers})

    def verify(self, problem: Problem, answer: str) -> Grade:
        """Give reward 1 if the expression has the target's value and uses each number once."""
        expression = evaluate(answer)
        if isinstance(expression, Invalid):
            return Grade(0.0, expression.reason)

        given = Counter(problem.data["numbers"])
        used = Counter(expression.numbers)
        missing = given - used
        if missing:
            number = min(missing)
            return Grade(0.0, f"{number} is not used{' often enough' if number in used else ''}")
        surplus = used - given
        if surplus:
            number = min(surplus)
            fault = "too often" if number in given else "but not given"
            return Grade(0.0, f"{number} is used {fault}")

        target = problem.data["target"]
        if expression.value != target:
            return Grade(0.0, f"{str(expression.value)[:40]} is not {target}")
        return Grade(1.0, "right")

    def solve(
        self,
        problem: Problem,
        rng: random.Random,
        language: str = "en",
    ) -> Solution:
        """Show up to three near misses and then a right expression.

        Each near miss is the nearest of several candidates, as of a person who looks before trying.
        """
        words = words_in(self.name, WORDS, language)
        target = problem.data["target"]

        near_misses = {}  # text of an expression to its line: each is shown once
        for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
            candidates = self._draw(problem, rng, CANDIDATES)
            wrong = [candidate for candidate in candidates if candidate.value != target]
            if wrong:
                nearest = min(wrong, key=lambda candidate: abs(candidate.value - target))
                near_misses[write(nearest.tree)] = compare(nearest, target, words)

        while True:
            candidates = self._draw(problem, rng, CANDIDATES)
            right = [candidate for candidate in candidates if candidate.value == target]
            if right:
                break
        lines = [*near_misses.values(), compare(right[0], target, words)]
        return "\n".join(lines), write(right[0].tree)

    def attempt(
        self,
        problem: Problem,
        rng: random.Random,
        language: str = "en",
    ) -> Solution:
        """Try random expressions, worked out correctly, and answer with the last one.

        An attempt ends with probability 2/3 at an expression that reaches the target, with 1/3 at
        one that does not, and always after MAX_TRIED of them. So it is right by chance, and more
        often the longer it is. Expressions whose value cannot be a target are not shown.
        """
        words = words_in(self.name, WORDS, language)
        target = problem.data["target"]
        targets = LEVELS[problem.level].targets

        lines = []
        while True:
            [candidate] = self._draw(problem, rng, 1)
            if candidate.value not in targets:
                continue
            lines.append(compare(candidate, target, words))
            stops = 2 / 3 if candidate.value == target else 1 / 3
            if len(lines) == MAX_TRIED or rng.random() < stops:
                return "\n".join(lines), write(candidate.tree)

    def _draw(
        self,
        problem: Problem,
        rng: random.Random,
        count: int,
    ) -> list[Candidate]:
        """Draw random expressions until `count` of them have a value."""
        candidates: list[Candidate] = []
        while len(candidates) < count:
            tree = draw(rng, problem.data["numbers"], LEVELS[problem.level].operators)
            result = value(tree)
            if result is not None:
                candidates.append(Candidate(tree, result))
        return candidates


def compare(
    candidate: Candidate,
    target: int,
    words: dict[str, str],
) -> str:
    """Return a line of a thought: an expression worked out and compared with the target."""
    outcome = words["yes" if candidate.value == target else "no"]
    return f"{' '.join(steps(candidate.tree))} {target}? {outcome}"


def ways(numbers: list[int], operators: str) -> Counter:
    """Return how many expressions with each number once have each value.

    All orders of the numbers, shapes of the tree and choices of operators count. Dynamic
    programming over subsets, each written as a bit mask of the numbers in it.
    """
    count = len(numbers)
    values: dict[int, Counter] = {}
    for i, number in enumerate(numbers):
        values[1 << i] = Counter({number: 1})

    for subset in range(1, 1 << count):
        if subset in values:
            continue
        values[subset] = Counter()

        # Every split of the subset into the operands of its last operation.
        left = (subset - 1) & subset
        while left:
            combine(values[left], values[subset ^ left], operators, values[subset])
            left = (left - 1) & subset
    return values[(1 << count) - 1]


def combine(
    left: Counter,
    right: Counter,
    operators: str,
    total: Counter,
) -> None:
    """Add to `total` the values that one operation makes of a left and a right operand."""
    for a, ways_a in left.items():
        for b, ways_b in right.items():
            for operator in operators:
                result = apply(operator, a, b)
                if result is not None:
                    total[result] += ways_a * ways_b


def chance(problem: Problem) -> Fraction:
    """Return the probability that a random valid expression is right.

    The expression has the given numbers and the level's operators.
    """
    values = ways(problem.data["numbers"], LEVELS[problem.level].operators)
    return Fraction(values[problem.data["target"]], values.total())


def floor(problems: list[Problem], samples: int = 1) -> float:
    """Return pass@samples of random valid expressions: the baseline of every reported result."""
    total = 0.0
    for problem in problems:
        total += 1 - float(1 - chance(problem)) ** samples
    return total / len(problems)
