"""On-policy distillation as a stage of the loop: the student answers, and learns at every token of
its answer what its teacher would have thought there.

    # (GKD, 2306.13649, with lambda = 1; no gradient through the draws)
    L = E_{x ~ student} mean_t KL(student || teacher)(. | x_<t)

The student is corrected where its own mistakes lead it, which no given text shows. Nothing is
rewarded: accuracy is only reported. The gradient goes through the whole distribution of every token
(or the teacher's likeliest), not through the one that was drawn: the expectation over it is exact.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.config import Config, GrpoConfig
from seekjax.errors import need
from seekjax.post.distill.distillation import Distillation, added
from seekjax.post.rollout.grader import Judge
from seekjax.post.rollout.log import Watch
from seekjax.post.rollout.sampler import Sampler, minibatch
from seekjax.train.lora import make_plan
from seekjax.train.state import TrainState
from seekjax.train.step import BATCH
from sharding.rules import sharding, split_by


class OnPolicy(Distillation):
    """The stage of `python train.py distill --post.on-policy True`; see train.stage.Stage for the
    methods."""

    alike = True

    def __init__(self, config: Config):
        check(config)
        self.begin(config)
        post = self.post
        asked = GrpoConfig(
            tasks=post.tasks,
            language=post.language,
            template=post.template,
            group=post.group,
            max_new=post.max_new,
        )
        self.config = replace(
            self.config, post=asked
        )  # rollouts are asked for, judged and watched as in reinforcement
        self.judge = Judge(self.config, self.tokenizer)
        self.sampler = Sampler(self.config, self.tokenizer)
        self.rollouts, self.cursor, self.drawn = 0, 0, 0

    def about(self) -> list[str]:
        rows, group = self.config.train.batch, self.post.group
        return [
            f"tasks: {', '.join(self.post.tasks)}; {rows // group} problems x {group} "
            f"answers of up to {self.post.max_new} tokens a step, by "
            f"{self.config.init}; {self.tokenizer.size} token ids",
            self.asks(),
        ]

    def manifest(self) -> dict[str, Any]:
        return {
            "tasks": list(self.post.tasks),
            "init": str(self.config.init),
            "teacher": self.teacher.mark,
            "tokenizer": self.tokenizer.fingerprint(),
        }

    def open(self, folder: Path) -> None:
        problems = self.config.train.batch // self.post.group
        need(
            problems % split_by("batch") == 0,
            f"train.batch {self.config.train.batch} holds {problems} problems of "
            f"post.group {self.post.group} answers: they "
            f"must be a multiple of the {split_by('batch')} devices that share a batch.",
        )
        self.plan = make_plan(self.config)
        self.compile()
        self.form.chat.save(folder, jax.process_index() == 0)
        self.watch = Watch(self, folder)

    def tokens(self, step: int) -> int:
        return self.drawn

    def position(self) -> Any:
        return {"teacher": self.teacher.mark, "batches": [self.rollouts, self.cursor]}

    def seek(self, position: Any) -> None:
        self.teacher.recognise(position["teacher"])
        self.rollouts, self.cursor = position["batches"]

    def batch(self, step: int, state: TrainState) -> dict[str, Any]:
        """Answers to the next problems, with what the teacher thinks of them."""
        rows, group = self.config.train.batch, self.post.group
        self.watch.before(step, state)
        problems = self.judge.training(self.cursor, rows // group)
        texts, judged = self.answers(state, problems, group, self.key("train", self.rollouts))
        self.cursor, self.rollouts = self.cursor + len(problems), self.rollouts + 1
        self.drawn = sum(one.tokens for one in judged)
        nothing = np.zeros(rows, np.float32)
        seen = self.watch.rollout(step, texts, judged, nothing, (judged, nothing))
        self.seen = {
            name: value for name, value in seen.items() if name != "signal"
        }  # that is of rewards
        return self.thought(texts)

    def step(self, state: TrainState, batch: dict[str, Any]) -> tuple[TrainState, dict[str, Any]]:
        state, metrics = self.match(state, batch)
        return state, metrics | self.seen

    def answers(self, state: TrainState, problems: list, group: int, key: jax.Array):
        """Texts on the devices, and what they are worth."""
        variables = {
            "params": self.plan.weights(state.params, state.frozen),
            "balance": state.balance,
        }
        texts = self.sampler(
            variables, [self.judge.prompt(problem) for problem in problems], group, key
        )
        return texts, self.judge(texts, problems, group)

    def key(self, use: str, number: int) -> jax.Array:
        """The root of a rollout's randomness, for one use."""
        return jax.random.fold_in(
            jax.random.fold_in(
                jax.random.key(self.config.train.seed), ("train", "held_out").index(use)
            ),
            number,
        )

    def thought(self, texts: dict[str, Any]) -> dict[str, Any]:
        """A rollout as the criterion reads it."""
        train = self.config.train
        batch = shown(texts, train.batch // (train.rows), sharding(BATCH))
        return batch | self.teacher.read(batch)

    def derive(self, metrics: dict[str, float]) -> dict[str, float]:
        return {}

    def describe(self, record: dict[str, Any]) -> str:
        return (
            f"kl {record['kl']:.4f}  right {record['accuracy']:.1%}  form "
            f"{record['parsed']:.0%}  length {record['length']:.0f}  "
            f"entropy {record['entropy']:.2f}"
        )

    def evaluate(self, state: TrainState) -> tuple[dict[str, float], str]:
        """Accuracy on held-out problems, one answer each, and how far the teacher is from those
        answers."""
        judged, sums, rows = [], [], self.config.train.batch
        for first in range(0, self.post.eval_problems, rows):
            texts, some = self.answers(
                state, self.judge.held_out(first, rows), 1, self.key("held_out", first)
            )
            judged += some
            sums.append(self.measure(state.params, state, self.thought(texts)))
        total = added(sums)
        record, sentence = self.watch.held_out(judged[: self.post.eval_problems])
        kl = total["kl"] / max(total["tokens"], 1)
        return record | {"kl": kl}, f"{sentence}, kl {kl:.4f}"

    def finish(self, state: TrainState, folder: Path) -> list[str]:
        return [
            *([f"picture: {self.draw_distance(folder)}"] if jax.process_index() == 0 else []),
            *self.watch.finish(state, folder),
        ]


def check(config: Config) -> None:
    """Raise ConfigError for settings that do not fit each other."""
    post, train = config.post, config.train
    need(
        not post.save_logits,
        "post.save_logits keeps what a teacher says of given answers, and post.on_policy "
        "makes new ones every step: choose one.",
    )
    need(
        config.init is not None,
        "on-policy distillation learns from the student's own answers, so it starts from "
        "a model that gives some: name its folder "
        "with --init.",
    )
    need(
        bool(post.tasks) and not post.chats,
        "on-policy distillation answers problems of tasks: name some with --post.tasks, "
        "and no post.chats.",
    )
    need(
        post.cross_entropy == 0,
        f"post.cross_entropy is {post.cross_entropy}: it learns the tokens of given "
        "answers, and post.on_policy has none, set it to 0.",
    )
    need(post.language != "mixed", "post.language mixed is for solved problems: choose en or zh.")
    for name in ("group", "max_new", "eval_problems"):
        need(
            getattr(post, name) > 0, f"post.{name} is {getattr(post, name)}: it must be at least 1."
        )
    need(
        train.batch % post.group == 0,
        f"train.batch {train.batch} must be a multiple of post.group {post.group}: a step "
        "learns from whole groups of answers.",
    )
    need(not train.batch_start, "train.batch_start is for pre-training: a rollout has one size.")
    need(
        post.max_new < config.data.sequence,
        f"data.sequence {config.data.sequence} must hold a prompt and post.max_new "
        f"{post.max_new} tokens.",
    )


def shown(texts: dict[str, Any], micro: int, place: Any) -> dict[str, jax.Array]:
    """The rows of a rollout as micro-batches {"tokens", "segments", "trained"} [A, B, T + 1]: what
    was drawn is trained on."""
    rows = {
        "tokens": texts["tokens"],
        "segments": texts["segments"],
        "trained": jnp.pad(texts["mask"], ((0, 0), (1, 0))),
    }
    return minibatch(rows, np.arange(len(texts["tokens"])), micro, place)
