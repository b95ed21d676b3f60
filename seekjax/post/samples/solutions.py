"""Solved problems of tasks as training samples."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seekjax.data import Source
from seekjax.post.samples.chats import fits
from seekjax.post.samples.template import ChatFormat
from seekjax.tasks import Problem, Problems, attempt, parse_task
from seekjax.tasks.answer import wrap

EPOCH = 1_000_000  # problems of a task in an epoch; a small task repeats its own
HELD_OUT = 20_000  # held-out problems of a task
CHECKED = 64  # problems of each side that are solved before a run starts
MAX_REPLACED = 1000  # long solutions that are replaced before giving up


@dataclass(frozen=True)
class SolutionSettings:
    """How solutions are written."""

    chat_format: ChatFormat
    language: str  # en, zh, or mixed: one or the other, problem by problem
    sequence: int
    drop_long: bool
    attempts: float  # share of random attempts instead of solutions
    section: str  # of the config, for messages


@dataclass(frozen=True)
class Solutions(Sequence):
    """Solved problems of a task on one side of the split; each depends on seed and index alone."""

    name: str
    problems: Problems
    size: int
    settings: SolutionSettings

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < self.size:
            raise IndexError(index)

        # A solution that is too long is replaced by one from beyond the end.
        settings = self.settings
        number = 0
        while True:
            problem = self.problems[index + number * self.size]
            conversation = [
                {"role": "user", "content": problem.prompt},
                {"role": "assistant", "content": self.solution(index, problem)},
            ]
            [sample] = settings.chat_format.samples(conversation)
            where = f"the solution of {problem.prompt!r} ({self.name})"
            drop_long = settings.drop_long and number < MAX_REPLACED
            if fits(where, len(sample.tokens), settings.sequence, drop_long, settings.section):
                return sample._asdict()
            number += 1

    def solution(self, index: int, problem: Problem) -> str:
        """Return thought and answer in the format that rewards require."""
        settings = self.settings
        rng = random.Random(f"{problem.task}/{self.problems.seed}/{index}/solution")
        language = settings.language
        if language == "mixed":
            language = rng.choice(("en", "zh"))
        if rng.random() < settings.attempts:
            return wrap(*attempt(self.problems.task, problem, rng, language))
        return wrap(*self.problems.task.solve(problem, rng, language))


def load_solutions(name: str, weight: float, settings: SolutionSettings, seed: int) -> Source:
    """Return the solved problems of a task, the first of them checked. Raises DataError."""
    task, levels = parse_task(name)
    training = Problems(task, levels, held_out=False, seed=seed)
    held_out = Problems(task, levels, held_out=True, seed=seed)
    train = Solutions(name, training, EPOCH, settings)
    kept = Solutions(name, held_out, HELD_OUT, settings)

    # Solving some now also raises at once what would fail later.
    digest = hashlib.sha256()
    for side in (train, kept):
        for index in range(CHECKED):
            digest.update(side[index]["tokens"].tobytes())
    facts = {"name": f"{2 * CHECKED} problems of {name}", "sha256": digest.hexdigest()}
    return Source(name, weight, train, kept, (facts,))
