"""The record of reinforcement: figures of a rollout, rollouts.jsonl, and the closing lines."""

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seekjax.checkpoint.write import warn
from seekjax.post.plots import plot_rollouts
from seekjax.post.rollout.grader import GradedSample
from seekjax.post.rollout.problems import TaskProblems
from seekjax.post.rollout.sampler import Texts, fetch
from seekjax.post.rollout.statistics import interval
from seekjax.train.record import append, keep_until

LOGGED = 4  # groups of each rollout that are written


class RolloutLog:
    """Writes the first groups of each rollout to a file; never modifies the training state."""

    def __init__(self, path: Path, group: int):
        self.path = path
        self.group = group
        self._started = False
        self._failed = False  # a write, which was said

    def start(self, step: int) -> None:
        """Before the first rollout, drop what an interrupted run wrote beyond this step."""
        if not self._started and jax.process_index() == 0:
            keep_until(self.path, step)
        self._started = True

    def write(self, step: int, graded: Sequence[GradedSample], advantage_B: np.ndarray) -> None:
        """Append the first groups of the rollout that the step after `step` learns from."""
        if jax.process_index() != 0:
            return
        groups = []
        logged = min(LOGGED * self.group, len(graded))
        for first in range(0, logged, self.group):
            members = slice(first, first + self.group)
            groups.append(group_record(graded[members], advantage_B[members]))
        try:
            append(self.path, json.dumps({"step": step + 1, "groups": groups}) + "\n")
        except OSError as error:
            if not self._failed:
                warn(f"{self.path} cannot be written ({error.strerror}): training goes on without")
            self._failed = True


def summary(graded: Sequence[GradedSample]) -> dict[str, float]:
    """Return means over samples: reward, its parts, accuracy, parsed, length, truncated.

    Samples whose reward failed are left out, and "failed" counts them; a Grader raises if no sample
    has a reward.
    """
    valid = with_reward(graded)
    means: dict[str, float] = {}
    for name in valid[0].parts:
        means[name] = float(np.mean([sample.parts[name] for sample in valid]))

    record = {"reward": float(np.mean([sample.reward for sample in valid]))}
    for name, mean in means.items():
        if name not in ("accuracy", "format"):
            record[f"reward/{name}"] = mean
    return record | {
        "accuracy": means.get("accuracy", 0.0),
        "parsed": means.get("format", 0.0),
        "length": float(np.mean([sample.tokens for sample in valid])),
        "truncated": float(np.mean([sample.truncated for sample in valid])),
        "failed": float(len(graded) - len(valid)),
    }


def with_reward(graded: Sequence[GradedSample]) -> list[GradedSample]:
    """Return the samples whose reward did not fail."""
    return [sample for sample in graded if not math.isnan(sample.reward)]


def mean_entropy(texts: Texts, valid_B: np.ndarray) -> float:
    """Return the mean entropy of the sampler at the tokens of valid samples, in nats."""
    entropy_BS, mask_BT = fetch((texts["entropy"], texts["mask"]))
    return float(entropy_BS[:, 1:][mask_BT & valid_B[:, None]].mean())


def held_out_figures(graded: Sequence[GradedSample]) -> tuple[dict[str, float], str]:
    """Return figures on held-out problems, and a sentence of them."""
    record = summary(graded)
    accuracies = [sample.parts.get("accuracy", 0.0) for sample in with_reward(graded)]
    low, high = (0.0, 1.0)
    if accuracies:
        low, high = interval(accuracies, len(accuracies))

    sentence = (
        f"{record['accuracy']:.1%} right ({low:.1%} to {high:.1%}, {len(accuracies)} distinct "
        f"problems), form {record['parsed']:.0%}, length {record['length']:.1f}"
    )
    if record["failed"]:
        sentence += f", {record['failed']:.0f} REWARDS FAILED"
    return record | {"accuracy_low": low, "accuracy_high": high}, sentence


def tasks_line(tasks: Sequence[str], problems: TaskProblems, wanted: int) -> str:
    """Return the tasks and how many held-out problems an evaluation has."""
    number = len(problems.distinct_held_out(wanted))
    held_out = f"{number} distinct held-out problems"
    if number < wanted:
        held_out += ", all there are"
    return f"{', '.join(tasks)} ({held_out})"


def closing_lines(step: int, folder: Path, tasks: Sequence[str]) -> list[str]:
    """Return the last lines of a run that drew rollouts; the first process draws the plots."""
    lines = []
    if jax.process_index() == 0:
        lines.append(f"pictures: {', '.join(map(str, plot_rollouts(folder)))}")
    rollouts = shlex.join(["seekjax", "rollouts", str(folder)])
    evaluation = shlex.join(["seekjax", "eval", str(folder), "--task", *tasks])
    return [
        *lines,
        f"checkpoint: {folder / 'checkpoints' / str(step)}",
        f"next: read what it wrote with {rollouts}",
        f"  or measure it with {evaluation}",
    ]


def group_record(
    graded: Sequence[GradedSample], advantage_G: Sequence[float] | np.ndarray
) -> dict[str, Any]:
    """Return a group as rollouts.jsonl has it."""
    samples = []
    for sample, advantage in zip(graded, advantage_G):
        record = {
            "text": sample.text,
            "reward": None if math.isnan(sample.reward) else sample.reward,
            "parts": sample.parts,
            "reason": sample.reason,
            "advantage": round(float(advantage), 6),
            "tokens": sample.tokens,
            "truncated": sample.truncated,
        }
        if sample.error:
            record["error"] = sample.error
        samples.append(record)

    problem = graded[0].problem
    return {
        "task": problem.task,
        "level": problem.level,
        "prompt": problem.prompt,
        "samples": samples,
    }
