"""What a task with verifiable answers is: problems of graded difficulty, solved traces, and a verifier that says why."""

import hashlib
import random
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple, Protocol


class Verdict(NamedTuple):
    reward: float  # 0 wrong to 1 right
    reason: str  # one short clause for whoever reads a rollout: "right", "uses 7 twice", "13 is not 24"


@dataclass(frozen=True)
class Problem:
    """One question. `key` is its canonical form: problems that are the same but for their wording or order share it, and so share a side of the split."""

    task: str
    level: int
    prompt: str  # what the user says
    key: str
    data: dict[str, Any] = field(hash=False, compare=False, default_factory=dict)  # what the verifier needs, JSON-able


class Task(Protocol):
    """A family of problems. All methods are pure: the same generator state gives the same problem."""

    name: str
    levels: range  # difficulties; larger is harder

    def make(self, rng: random.Random, level: int) -> Problem:
        """A problem that has an answer."""

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Judge the text between the answer tags. Never raises, never hangs, never executes the text in this process."""

    def solve(self, problem: Problem, rng: random.Random) -> tuple[str, str]:
        """A chain of thought as a person might write it, and a right answer: (thought, answer), for cold starts."""


class Problems:
    """The training or the held-out problems of a task at some levels, by index: each a function of seed and index alone.

    The hash of the canonical form decides the side, so that no problem is on both, whatever the seeds.
    """

    def __init__(self, task: Task, levels: tuple[int, ...], held_out: bool, seed: int = 0, share: float = 0.1):
        self.task, self.levels, self.held_out, self.seed, self.share = task, levels, held_out, seed, share

    def __getitem__(self, index: int) -> Problem:
        for attempt in count():
            # A string seed goes through SHA-512: equal on every machine and Python version, and neighbours share nothing.
            rng = random.Random(f"{self.task.name}/{self.seed}/{self.held_out}/{index}/{attempt}")
            problem = self.task.make(rng, rng.choice(self.levels))
            if is_held_out(problem, self.share) == self.held_out:
                return problem


def is_held_out(problem: Problem, share: float = 0.1) -> bool:
    """Which side of the split a problem is on."""
    digest = hashlib.blake2b(f"{problem.task}/{problem.key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < share
