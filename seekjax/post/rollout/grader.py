"""From drawn texts to rewards: how a problem is put to the model, and what each answer earns."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils

from seekjax.data import DataError, Tokenizer
from seekjax.data.chat import ChatTemplate, Message
from seekjax.post.rollout.reward import Reward
from seekjax.post.rollout.sampler import Texts, fetch
from seekjax.post.samples.template import generation_prompt, thinking_opened
from seekjax.tasks import Problem

WORKERS = 8  # threads: verifiers that run programs wait for them


@dataclass(frozen=True)
class GradedSample:
    """One answer to a problem, and its reward."""

    problem: Problem
    text: str
    reward: float  # NaN if a reward function failed: the sample is then left out of training
    parts: dict[str, float]  # accuracy, format and the others, before their weights
    reason: str  # why the answer is right or wrong
    tokens: int
    truncated: bool
    error: str = ""  # the part of the reward that failed, and how
    outcome: float = math.nan  # what DAPO's filter compares in a group: see Reward.outcome


class Grader:
    """Renders problems as chats and grades what is answered.

    Raises DataError if the template has no generation prompt.
    """

    def __init__(self, chat: ChatTemplate, tokenizer: Tokenizer, reward: Reward):
        self.chat = chat
        self.tokenizer = tokenizer
        self.reward = reward
        self.opening = thinking_opened(generation_prompt(chat))  # as R1's template writes
        self.think_in_prompt = bool(self.opening)

    def prompt(self, problem: Problem) -> np.ndarray:
        """Return the token ids of a problem, up to where the answer begins."""
        question: list[Message] = [{"role": "user", "content": problem.prompt}]
        return np.array(self.chat.encode(self.tokenizer, question), np.int32)

    def __call__(self, texts: Texts, problems: list[Problem], group: int) -> list[GradedSample]:
        """Grade every text of a rollout, `group` of each problem.

        The first process grades and broadcasts the rewards, so that all processes have the same;
        the others get nothing but rewards and lengths. Raises DataError if the reward failed for
        every sample.
        """
        tokens_BS, mask_BT = fetch((texts["tokens"], texts["mask"]))
        answers = [row[1:][mask] for row, mask in zip(tokens_BS, mask_BT)]
        problem_of = [problem for problem in problems for _ in range(group)]

        graded: list[GradedSample] = []
        reward_B = np.zeros(len(problem_of), np.float32)
        outcome_B = np.zeros(len(problem_of), np.float32)
        if jax.process_index() == 0:
            with ThreadPoolExecutor(WORKERS) as pool:
                graded = list(pool.map(self.grade, problem_of, answers))
            reward_B = np.array([sample.reward for sample in graded], np.float32)
            outcome_B = np.array([sample.outcome for sample in graded], np.float32)
        if jax.process_count() > 1:
            both = multihost_utils.broadcast_one_to_all((reward_B, outcome_B))
            reward_B, outcome_B = both

        # Every process checks, so that none waits for one that has stopped.
        if np.isnan(reward_B).all():
            reason = graded[0].error if graded else "the first process prints the reason"
            raise DataError(f"the reward failed for every sample of a rollout: {reason}.")
        if graded:
            return graded
        rows = zip(problem_of, reward_B, outcome_B, answers)
        return [
            GradedSample(
                problem, "", float(reward), {}, "", len(ids), False, outcome=float(outcome)
            )
            for problem, reward, outcome, ids in rows
        ]

    def grade(self, problem: Problem, ids: np.ndarray) -> GradedSample:
        """Grade one answer, given by its token ids with the end of the text."""
        truncated = len(ids) == 0 or int(ids[-1]) not in self.tokenizer.stops

        # Special tokens within an answer stay visible: they are a fault of format.
        text = self.tokenizer.decode(ids if truncated else ids[:-1], special=True)
        scored = self.reward(
            problem,
            text,
            tokens=len(ids),
            truncated=truncated,
            think_in_prompt=self.think_in_prompt,
        )

        return GradedSample(
            problem=problem,
            text=text,
            reward=scored.total,
            parts=scored.parts,
            reason=scored.reason,
            tokens=len(ids),
            truncated=truncated,
            error=scored.error,
            outcome=self.reward.outcome(scored),
        )
