"""What a task with verifiable answers is: problems of graded difficulty, solved traces, and a
verifier that says why.
"""

import random
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from seekjax.data.split import hash_fraction
from seekjax.errors import DataError

PATIENCE = 10_000  # tries at a problem of one side before a task counts as too small to split


class Grade(NamedTuple):
    # 0 wrong to 1 right; nan where the verifier itself failed, which is nobody's mistake and must
    # be counted
    reward: float
    reason: (
        str  # one short clause for whoever reads a rollout: "right", "uses 7 twice", "13 is not 24"
    )


@dataclass(frozen=True)
class Problem:
    """One question. `key` is its canonical form: problems that are the same but for their wording
    or order share it, and so share a side of the split.
    """

    task: str
    level: int
    prompt: str  # what the user says
    key: str
    data: dict[str, Any] = field(
        hash=False, compare=False, default_factory=dict
    )  # what the verifier needs, JSON-able


class Task(Protocol):
    """A family of problems. All methods are pure: the same generator state gives the same
    problem.
    """

    name: str
    levels: range  # difficulties; larger is harder

    def make(self, rng: random.Random, level: int) -> Problem:
        """A problem that has an answer."""

    def verify(self, problem: Problem, answer: str) -> Grade:
        """Judge the text between the answer tags. Never raises, never hangs, never executes the
        text in this process.
        """

    def solve(self, problem: Problem, rng: random.Random, language: str = "en") -> tuple[str, str]:
        """A chain of thought as a person might write it, and a right answer: (thought, answer), for
        cold starts. The answer is of no language.

        Raises DataError for a language the task has no words in.
        """


def attempt(
    task: Task, problem: Problem, rng: random.Random, language: str = "en"
) -> tuple[str, str]:
    """A thought and an answer of the right form that are right by chance: what a base model has
    read, where reinforcement is to start from it.

    Raises DataError for a task that has no such.
    """
    if not hasattr(task, "attempt"):
        raise DataError(f"{task.name} has solutions but no attempts: countdown and addition have.")
    return task.attempt(problem, rng, language)


class Problems:
    """The training or the held-out problems of a task at some levels, by index: each a function of
    seed and index alone.

    The hash of the canonical form decides the side, so that no problem is on both, whatever the
    seeds.
    """

    def __init__(
        self, task: Task, levels: tuple[int, ...], held_out: bool, seed: int = 0, share: float = 0.1
    ):
        if not levels or not set(levels) <= set(task.levels):
            raise DataError(
                f"{task.name} has levels {task.levels[0]} to {task.levels[-1]}, not {levels}."
            )
        if not 0 < share < 1:
            raise DataError(f"the held-out share is {share}; give one between 0 and 1.")
        self.task, self.levels, self.held_out, self.seed, self.share = (
            task,
            tuple(levels),
            held_out,
            seed,
            share,
        )

    def __getitem__(self, index: int) -> Problem:
        for attempt in range(PATIENCE):
            # A string seed goes through SHA-512: equal on every machine and Python version, and
            # neighbours share nothing.
            rng = random.Random(f"{self.task.name}/{self.seed}/{self.held_out}/{index}/{attempt}")
            problem = self.task.make(rng, rng.choice(self.levels))
            if is_held_out(problem, self.share) == self.held_out:
                return problem
        raise DataError(
            f"{self.task.name} at levels {self.levels} gives no "
            f"{'held-out' if self.held_out else 'training'} problem in {PATIENCE} tries; "
            "take a harder level or another share."
        )


def is_held_out(problem: Problem, share: float = 0.1) -> bool:
    """Which side of the split a problem is on. The key alone decides, so that 3+4= is on one side
    whichever task asks it.
    """
    return hash_fraction(problem.key) < share


def speak(task: str, words: dict[str, dict[str, str]], language: str) -> dict[str, str]:
    """A task's words in a language. Raises DataError where it has none."""
    if language not in words:
        raise DataError(f"{task} has words in {' and '.join(words)}, not in {language!r}.")
    return words[language]
