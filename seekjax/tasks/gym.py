"""The hundred families of reasoning-gym as tasks: find_task("gym:countdown"). An optional extra,
kept and scored in a process of its own.
"""

import atexit
import hashlib
import importlib.util
import json
import math
import os
import random
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

from seekjax.errors import DataError
from seekjax.extras import missing_extra
from seekjax.registry import did_you_mean
from seekjax.tasks.task import Grade, Problem

SECONDS = 5.0  # to score one answer
LONGEST = 2**16  # characters of an answer


class Worker:
    """A reasoning-gym process, started when first asked and again when it has died."""

    def __init__(self):
        self.process: subprocess.Popen | None = None
        self._turn = threading.Lock()  # verifiers are asked from many threads

    def ask(self, **request) -> dict:
        """Its reply. Raises DataError where there is no reasoning-gym, or where it answers with an
        error or not at all.
        """
        with self._turn:
            if self.process is None or self.process.poll() is not None:
                self._start()
            try:
                self.process.stdin.write(json.dumps(request) + "\n")
                self.process.stdin.flush()
                line = self.process.stdout.readline()
            except BrokenPipeError:
                line = ""
            if not line:
                self.stop()
        if not line:
            raise DataError(
                "the reasoning-gym process ended without an answer; try `python -c "
                "'import reasoning_gym'` to see why."
            )
        return json.loads(line)

    def stop(self) -> None:
        """Ends the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _start(self) -> None:
        if importlib.util.find_spec("reasoning_gym") is None:
            raise missing_extra("a task named gym:FAMILY", "reasoning-gym", "gym", DataError)
        # Equal hashes in every run: some families draw from sets. No more of the environment than
        # Python needs: it may hold secrets.
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONHASHSEED": "0",
        }
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("gym_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
            start_new_session=True,
        )


WORKER = Worker()  # one for all families: it takes seconds to start
atexit.register(WORKER.stop)


class Gym:
    """A family of reasoning-gym. A problem is its seed and level; its key the hash of question and
    answer.
    """

    def __init__(self, family: str, levels: int):
        self.family, self.name, self.levels = family, f"gym:{family}", range(1, levels + 1)

    def make(self, rng: random.Random, level: int) -> Problem:
        """A problem that reasoning-gym makes of one seed. Raises DataError where it cannot."""
        seed = rng.getrandbits(31)
        made = WORKER.ask(do="make", family=self.family, level=level, seed=seed)
        if "error" in made:
            raise DataError(
                f"reasoning-gym cannot make a problem of {self.family} at level {level}: "
                f"{made['error']}."
            )
        same = " ".join(f"{made['question']} {made['answer']}".lower().split())
        key = hashlib.blake2b(same.encode(), digest_size=16).hexdigest()
        return Problem(
            self.name, level, made["question"], key, {"seed": seed, "answer": made["answer"]}
        )

    def verify(self, problem: Problem, answer: str) -> Grade:
        """Right where reasoning-gym gives the full score: its scores for trying would be farmed.
        nan where its scorer fails.
        """
        if len(answer) > LONGEST or "\0" in answer:
            return Grade(
                0.0, f"over {LONGEST} characters" if len(answer) > LONGEST else "a null character"
            )
        said = self._score(problem, answer)
        if "score" not in said:
            # A scorer that gets through the right answer and not this one has found it wrong; one
            # that gets through neither is broken.
            right = problem.data["answer"]
            works = (
                "died" in said
                if right is None
                else self._score(problem, right).get("score", 0) >= 1
            )
            return Grade(
                0.0 if works else math.nan,
                said.get("died") or f"reasoning-gym's scorer raises {said['error']}",
            )
        return (
            Grade(1.0, "right")
            if said["score"] >= 1
            else Grade(0.0, f"reasoning-gym scores it {said['score']:.3g}")
        )

    def _score(self, problem: Problem, answer: str) -> dict:
        try:
            return WORKER.ask(
                do="score",
                family=self.family,
                level=problem.level,
                seed=problem.data["seed"],
                text=answer,
                limit=SECONDS,
            )
        except DataError as error:
            return {"error": str(error)}

    def solve(self, problem: Problem, rng: random.Random, language: str = "en") -> tuple[str, str]:
        """The family's answer, with no more of a thought than that: reasoning-gym tells no way to
        it. Raises DataError where it tells no answer either.
        """
        if language != "en" or problem.data["answer"] is None:
            raise DataError(
                f"{self.name} tells no "
                f"{'answer to this problem' if language == 'en' else f'answers in {language!r}'}."
            )
        return f"It is {problem.data['answer']}.", problem.data["answer"]


@cache
def families() -> dict[str, int]:
    """The families there are, and how many levels each has. Raises DataError without
    reasoning-gym.
    """
    return WORKER.ask(do="list")["families"]


def open_family(family: str) -> Gym:
    """A family by name. Raises DataError."""
    known = families()
    if family not in known:
        hint = did_you_mean(family, known)
        raise DataError(
            f"reasoning-gym has no family {family!r}{hint} It has {len(known)} families, "
            "countdown among them."
        )
    return Gym(family, known[family])
