"""Linear equations with a whole solution, solved by one sum or quotient a line.

3x+4=19     <think>19-4=15
            15/3=5</think><answer>5</answer>
"""

import random

from seekjax.tasks.addition import same
from seekjax.tasks.task import Grade, Problem, speak

WORDS = {"en": {}, "zh": {}}  # signs alone


class Equation:
    """Level 1: ax+b=c, x from 0 to 9. 2: any signs, x from -9 to 9. 3: x on both sides. 4: a
    bracket too, a(x+b)=cx+d.
    """

    name = "equation"
    levels = range(1, 5)

    def make(self, rng: random.Random, level: int) -> Problem:
        """A problem that has an answer. Its key is what both sides are once brackets are opened,
        whichever stands first.
        """
        a, x = rng.randint(2, 9), rng.randint(0 if level == 1 else -9, 9)
        b = rng.randint(1, 20) * (1 if level == 1 else rng.choice((1, -1)))
        c = rng.choice([n for n in range(1, 10) if n != a]) if level > 2 else 0
        inner = rng.choice((1, -1)) * rng.randint(1, 9)
        constant = a * inner if level == 4 else b
        left, right = [a, constant], [c, (a - c) * x + constant]
        text = f"{a}(x{inner:+d})" if level == 4 else _side(a, b)
        sides = [text, _side(*right)]
        if rng.random() < 0.5:
            sides.reverse()
        key = "=".join(sorted(f"{slope}x{rest:+d}" for slope, rest in (left, right)))
        return Problem(
            self.name,
            level,
            "=".join(sides),
            key,
            {"left": left, "right": right, "x": x, "inner": inner if level == 4 else None},
        )

    def verify(self, problem: Problem, answer: str) -> Grade:
        """Judge the text between the answer tags: the number alone."""
        return same(answer, problem.data["x"])

    def solve(self, problem: Problem, rng: random.Random, language: str = "en") -> tuple[str, str]:
        """Open the bracket, gather the x on one side and the numbers on the other, divide."""
        speak(self.name, WORDS, language)
        (a, b), (c, d), x, inner = (problem.data[name] for name in ("left", "right", "x", "inner"))
        lines = [f"{a}*{_in_brackets(inner)}={b}"] if inner is not None else []
        lines += [f"{a}-{c}={a - c}"] if c else []
        lines.append(f"{d}{-b:+d}={d - b}")
        if a - c != 1:
            lines.append(f"{d - b}/{_in_brackets(a - c)}={x}")
        return "\n".join(lines), str(x)


def _side(slope: int, rest: int) -> str:
    """3x+4, 3x, x-2 or 7."""
    if not slope:
        return str(rest)
    return f"{slope if slope != 1 else ''}x{f'{rest:+d}' if rest else ''}"


def _in_brackets(number: int) -> str:
    return f"({number})" if number < 0 else str(number)
