"""On-policy distillation: the student learns the teacher's probabilities of its own answers.

    # GKD, 2306.13649, with lambda = 1; no gradient through the draws
    L = E_{x ~ student} mean_t KL(student || teacher)(. | x_<t)

The student is corrected where its own mistakes lead it, which no given text shows. Nothing is
rewarded: accuracy is only reported. The gradient goes through the whole distribution of every token
(or the teacher's most likely tokens), not through the one that was drawn, so that the expectation
over it is exact.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.config import Config, DistillConfig
from seekjax.errors import need
from seekjax.post.distill import distillation
from seekjax.post.distill.criterion import Measure, Step, compile_match, compile_taught_gradient
from seekjax.post.distill.distillation import plot_distance, read_inputs, teacher_line
from seekjax.post.distill.teacher import Teacher
from seekjax.post.rollout.grader import GradedSample, Grader
from seekjax.post.rollout.log import (
    RolloutLog,
    closing_lines,
    held_out_figures,
    mean_entropy,
    summary,
    tasks_line,
)
from seekjax.post.rollout.problems import TaskProblems
from seekjax.post.rollout.reward import make_reward
from seekjax.post.rollout.rollouts import Rollouts
from seekjax.post.rollout.sampler import Sampler, Texts, minibatch
from seekjax.post.rollout.statistics import has_reward
from seekjax.seeds import root_key
from seekjax.train.held_out import add_up
from seekjax.train.lora import make_spec
from seekjax.train.state import RunSpec, TrainState
from seekjax.train.step import BATCH
from seekjax.train.training import Parts
from sharding.rules import sharding, split_by

Batch = dict[str, jax.Array]

REWARDS = (("accuracy", 1.0), ("format", 0.1))  # reported, not trained on
TRAIN, HELD_OUT = 0, 1  # uses of the random key


class OnPolicy:
    """The train.training.Training of `python train.py distill --distill.on-policy`."""

    shared_position = True

    def __init__(self, config: Config):
        self.distill = check(config)
        self.config = config
        self.packed, self.teacher, self.chat_format = read_inputs(config, self.distill)
        self.tokenizer = self.chat_format.tokenizer
        reward = make_reward(REWARDS, self.distill.language, self.distill.sampling.max_new)
        self.grader = Grader(self.chat_format.chat, self.tokenizer, reward)
        self.problems = TaskProblems(self.distill.tasks, config.train.seed)

    def manifest(self) -> dict[str, Any]:
        """Return what exactly is read, for data.json."""
        return {
            "tasks": list(self.distill.tasks),
            "init": str(self.config.init),
            "teacher": self.teacher.fingerprint,
            "tokenizer": self.tokenizer.fingerprint(),
        }

    def build(self, folder: Path) -> Parts:
        """Compile on the mesh in use. Raises ConfigError if it does not divide the problems."""
        config, sampling = self.packed, self.distill.sampling
        problems = config.train.batch // sampling.group
        need(
            problems % split_by("batch") == 0,
            f"train.batch {config.train.batch} holds {problems} problems of distill.sampling.group "
            f"{sampling.group} answers: they must be a multiple of the {split_by('batch')} devices "
            "that share a batch.",
        )

        # The student's update
        spec = make_spec(config)
        step, measure = compile_match(spec, self.distill, self.tokenizer.bytes_V, self.teacher)

        # Its answers
        sampler = Sampler(
            config.model,
            config.kernel,
            sampling,
            config.data.sequence,
            self.tokenizer,
            trained=False,
        )
        answers = TaughtAnswers(
            spec, self.distill, Rollouts(sampler, self.grader), self.problems, self.teacher
        )
        updates = AnswerUpdates(answers, step, folder)

        self.chat_format.chat.save(folder, jax.process_index() == 0)
        return Parts(
            spec=spec,
            source=updates,
            step=updates.step,
            evaluate=HeldOutAnswers(answers, measure),
            report=OnPolicyReport(
                config, self.distill, self.teacher, self.tokenizer.size, self.problems
            ),
            gradient=compile_taught_gradient(
                spec, self.distill, self.tokenizer.bytes_V, self.teacher
            ),
        )


class TaughtAnswers:
    """Draws the student's answers, with the teacher's targets of them."""

    def __init__(
        self,
        spec: RunSpec,
        distill: DistillConfig,
        rollouts: Rollouts,
        problems: TaskProblems,
        teacher: Teacher,
    ):
        self.spec = spec
        self.distill = distill
        self.rollouts = rollouts
        self.problems = problems
        self.teacher = teacher

    def training(
        self, state: TrainState, first: int, number: int
    ) -> tuple[Texts, list[GradedSample]]:
        """Return the answers of rollout `number` to training problems `first` and on, graded."""
        group = self.distill.sampling.group
        problems = self.problems.training(first, self.spec.config.train.batch // group)
        return self.draw(state, problems, group, self.key(TRAIN, number))

    def held_out(self, state: TrainState, first: int) -> tuple[Texts, list[GradedSample]]:
        """Return one answer to each of the held-out problems `first` and on, graded.

        A batch that they do not fill is filled up with texts that are not measured.
        """
        size = self.spec.config.train.batch
        problems = self.problems.distinct_held_out(self.distill.sampling.eval_problems)
        chunk = problems[first : first + size]
        key = self.key(HELD_OUT, first)
        variables = self.spec.variables(state.replace(params=state.averaged))
        texts, graded = self.rollouts.draw(variables, chunk, 1, key, size=size)
        measured_B = np.arange(size) < len(chunk)
        return texts | {"mask": texts["mask"] & measured_B[:, None]}, graded

    def draw(
        self, state: TrainState, problems: list, group: int, key: jax.Array
    ) -> tuple[Texts, list[GradedSample]]:
        """Return `group` answers to each problem, graded."""
        return self.rollouts.draw(self.spec.variables(state), problems, group, key)

    def taught(self, texts: Texts) -> Batch:
        """Return answers as the batch of a step, with the teacher's targets."""
        train = self.spec.config.train
        batch = as_samples(texts, train.batch // train.rows)
        return batch | self.teacher(batch)

    def key(self, use: int, number: int) -> jax.Array:
        """Return the root of a rollout's randomness, for one use."""
        root = root_key(self.spec.config.train.seed)
        return jax.random.fold_in(jax.random.fold_in(root, use), number)


class AnswerUpdates:
    """A train.training.Source that draws answers for each step, and the step."""

    def __init__(self, answers: TaughtAnswers, step: Step, folder: Path):
        self.answers = answers
        self.log = RolloutLog(folder / "rollouts.jsonl", answers.distill.sampling.group)
        self._step = step
        self.number = 0  # of the next rollout
        self.cursor = 0  # the next training problem
        self.tokens_drawn = 0
        self.metrics: dict[str, float] = {}  # of this rollout

    def batch(self, step: int, state: TrainState) -> Batch:
        """Return answers to the next problems, with the teacher's targets."""
        self.log.start(step)
        texts, graded = self.answers.training(state, self.cursor, self.number)
        self.cursor += len(graded) // self.log.group
        self.number += 1

        self.tokens_drawn = sum([sample.tokens for sample in graded])
        self.log.write(step, graded, np.zeros(len(graded), np.float32))
        self.metrics = summary(graded) | {"entropy": mean_entropy(texts, has_reward(graded))}
        return self.answers.taught(texts)

    def step(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Any]]:
        """Make one optimizer step; donates the state."""
        state, metrics = self._step(state, batch)
        return state, metrics | self.metrics

    def tokens(self, step: int) -> int:
        """Return the tokens that the student drew."""
        return self.tokens_drawn

    def get_state(self) -> Any:
        """Return the position, and which teacher the run learns from."""
        fingerprint = self.answers.teacher.fingerprint
        return {"teacher": fingerprint, "batches": [self.number, self.cursor]}

    def set_state(self, position: Any) -> None:
        """Go on from a position. Raises DataError if the teacher is another."""
        self.answers.teacher.check_resumed(position["teacher"])
        self.number, self.cursor = position["batches"]


class HeldOutAnswers:
    """Accuracy on held-out problems, one answer each, and the teacher's distance on the answers."""

    def __init__(self, answers: TaughtAnswers, measure: Measure):
        self.answers = answers
        self.measure = measure

    def __call__(self, state: TrainState) -> tuple[dict[str, float], str]:
        """Return the held-out figures, and a sentence of them."""
        wanted = self.answers.distill.sampling.eval_problems
        problems = self.answers.problems.distinct_held_out(wanted)
        graded: list[GradedSample] = []
        figures = []
        for first in range(0, len(problems), self.answers.spec.config.train.batch):
            texts, samples = self.answers.held_out(state, first)
            graded += samples
            batch = self.answers.taught(texts)
            figures.append(self.measure(state.averaged, state, batch))

        total = add_up(figures)
        record, sentence = held_out_figures(graded)
        kl = total["kl"] / max(total["tokens"], 1)
        return record | {"kl": kl}, f"{sentence}, kl {kl:.4f}"


class OnPolicyReport:
    """The words of an on-policy distillation."""

    def __init__(
        self,
        config: Config,
        distill: DistillConfig,
        teacher: Teacher,
        token_ids: int,
        problems: TaskProblems,
    ):
        self.config, self.distill = config, distill
        self.teacher = teacher
        self.token_ids = token_ids
        self.problems = problems

    def header(self) -> list[str]:
        """Return the lines that state what will be read and trained."""
        sampling = self.distill.sampling
        problems = self.config.train.batch // sampling.group
        return [
            f"tasks: {tasks_line(self.distill.tasks, self.problems, sampling.eval_problems)}; "
            f"{problems} problems x {sampling.group} "
            f"answers of up to {sampling.max_new} tokens a step, by {self.config.init}; "
            f"{self.token_ids} token ids",
            teacher_line(self.teacher),
        ]

    def extra_metrics(self, metrics: dict[str, float]) -> dict[str, float]:
        """Return nothing: the metrics are complete."""
        return {}

    def progress(self, record: dict[str, Any]) -> str:
        """Return what the progress line shows of a step."""
        return (
            f"kl {record['kl']:.4f}  right {record['accuracy']:.1%}  form "
            f"{record['parsed']:.0%}  length {record['length']:.0f}  entropy "
            f"{record['entropy']:.2f}"
        )

    def finish(self, state: TrainState, folder: Path) -> list[str]:
        """Return the closing lines of a run; draws its plots into the folder."""
        closing = closing_lines(int(state.step), folder, self.distill.tasks)
        return [*plot_distance(folder), *closing]


def as_samples(texts: Texts, micro: int) -> Batch:
    """Return a rollout as {"tokens", "segments", "trained"} [A, B, T + 1] of `micro` micro-batches.

    What was drawn is trained on.
    """
    rows = {
        "tokens": texts["tokens"],
        "segments": texts["segments"],
        "trained": jnp.pad(texts["mask"], ((0, 0), (1, 0))),
    }
    every_row = np.arange(len(texts["tokens"]))
    return minibatch(rows, every_row, micro, sharding(BATCH))


def check(config: Config) -> DistillConfig:
    """Return the settings. Raises ConfigError if they do not fit each other."""
    distill = distillation.check(config)
    sampling, train = distill.sampling, config.train
    need(
        not distill.save_logits,
        "distill.save_logits saves the teacher's log-probabilities of given answers, and "
        "distill.on_policy makes new ones every step: choose one.",
    )
    need(
        config.init is not None,
        "on-policy distillation learns from the student's own answers, so it starts from a model "
        "that gives some: name its folder with --init.",
    )
    need(
        distill.tasks and not distill.chats,
        "on-policy distillation answers problems of tasks: name some with --distill.tasks, and no "
        "distill.chats.",
    )
    need(
        distill.cross_entropy == 0,
        f"distill.cross_entropy is {distill.cross_entropy}: it learns the tokens of given answers, "
        "and distill.on_policy has none, set it to 0.",
    )
    need(
        distill.language != "mixed",
        "distill.language mixed is for solved problems: choose en or zh.",
    )

    # Sizes of a step
    need(
        train.batch % sampling.group == 0,
        f"train.batch {train.batch} must be a multiple of distill.sampling.group "
        f"{sampling.group}: a step learns from whole groups of answers.",
    )
    need(not train.batch_start, "train.batch_start is for pre-training: a rollout has one size.")
    need(
        sampling.max_new < config.data.sequence,
        f"data.sequence {config.data.sequence} must hold a prompt and distill.sampling.max_new "
        f"{sampling.max_new} tokens.",
    )
    return distill
