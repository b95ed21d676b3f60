"""Addition with carries, column by column as on paper: the smoke test of reinforcement learning.

47+85=     <think>7+5=12 carry 1
           4+8+1=13</think><answer>132</answer>
"""

import random
from collections.abc import Callable

from seekjax.tasks.answer import grade_integer
from seekjax.tasks.expression import canonical
from seekjax.tasks.task import Grade, Problem, Solution, words_in

WORDS = {"en": {"carry": " carry 1"}, "zh": {"carry": " 进1"}}


class Addition:
    """The sum of two numbers of `level` digits each."""

    name = "addition"
    levels = range(1, 7)

    def make(self, rng: random.Random, level: int) -> Problem:
        """Draw two numbers, neither with a leading zero."""
        least = 10 ** (level - 1) if level > 1 else 0
        a = rng.randrange(least, 10**level)
        b = rng.randrange(least, 10**level)
        key = canonical(("+", a, b))
        return Problem(self.name, level, f"{a}+{b}=", key, {"numbers": [a, b]})

    def verify(self, problem: Problem, answer: str) -> Grade:
        """Give reward 1 for the sum, written as a whole number."""
        return grade_integer(answer, sum(problem.data["numbers"]))

    def solve(
        self,
        problem: Problem,
        rng: random.Random,
        language: str = "en",
    ) -> Solution:
        """Add the columns from the right and name each carry."""
        return self._add_columns(problem, language, keeps_carry=lambda: True)

    def attempt(
        self,
        problem: Problem,
        rng: random.Random,
        language: str = "en",
    ) -> Solution:
        """Add the columns, but forget every second carry on average."""
        return self._add_columns(problem, language, keeps_carry=lambda: rng.random() < 0.5)

    def _add_columns(
        self, problem: Problem, language: str, keeps_carry: Callable[[], bool]
    ) -> Solution:
        words = words_in(self.name, WORDS, language)
        a, b = map(str, problem.data["numbers"])
        lines = []
        digits = ""  # of the sum, from the right
        carry = 0

        for column, (p, q) in enumerate(zip(reversed(a), reversed(b), strict=True), 1):
            is_last = column == len(a)
            total = int(p) + int(q) + carry
            line = f"{p}+{q}{'+1' if carry else ''}={total}"

            # keeps_carry draws a random number, so it is called only if there is a carry.
            carry = int(total > 9 and keeps_carry())
            if carry and not is_last:
                line += words["carry"]
            lines.append(line)
            digits = str(total if is_last else total % 10) + digits

        return "\n".join(lines), str(int(digits))
