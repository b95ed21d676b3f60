"""Addition with carries, column by column as on paper: the smoke test of reinforcement.

47+85=     <think>7+5=12 carry 1
           4+8+1=13</think><answer>132</answer>
"""

import random
from collections.abc import Callable

from seekjax.tasks.answer import Invalid, integer
from seekjax.tasks.expression import canonical
from seekjax.tasks.task import Grade, Problem, speak

WORDS = {"en": {"carry": " carry 1"}, "zh": {"carry": " 进1"}}


class Addition:
    """Two numbers of `level` digits each."""

    name = "addition"
    levels = range(1, 7)

    def make(self, rng: random.Random, level: int) -> Problem:
        """A problem that has an answer."""
        least = 10 ** (level - 1) if level > 1 else 0
        a, b = rng.randrange(least, 10**level), rng.randrange(least, 10**level)
        return Problem(self.name, level, f"{a}+{b}=", canonical(("+", a, b)), {"numbers": [a, b]})

    def verify(self, problem: Problem, answer: str) -> Grade:
        """Judge the text between the answer tags."""
        return same(answer, sum(problem.data["numbers"]))

    def solve(self, problem: Problem, rng: random.Random, language: str = "en") -> tuple[str, str]:
        """The columns from the right, the carry told where there is one."""
        return self._columns(problem, language, lambda: True)

    def attempt(
        self, problem: Problem, rng: random.Random, language: str = "en"
    ) -> tuple[str, str]:
        """The same by somebody who forgets every second carry."""
        return self._columns(problem, language, lambda: rng.random() < 0.5)

    def _columns(
        self, problem: Problem, language: str, carries: Callable[[], bool]
    ) -> tuple[str, str]:
        words, carry, lines, digits = speak(self.name, WORDS, language), 0, [], ""
        a, b = map(str, problem.data["numbers"])
        for place, (p, q) in enumerate(zip(reversed(a), reversed(b), strict=True), 1):
            total, last = int(p) + int(q) + carry, place == len(a)
            line = f"{p}+{q}{'+1' if carry else ''}={total}"
            carry = int(total > 9 and carries())
            lines.append(line + (words["carry"] if carry and not last else ""))
            digits = str(total if last else total % 10) + digits
        return "\n".join(lines), str(int(digits))


def same(answer: str, right: int) -> Grade:
    """Right where the answer is this whole number."""
    found = integer(answer)
    if isinstance(found, Invalid):
        return Grade(0.0, found.reason)
    return Grade(1.0, "right") if found == right else Grade(0.0, f"{found} is not {right}")
