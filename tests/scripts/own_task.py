"""Tasks of a user's own, named on the command line as `tests.scripts.own_task:Doubling`."""

import random
from dataclasses import dataclass

from seekjax.tasks.answer import grade_integer
from seekjax.tasks.task import Grade, Problem, Solution


@dataclass
class Doubling:
    """Twice a number of `level` digits at most, or another multiple of it."""

    factor: int = 2
    name: str = "doubling"
    levels: range = range(1, 4)

    def make(self, rng: random.Random, level: int) -> Problem:
        """Draw a number."""
        number = rng.randrange(10**level)
        prompt = f"{self.factor}*{number}="
        return Problem(self.name, level, prompt, prompt, {"answer": self.factor * number})

    def verify(self, problem: Problem, answer: str) -> Grade:
        """Give reward 1 for the product."""
        return grade_integer(answer, problem.data["answer"])

    def solve(self, problem: Problem, rng: random.Random, language: str = "en") -> Solution:
        """State the product."""
        answer = str(problem.data["answer"])
        return f"That is {answer}.", answer


TRIPLING = Doubling(factor=3)


class WithoutVerifier:
    """Not a task."""

    levels = range(1, 2)

    def make(self, rng: random.Random, level: int) -> Problem:
        """Return the only problem."""
        return Problem("none", level, "1+1=", "1+1=")


class Failing:
    """A task that cannot be made."""

    def __init__(self):
        raise OSError("no such file")


class Frozen(Doubling):
    """A task whose name cannot be set."""

    def __setattr__(self, attribute, value):
        """Let nothing change after `__init__` has set it."""
        if attribute in vars(self):
            raise AttributeError(f"cannot assign to {attribute}")
        super().__setattr__(attribute, value)
