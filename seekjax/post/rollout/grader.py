"""From texts to rewards: what is asked, how it is spelled, and what every sample is worth and
why.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from seekjax.config import Config
from seekjax.data import DataError, Tokenizer
from seekjax.data.chat import THINK, load_chat
from seekjax.post.rollout.reward import Reward
from seekjax.post.rollout.sampler import fetched
from seekjax.tasks import Problem, Problems, parse_task

WORKERS = 8  # verifiers at a time: those that run programs wait for them


@dataclass(frozen=True)
class Judged:
    """One sample."""

    problem: Problem
    text: str
    reward: float  # NaN where a reward function failed: the sample then teaches nothing
    parts: dict[str, float]  # accuracy, format and the others, before their weights
    reason: str
    tokens: int
    truncated: bool
    error: str = ""


class Judge:
    """The problems of a run's tasks as chats, and the rewards of what is answered. Raises DataError
    for what cannot work.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer, overlong: float = 0.0):
        post = config.post
        self.tokenizer = tokenizer
        self.chat = load_chat(config.init.expanduser(), tokenizer, post.template)
        self.think_in_prompt = begins_in_thought(self.chat)
        weights = ({"length": 1.0} if overlong else {}) | dict(post.rewards)
        self.reward = Reward(
            weights,
            post.language,
            limit=post.max_new,
            cache=round((overlong or 0.2) * post.max_new),
        )
        families = [parse_task(name) for name in post.tasks]
        self.sides = [
            [
                Problems(task, levels, held_out=side, seed=config.train.seed)
                for task, levels in families
            ]
            for side in (False, True)
        ]

    def training(self, first: int, count: int) -> list[Problem]:
        """Problems `first` and on of the training side, the tasks taking turns."""
        return self._some(self.sides[0], first, count)

    def held_out(self, first: int, count: int) -> list[Problem]:
        """The same of the held-out side."""
        return self._some(self.sides[1], first, count)

    def prompt(self, problem: Problem) -> np.ndarray:
        """The ids of a problem, up to where the answer begins."""
        return np.array(
            self.chat.encode(self.tokenizer, [{"role": "user", "content": problem.prompt}]),
            np.int32,
        )

    def __call__(self, texts: dict[str, Any], problems: list[Problem], group: int) -> list[Judged]:
        """Every text of a rollout, `group` of each problem. One process judges and tells the
        others, so that they cannot disagree.
        """
        tokens_BS, mask_BT = fetched((texts["tokens"], texts["mask"]))
        answers = [row[1:][mask] for row, mask in zip(tokens_BS, mask_BT)]
        asked = [problem for problem in problems for _ in range(group)]
        judged = self._all(asked, answers) if jax.process_index() == 0 else None
        rewards = (
            np.array([one.reward for one in judged], np.float32)
            if judged
            else np.zeros(len(asked), np.float32)
        )
        if jax.process_count() > 1:
            rewards = multihost_utils.broadcast_one_to_all(rewards)
        if np.isnan(
            rewards
        ).all():  # known to every process, so that none waits for one that has stopped
            raise DataError(
                "the reward failed for every sample of a rollout: "
                f"{judged[0].error if judged else 'the first process says why'}."
            )
        return judged or [
            Judged(problem, "", float(reward), {}, "", len(ids), False)
            for problem, reward, ids in zip(asked, rewards, answers)
        ]

    def one(self, problem: Problem, ids: np.ndarray) -> Judged:
        """One answer, its end included."""
        truncated = not len(ids) or int(ids[-1]) != self.tokenizer.eos
        text = self.tokenizer.decode(
            ids if truncated else ids[:-1], special=True
        )  # a special token within an answer is a fault of form
        scored = self.reward(
            problem,
            text,
            tokens=len(ids),
            truncated=truncated,
            think_in_prompt=self.think_in_prompt,
        )
        return Judged(
            problem,
            text,
            scored.total,
            scored.parts,
            scored.reason,
            len(ids),
            truncated,
            scored.error,
        )

    def _all(self, problems: list[Problem], answers: list[np.ndarray]) -> list[Judged]:
        with ThreadPoolExecutor(WORKERS) as pool:
            return list(pool.map(self.one, problems, answers))

    def _some(self, families: list[Problems], first: int, count: int) -> list[Problem]:
        return [
            families[index % len(families)][index // len(families)]
            for index in range(first, first + count)
        ]


def begins_in_thought(chat) -> bool:
    """Whether the template itself opens the thinking, as R1's does. Raises DataError where it does
    not begin an answer at all.
    """
    asked = [{"role": "user", "content": "1+1"}]
    before, ready = chat.render(asked, generation_prompt=False), chat.render(asked)
    if ready == before:
        raise DataError(
            "the chat template has no generation prompt, so nothing tells the model to "
            "answer: name another with --post.template."
        )
    return ready.rstrip().endswith(THINK)
