"""The hundred families of reasoning-gym as tasks: find_task("gym:countdown").

reasoning-gym is an optional extra. It runs, and scores answers, in a process of its own.
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
from seekjax.tasks.task import Grade, Problem, Solution

SECONDS = 5.0  # to score one answer
MAX_CHARACTERS = 2**16  # of an answer


class Worker:
    """A reasoning-gym process, started by the first request and again after it has died."""

    def __init__(self):
        self.process: subprocess.Popen | None = None
        self._lock = threading.Lock()  # verifiers run in many threads

    def request(self, **fields) -> dict:
        """Return the reply to a request, which may be {"error": ...}.

        Raises DataError if reasoning-gym is not installed, or the process ends without a reply.
        """
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps(fields) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
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
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _running(self) -> subprocess.Popen:
        """Return the process, which is started unless it runs."""
        if self.process is not None and self.process.poll() is None:
            return self.process
        if importlib.util.find_spec("reasoning_gym") is None:
            raise missing_extra("a task named gym:FAMILY", "reasoning-gym", "gym", DataError)

        # Equal hashes in every run, because some families draw from sets. No more of the
        # environment than Python needs: it may hold secrets.
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
        return self.process


WORKER = Worker()  # one for all families: it takes seconds to start
atexit.register(WORKER.stop)


class Gym:
    """A family of reasoning-gym.

    A problem is made from its seed and level; its key is the hash of question and answer.
    """

    def __init__(self, family: str, levels: int):
        self.family = family
        self.name = f"gym:{family}"
        self.levels = range(1, levels + 1)

    def make(self, rng: random.Random, level: int) -> Problem:
        """Let reasoning-gym make a problem from a drawn seed. Raises DataError if it fails."""
        seed = rng.getrandbits(31)
        made = WORKER.request(do="make", family=self.family, level=level, seed=seed)
        if "error" in made:
            raise DataError(
                f"reasoning-gym cannot make a problem of {self.family} at level {level}: "
                f"{made['error']}."
            )

        canonical = " ".join(f"{made['question']} {made['answer']}".lower().split())
        key = hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()
        data = {"seed": seed, "answer": made["answer"]}
        return Problem(self.name, level, made["question"], key, data)

    def verify(self, problem: Problem, answer: str) -> Grade:
        """Give reward 1 if reasoning-gym gives the full score.

        Its partial scores give 0: reinforcement learning would collect them instead of solving
        problems. The reward is nan if the scorer itself fails.
        """
        if len(answer) > MAX_CHARACTERS:
            return Grade(0.0, f"over {MAX_CHARACTERS} characters")
        if "\0" in answer:
            return Grade(0.0, "a null character")

        reply = self._score(problem, answer)
        if "score" not in reply:
            reason = reply.get("died") or f"reasoning-gym's scorer raises {reply['error']}"
            reward = 0.0 if self._scorer_works(problem, reply) else math.nan
            return Grade(reward, reason)
        if reply["score"] >= 1:
            return Grade(1.0, "right")
        return Grade(0.0, f"reasoning-gym scores it {reply['score']:.3g}")

    def solve(
        self,
        problem: Problem,
        rng: random.Random,
        language: str = "en",
    ) -> Solution:
        """Return the family's answer with a thought that only states it.

        reasoning-gym has no derivations. Raises DataError in another language than English, or if
        it gives no answer to this problem.
        """
        if language != "en":
            raise DataError(f"{self.name} tells no answers in {language!r}.")
        answer = problem.data["answer"]
        if answer is None:
            raise DataError(f"{self.name} tells no answer to this problem.")
        return f"It is {answer}.", answer

    def _scorer_works(self, problem: Problem, reply: dict) -> bool:
        """Return whether the scorer failed because of the answer that it was given.

        A scorer that accepts the right answer and fails on this one has found this one wrong. One
        that fails on both is broken.
        """
        right = problem.data["answer"]
        if right is None:
            return "died" in reply
        return self._score(problem, right).get("score", 0) >= 1

    def _score(self, problem: Problem, answer: str) -> dict:
        try:
            return WORKER.request(
                do="score",
                family=self.family,
                level=problem.level,
                seed=problem.data["seed"],
                text=answer,
                limit=SECONDS,
            )
        except DataError as error:
            return {"error": str(error)}


@cache
def families() -> dict[str, int]:
    """Return the number of levels of each family. Raises DataError without reasoning-gym."""
    return WORKER.request(do="list")["families"]


def open_family(family: str) -> Gym:
    """Return the task of a family. Raises DataError if there is no such family."""
    known = families()
    if family not in known:
        hint = did_you_mean(family, known)
        raise DataError(
            f"reasoning-gym has no family {family!r}{hint} It has {len(known)} families, "
            "countdown among them."
        )
    return Gym(family, known[family])
