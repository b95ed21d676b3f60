"""Problems put to a finished model, many at a time: what `seekjax eval --task` and `seekjax sample`
share."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import jax
import numpy as np

from seekjax.checkpoint.config_json import read_config
from seekjax.checkpoint.read import newest_whole
from seekjax.config import Config, DataConfig, DistillConfig, GrpoConfig, TrainConfig
from seekjax.data import DataError
from seekjax.data.chat import TemplateName
from seekjax.errors import need
from seekjax.generate.generator import bucket
from seekjax.open import OpenedModel, need_tokenizer
from seekjax.post.rollout.grader import Judge, Judged
from seekjax.post.rollout.sampler import Sampler, everywhere, group_keys, sample
from seekjax.storage import kind_of
from seekjax.tasks import Problem
from sharding.rules import split_by

LONGEST = 256  # tokens of a sample where nothing else is known
ROWS = 128  # samples at a time


@dataclass(frozen=True)
class EvalConfig:
    """What is asked, and how answers are drawn."""

    task: tuple[
        str, ...
    ] = ()  # of seekjax/tasks, as NAME (all levels) or NAME:LEVEL; several take turns
    problems: int = 512  # different ones
    samples: int = 8  # of each problem
    max_new: int | None = (
        None  # tokens of a sample; default: the run's own post.max_new where it has one, else 256
    )
    temperature: float = 1.0  # logits are divided by it; 0 takes the likeliest token
    top_k: int = 0  # only so many likeliest tokens; 0 = all
    top_p: float = 1.0  # only the likeliest tokens that hold this share of the probability
    template: TemplateName = "auto"  # of the chat; auto: the folder's own, else v3
    seed: int = 0  # of problems and draws


class Evaluator:
    """Asks a model. Make and use it within `use_mesh(mesh)`. Raises ConfigError or DataError for
    what cannot work, before anything is drawn."""

    def __init__(
        self, opened: OpenedModel, asked: EvalConfig, held_out: bool, rows: int | None = None
    ):
        check(asked)
        need(rows is None or rows > 0, f"batch is {rows}: it must be at least 1.")
        tokenizer, config = need_tokenizer(opened), config_for(opened, asked)
        self.judge, self.asked, self.variables = Judge(config, tokenizer), asked, opened.variables
        self.problems = distinct(
            self.judge.held_out if held_out else self.judge.training, asked.problems
        )
        self.prompts = [self.judge.prompt(problem) for problem in self.problems]
        longest, most = max(map(len, self.prompts)), config.post.max_new
        if longest + most > opened.model.context:
            raise DataError(
                f"a prompt of {longest} tokens and {most} new ones do not fit the model's "
                f"context of {opened.model.context}: lower --max-new."
            )
        room = min(bucket(longest), opened.model.context - most)
        self.config = replace(config, data=replace(config.data, sequence=room + most - 1))
        self.sampler = Sampler(self.config, tokenizer)
        self.sampler.decoder = replace(self.sampler.decoder, masks=False)  # no trainer follows
        split = split_by("batch")
        self.size = (
            -(-min(max(1, (rows or ROWS) // asked.samples), len(self.problems)) // split) * split
        )
        self.rate = 0.0  # tokens per second

    def __iter__(self) -> Iterator[list[list[Judged]]]:
        """The samples of some problems after another. What is drawn depends on the seed and the
        problem's number, not on what is drawn beside it."""
        keys_B = group_keys(
            jax.random.key(self.asked.seed), len(self.problems) + self.size, self.asked.samples
        )
        group, began, tokens = self.asked.samples, 0.0, 0
        for at in range(0, len(self.problems), self.size):
            some = self.problems[at : at + self.size]
            texts = self.draw(
                self.prompts[at : at + self.size], keys_B[at * group : (at + self.size) * group]
            )
            judged = self.judge(texts, some, group)[: len(some) * group]
            tokens += sum(one.tokens for one in judged)
            if at or len(some) == len(self.problems):
                self.rate = tokens / (time.perf_counter() - began) if at else 0.0
            else:
                began, tokens = time.perf_counter(), 0  # the first call may have compiled
            yield [judged[first : first + group] for first in range(0, len(judged), group)]

    def draw(self, prompts: Sequence[np.ndarray], keys_B: jax.Array) -> dict[str, Any]:
        """Texts after so many prompts, filled up with copies of the first."""
        sampler = self.sampler
        tokens_PT, length_P = (
            np.full((self.size, sampler.room), sampler.pad, np.int32),
            np.zeros(self.size, np.int32),
        )
        for row, prompt in enumerate([*prompts, *[prompts[0]] * (self.size - len(prompts))]):
            tokens_PT[row, : len(prompt)], length_P[row] = prompt, len(prompt)
        placed = everywhere({"tokens": tokens_PT, "length": length_P})
        return sample(
            sampler.decoder,
            self.variables,
            placed["tokens"],
            placed["length"],
            keys_B,
            sampler.sampling,
            sampler.stop_X,
            sampler.slots,
            self.asked.samples,
            sampler.max_new,
        )


def check(asked: EvalConfig) -> None:
    """Raise ConfigError for numbers that have no meaning."""
    need(bool(asked.task), "nothing is asked: name a task with --task, as countdown:1.")
    for name in ("problems", "samples", "max_new"):
        value = getattr(asked, name)
        need(value is None or value > 0, f"{name} is {value}: it must be at least 1.")
    need(
        asked.temperature > 0 or asked.samples == 1,
        "at temperature 0 all samples of a problem are alike: ask for --samples 1.",
    )


def config_for(opened: OpenedModel, asked: EvalConfig) -> Config:
    """A config that asks so, as reinforcement would; its sequence is not known yet."""
    folder, longest = opened.folder, LONGEST
    if kind_of(folder) == "run":
        run = read_config(newest_whole(folder.absolute() / "checkpoints") / "config.json").post
        if isinstance(run, GrpoConfig) or (isinstance(run, DistillConfig) and run.on_policy):
            longest = run.max_new
    post = GrpoConfig(
        tasks=asked.task,
        rewards=(("accuracy", 1.0),),
        template=asked.template,
        group=asked.samples,
        max_new=asked.max_new or longest,
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
    )
    return Config(
        model=opened.model,
        kernel=opened.kernel,
        data=DataConfig(),
        train=TrainConfig(seed=asked.seed),
        post=post,
        init=folder,
    )


def distinct(side: Any, wanted: int) -> list[Problem]:
    """The first `wanted` problems of a side that differ in their canonical form; fewer where a task
    has no more."""
    found: dict[tuple[str, str], Problem] = {}
    for index in count():
        if len(found) == wanted or index == 1000 + 4 * wanted:
            return list(found.values())
        [problem] = side(index, 1)
        found.setdefault((problem.task, problem.key), problem)
