"""Rollouts: groups of answers drawn from a model, and graded."""

from typing import Any

import jax

from seekjax.post.rollout.grader import GradedSample, Grader
from seekjax.post.rollout.sampler import Sampler, Texts
from seekjax.tasks import Problem


class Rollouts:
    """Draws answers to problems and grades them: what training and evaluation share."""

    def __init__(self, sampler: Sampler, grader: Grader):
        self.sampler = sampler
        self.grader = grader

    def draw(
        self,
        variables: dict[str, Any],
        problems: list[Problem],
        group: int,
        key: jax.Array,
        first: int = 0,
        size: int = 0,
    ) -> tuple[Texts, list[GradedSample]]:
        """Return `group` answers to each problem, on the devices, and their grades.

        first: the number of the first problem, which decides its random keys; see Sampler.
        size: problems that the compiled program holds, if more than these: copies of the first
            prompt fill it up, and their answers are not graded.
        """
        prompts = [self.grader.prompt(problem) for problem in problems]
        prompts += prompts[:1] * (size - len(prompts))
        texts = self.sampler(variables, prompts, group, key, first)
        return texts, self.grader(texts, problems, group)
