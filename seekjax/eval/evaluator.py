"""Evaluation on problems, in batches: what `seekjax eval --task` and `seekjax sample` share."""

import time
from collections.abc import Iterator

from seekjax.checkpoint.config_json import read_config
from seekjax.checkpoint.read import newest_undamaged
from seekjax.config import SamplingConfig
from seekjax.config.generation import EvalConfig
from seekjax.config.values import check_values
from seekjax.data.chat import load_chat
from seekjax.errors import DataError, need
from seekjax.generate.generator import bucket
from seekjax.open import OpenedModel, need_tokenizer
from seekjax.post.rollout.grader import GradedSample, Grader
from seekjax.post.rollout.problems import TaskProblems, distinct
from seekjax.post.rollout.reward import make_reward
from seekjax.post.rollout.rollouts import Rollouts
from seekjax.post.rollout.sampler import Sampler
from seekjax.seeds import root_key
from seekjax.storage import kind_of
from sharding.rules import split_by

MAX_NEW = 256  # tokens of a sample, if the run does not set them
ROWS = 128  # samples at a time, by default


class Evaluator:
    """Draws and grades a model's answers to distinct problems, one batch of problems per iteration.

    Construct and use it within `use_mesh(mesh)`. Raises ConfigError or DataError for what cannot
    work, before anything is drawn.
    """

    def __init__(
        self,
        opened: OpenedModel,
        settings: EvalConfig,
        held_out: bool,
        rows: int | None = None,
    ):
        """held_out: the side of the problems, not the training side; rows: samples at a time."""
        check(settings)
        need(rows is None or rows > 0, f"batch is {rows}: it must be at least 1.")
        self.settings = settings
        self.max_new = settings.max_new or default_max_new(opened)
        self.variables = opened.variables
        self.rate = 0.0  # tokens per second, without the first batch

        # the problems, as prompts
        tokenizer = need_tokenizer(opened)
        chat = load_chat(opened.folder, tokenizer, settings.template, settings.template_settings)
        reward = make_reward((("accuracy", 1.0),), "en", self.max_new)
        self.grader = Grader(chat, tokenizer, reward)
        problems = TaskProblems(settings.task, settings.seed)
        side = problems.held_out if held_out else problems.training
        self.problems = distinct(side, settings.problems)

        # a sequence that holds the longest prompt and its answer
        context = opened.model.context
        longest = max([len(self.grader.prompt(problem)) for problem in self.problems])
        need(
            longest + self.max_new <= context,
            f"a prompt of {longest} tokens and {self.max_new} new ones do not fit the model's "
            f"context of {context}: lower --max-new.",
            DataError,
        )
        sequence = min(bucket(longest), context - self.max_new) + self.max_new - 1
        sampling = SamplingConfig(
            group=settings.samples,
            max_new=self.max_new,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
        )
        sampler = Sampler(opened.model, opened.kernel, sampling, sequence, tokenizer, trained=False)
        self.rollouts = Rollouts(sampler, self.grader)

        # problems at a time, a multiple of the batch axis of the mesh
        split = split_by("batch")
        size = max(1, (rows or ROWS) // settings.samples)
        self.size = -(-min(size, len(self.problems)) // split) * split

    def __iter__(self) -> Iterator[list[list[GradedSample]]]:
        """Yield the graded samples of a batch of problems, one list per problem.

        What is drawn depends on the seed and the problem's number, not on the rest of the batch.
        """
        group = self.settings.samples
        key = root_key(self.settings.seed)
        began = time.perf_counter()
        tokens = 0
        for first in range(0, len(self.problems), self.size):
            batch = self.problems[first : first + self.size]
            _, graded = self.rollouts.draw(self.variables, batch, group, key, first, self.size)

            # the first batch may have compiled
            if first == 0:
                began = time.perf_counter()
            else:
                tokens += sum(answer.tokens for answer in graded)
                self.rate = tokens / (time.perf_counter() - began)
            yield [graded[start : start + group] for start in range(0, len(graded), group)]


def check(settings: EvalConfig) -> None:
    """Raise ConfigError for numbers that have no meaning."""
    need(settings.task, "there is no task: name one with --task, as countdown:1.")
    check_values(settings)
    need(
        settings.temperature > 0 or settings.samples == 1,
        "at temperature 0 all samples of a problem are equal: ask for --samples 1.",
    )


def default_max_new(opened: OpenedModel) -> int:
    """Return the tokens of a sample with which the model was trained, if it was on rollouts."""
    if kind_of(opened.folder) != "run":
        return MAX_NEW

    step = newest_undamaged(opened.folder.absolute() / "checkpoints")
    config = read_config(step / "config.json", trust=True)  # only lengths are used
    if config.grpo:
        return config.grpo.max_new
    if config.distill and config.distill.on_policy:
        return config.distill.sampling.max_new
    return MAX_NEW
