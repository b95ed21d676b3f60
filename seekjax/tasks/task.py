"""The interface of a task with verifiable answers: graded problems, worked solutions, a verifier.

A researcher's own task is a class with the members of `Task`, named on the command line as
`module:ClassOrInstance`; tests/scripts/own_task.py is a complete one:

    class Doubling:
        name = "my_tasks:Doubling"
        levels = range(1, 4)

        def make(self, rng, level):
            number = rng.randrange(10**level)
            return Problem(self.name, level, f"2*{number}=", str(number), {"answer": 2 * number})

        def verify(self, problem, answer):
            return grade_integer(answer, problem.data["answer"])

        def solve(self, problem, rng, language="en"):
            answer = str(problem.data["answer"])
            return f"Twice that is {answer}.", answer
"""

import random
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

from seekjax.data.split import hash_fraction
from seekjax.errors import DataError

# Draws of a problem for one side of the split before a task counts as too small to split.
MAX_DRAWS = 10_000


Solution = tuple[str, str]  # (thought, answer), without tags


class Grade(NamedTuple):
    """The reward of an answer and the reason for it.

    `reward` is from 0 (wrong) to 1 (right). It is nan if the verifier itself failed: such an answer
    is neither right nor wrong, and is left out and counted. `reason` is one short clause for the
    reader of a rollout: "right", "uses 7 twice", "13 is not 24".
    """

    reward: float
    reason: str


@dataclass(frozen=True)
class Problem:
    """One question of a task.

    `task` is a name that `find_task` resolves, so that a problem can be verified wherever it came
    from. `prompt` is the user's message. `key` is the canonical form: problems that differ only in
    wording or order share it, and therefore share a side of the split. `data` is what the verifier
    needs, and is JSON-serialisable.
    """

    task: str
    level: int
    prompt: str
    key: str
    data: dict[str, Any] = field(hash=False, compare=False, default_factory=dict)


class Task(Protocol):
    """A family of problems.

    All methods are pure: the same state of the random generator gives the same result, in every
    process. `verify` is called from several threads.

    Attributes:
        name: What `find_task` resolves to this task: of a task outside this package
            "module:ClassOrInstance". It seeds the problems, too.
        levels: The difficulties, from 1; larger is harder.
    """

    name: str
    levels: range

    def make(self, rng: random.Random, level: int) -> Problem:
        """Draw a problem that has an answer."""
        ...

    def verify(self, problem: Problem, answer: str) -> Grade:
        """Grade the text between the answer tags.

        Never raises, never hangs, and never executes the text in this process: reinforcement
        learning finds whatever a verifier lets through.
        """
        ...

    def solve(
        self,
        problem: Problem,
        rng: random.Random,
        language: str = "en",
    ) -> Solution:
        """Return (thought, answer): a worked solution as a person might write it, for cold starts.

        The thought is in the language ("en", "zh"); the answer does not depend on it, and `verify`
        gives it reward 1. Raises DataError if the task has no solutions in this language.
        """
        ...


@runtime_checkable
class TaskWithAttempts(Protocol):
    """A task that can also write noisy demonstrations. This is optional."""

    name: str

    def attempt(
        self,
        problem: Problem,
        rng: random.Random,
        language: str = "en",
    ) -> Solution:
        """Return (thought, answer), well formed and right only by chance."""
        ...


def attempt(
    task: Task,
    problem: Problem,
    rng: random.Random,
    language: str = "en",
) -> Solution:
    """Return a noisy demonstration: a (thought, answer) that is well formed and right by chance.

    A base model that has read such attempts answers in the right form and is sometimes right,
    which is what reinforcement without a cold start (R1-Zero) needs to begin with. Raises DataError
    if the task has no attempts.
    """
    if not isinstance(task, TaskWithAttempts):
        raise DataError(f"{task.name} has solutions but no attempts: countdown and addition have.")
    return task.attempt(problem, rng, language)


class Problems:
    """The training or the held-out problems of a task at some levels, by index.

    Each problem is a function of the seed and its index alone. The hash of the problem's canonical
    form decides its side, so that no problem is on both sides, whatever the seeds.

    Raises DataError if the task lacks one of the levels, or `share` is not between 0 and 1.
    """

    def __init__(
        self,
        task: Task,
        levels: tuple[int, ...],
        held_out: bool,
        seed: int = 0,
        share: float = 0.1,
    ):
        if not levels or not set(levels) <= set(task.levels):
            raise DataError(
                f"{task.name} has levels {task.levels[0]} to {task.levels[-1]}, not {levels}."
            )
        if not 0 < share < 1:
            raise DataError(f"the held-out share is {share}; give one between 0 and 1.")

        self.task = task
        self.levels = tuple(levels)
        self.held_out = held_out
        self.seed = seed
        self.share = share

    def __getitem__(self, index: int) -> Problem:
        for draw in range(MAX_DRAWS):
            # A string seed goes through SHA-512: the generator is equal on every machine and Python
            # version, and neighbours share nothing.
            rng = random.Random(f"{self.task.name}/{self.seed}/{self.held_out}/{index}/{draw}")
            problem = self.task.make(rng, rng.choice(self.levels))
            if is_held_out(problem, self.share) == self.held_out:
                return problem

        side = "held-out" if self.held_out else "training"
        raise DataError(
            f"{self.task.name} at levels {self.levels} gives no {side} problem in {MAX_DRAWS} "
            "tries; take a harder level or another share."
        )


def is_held_out(problem: Problem, share: float = 0.1) -> bool:
    """Return whether a problem is on the held-out side of the split.

    The key alone decides, so that 3+4= is on one side whichever task it comes from.
    """
    return hash_fraction(problem.key) < share


def words_in(
    task: str,
    words: dict[str, dict[str, str]],
    language: str,
) -> dict[str, str]:
    """Return a task's words in a language. Raises DataError if the task has none in it."""
    if language not in words:
        raise DataError(f"{task} has words in {' and '.join(words)}, not in {language!r}.")
    return words[language]
