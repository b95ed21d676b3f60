"""Linear equations with a whole solution, solved by one sum or quotient a line.

3x+4=19     <think>19-4=15
            15/3=5</think><answer>5</answer>
"""

import random

from seekjax.tasks.answer import grade_integer
from seekjax.tasks.task import Grade, Problem, Solution, words_in

WORDS = {"en": {}, "zh": {}}  # a solution is made of signs alone


class Equation:
    """Linear equations in x.

    Level 1: ax+b=c with x from 0 to 9. Level 2: any signs, x from -9 to 9. Level 3: x on both
    sides. Level 4: a bracket too, a(x+b)=cx+d.
    """

    name = "equation"
    levels = range(1, 5)

    def make(self, rng: random.Random, level: int) -> Problem:
        """Draw the coefficients and the solution.

        The key is both sides with their brackets multiplied out, in sorted order.
        """
        # slope x + constant on the left; other_slope x + other_constant on the right. The order of
        # the draws is part of the problems of a seed.
        slope = rng.randint(2, 9)
        x = rng.randint(0 if level == 1 else -9, 9)
        constant = rng.randint(1, 20)
        if level > 1:
            constant *= rng.choice((1, -1))
        other_slope = 0
        if level > 2:
            other_slope = rng.choice([n for n in range(1, 10) if n != slope])

        # The number next to x inside the bracket of level 4.
        inner = rng.choice((1, -1)) * rng.randint(1, 9)
        if level == 4:
            constant = slope * inner
        left = [slope, constant]
        right = [other_slope, (slope - other_slope) * x + constant]

        left_text = f"{slope}(x{inner:+d})" if level == 4 else _side(*left)
        sides = [left_text, _side(*right)]
        if rng.random() < 0.5:
            sides.reverse()
        key = "=".join(sorted([f"{left[0]}x{left[1]:+d}", f"{right[0]}x{right[1]:+d}"]))
        data = {"left": left, "right": right, "x": x, "inner": inner if level == 4 else None}
        return Problem(self.name, level, "=".join(sides), key, data)

    def verify(self, problem: Problem, answer: str) -> Grade:
        """Give reward 1 for x, written as a whole number alone."""
        return grade_integer(answer, problem.data["x"])

    def solve(
        self,
        problem: Problem,
        rng: random.Random,
        language: str = "en",
    ) -> Solution:
        """Multiply out the bracket, gather x on one side and the numbers on the other, divide."""
        words_in(self.name, WORDS, language)  # only to refuse other languages
        (a, b), (c, d) = problem.data["left"], problem.data["right"]
        x = problem.data["x"]
        inner = problem.data["inner"]

        lines = []
        if inner is not None:
            lines.append(f"{a}*{_in_brackets(inner)}={b}")
        if c:
            lines.append(f"{a}-{c}={a - c}")
        lines.append(f"{d}{-b:+d}={d - b}")
        if a - c != 1:
            lines.append(f"{d - b}/{_in_brackets(a - c)}={x}")
        return "\n".join(lines), str(x)


def _side(slope: int, constant: int) -> str:
    """Return one side as text: 3x+4, 3x, x-2 or 7."""
    if not slope:
        return str(constant)
    coefficient = "" if slope == 1 else str(slope)
    summand = f"{constant:+d}" if constant else ""
    return f"{coefficient}x{summand}"


def _in_brackets(number: int) -> str:
    """Return a number as a right operand: in brackets if it is negative."""
    return f"({number})" if number < 0 else str(number)
