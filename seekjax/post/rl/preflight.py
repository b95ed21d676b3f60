"""Before reinforcement starts: sample, report what can be learnt, and stop if nothing can.

A run without signal fails silently: its loss is 0 and its curves are flat, for hours. One rollout
with much signal is enough to go ahead; a run is given up only after several.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from seekjax.config import GrpoConfig
from seekjax.config.recipes import objective_of
from seekjax.errors import RunError
from seekjax.post.rollout.grader import GradedSample
from seekjax.post.rollout.problems import TaskProblems
from seekjax.post.rollout.rollouts import Rollouts
from seekjax.post.rollout.statistics import has_signal, is_right
from seekjax.seeds import root_key
from seekjax.tasks.answer import TAGS
from seekjax.terminal import print_lines

SAMPLES = 512  # drawn before a run is given up,
ROLLOUTS = 16  # in at most this many rollouts
WARN_TRUNCATED = 0.2  # share cut off that is worth a warning
MIN_ACCURACY = 0.01  # pass@1 below which reinforcement on accuracy alone does not start
# Share of groups with signal below which a run does not start: fewer than one group in twenty, and
# most steps would learn from none.
MIN_SIGNAL = 0.05
CLEAR_SIGNAL = 0.2  # at which one rollout is enough to go ahead
FORM = "<think>...</think><answer>...</answer>"
KEY = 0x5EED  # sets these draws apart from those of training and evaluation


@dataclass(frozen=True)
class Findings:
    """What samples of training problems look like, as shares unless a comment says otherwise.

    Samples whose reward failed count in `samples` and `failed` alone.
    """

    samples: int  # how many
    group: int  # samples of each problem
    truncated: float
    form: float  # samples with the format that the reward requires
    right: float  # pass@1
    solved: float  # pass@G: groups with a right sample
    signal: float  # groups that are learnt from: see statistics.has_signal
    other: float  # groups in which a reward other than accuracy or the length penalty differs
    tagged: float  # samples with any of the format's tags
    failed: float  # samples whose reward failed
    reward: float  # mean
    reward_std: float
    fault: str  # the most common fault of format
    error: str  # of a reward that failed


def collect_findings(
    graded: Sequence[GradedSample], group: int, weights: dict[str, float], resample: bool = False
) -> Findings:
    """Summarise whole groups of samples.

    weights: of the reward's parts. resample: groups are filtered by their outcomes, in which
    rewards other than accuracy do not count.
    """
    groups: list[Sequence[GradedSample]] = []
    for first in range(0, len(graded), group):
        members = graded[first : first + group]
        groups.append([sample for sample in members if not math.isnan(sample.reward)])
    valid = list(chain.from_iterable(groups))

    def share(holds: Sequence[bool | float]) -> float:
        return sum(holds) / max(len(holds), 1)

    # Rewards that make a difference next to accuracy
    others = []
    for name, weight in weights.items():
        if weight and name not in ("accuracy", "length") and not resample:
            others.append(name)
    differing = []
    for members in groups:
        values = [parts_of(sample, others) for sample in members]
        differing.append(len(set(values)) > 1)

    rewards = [sample.reward for sample in valid]
    faults = Counter(sample.reason for sample in valid if not sample.parts.get("format"))
    errors = [sample.error for sample in graded if sample.error]
    return Findings(
        samples=len(graded),
        group=group,
        truncated=share([sample.truncated for sample in valid]),
        form=share([sample.parts.get("format", 0.0) for sample in valid]),
        right=share([is_right(sample) for sample in valid]),
        solved=share([any(map(is_right, members)) for members in groups]),
        signal=float(has_signal(graded, group, resample).mean()),
        other=share(differing),
        tagged=share([_has_tag(sample.text) for sample in valid]),
        failed=share([math.isnan(sample.reward) for sample in graded]),
        reward=float(np.mean(rewards)) if rewards else math.nan,
        reward_std=float(np.std(rewards)) if rewards else math.nan,
        fault=faults.most_common(1)[0][0] if faults else "",
        error=errors[0] if errors else "",
    )


def parts_of(sample: GradedSample, names: Sequence[str]) -> tuple[float, ...]:
    """Return some parts of a sample's reward."""
    return tuple([sample.parts[name] for name in names])


def _has_tag(text: str) -> bool:
    return any(tag in text for tag in TAGS)


def diagnose(findings: Findings, accuracy: float, max_new: int) -> str:
    """Return why nothing can be learnt and what to do, or "" if something can.

    accuracy: the weight of that part of the reward.
    """
    samples = f"of {findings.samples} samples"
    if findings.failed > 0.5:
        return (
            f"the reward failed for {findings.failed:.0%} {samples} ({findings.error}): repair it "
            "first."
        )
    started = not accuracy or findings.right >= MIN_ACCURACY or findings.other >= MIN_SIGNAL
    if findings.signal >= MIN_SIGNAL and started:
        return ""

    # Faults of format
    if findings.truncated > 0.9 and findings.right < MIN_ACCURACY:
        reason = (
            f"{findings.truncated:.0%} {samples} were cut off at grpo.max_new {max_new} tokens "
            "before they ended, and so earn nothing: raise grpo.max_new, or teach the model to end "
            "its answers by SFT first."
        )
        if findings.tagged < 0.05:
            reason += (
                f" Hardly any has a tag of {FORM}: the model may not have seen this form of chat."
            )
        return reason
    if not findings.form and findings.tagged < 0.05:
        return (
            f"none {samples} has the form {FORM}, and hardly any has one of its tags: the model "
            "has not seen this form of chat. Fine-tune it on solved problems first (python "
            "train.py sft), or name the chat template it was trained with by --grpo.template."
        )
    if not findings.form:
        return (
            f"none {samples} has the form {FORM}; the most common fault: {findings.fault}. "
            "Fine-tune the model on solved problems first (python train.py sft), or reward the "
            "form too with --grpo.rewards."
        )

    # Problems that are too easy or too hard
    little = (
        f"only {findings.signal:.1%} of the groups of {findings.group} have samples that differ, "
        f"below {MIN_SIGNAL:.0%}, so that most steps would learn nothing"
    )
    if findings.right == 1:
        return (
            f"every one {samples} is right, so there is nothing to learn: take a harder level or "
            "another task."
        )
    if not accuracy and findings.signal:
        return f"{little} {samples}: raise grpo.temperature, or reward what differs between them."
    if not accuracy:
        return (
            f"all samples of a problem earn the same reward in {samples}: raise grpo.temperature, "
            "or reward what differs between them."
        )
    if findings.right == 0:
        return (
            f"none {samples} is right and no other reward differs between them "
            f"({findings.form:.0%} have the form): take an easier level, or fine-tune the model on "
            "solved problems first (python train.py sft)."
        )
    if findings.right < MIN_ACCURACY:
        table = [
            f"{p:.0%}: {signal_at(p, findings.group):.0%}" for p in (0.01, 0.03, 0.05, 0.1, 0.2)
        ]
        return (
            f"{findings.right:.1%} {samples} are right, and below {MIN_ACCURACY:.0%} reinforcement "
            "does not start, for hardly any group has both right and wrong samples (groups of "
            f"{findings.group} that do, by the share that is right: {', '.join(table)}). Take an "
            "easier level, or fine-tune the model on solved problems until 5% to 10% are right."
        )
    if findings.right > 0.5 and findings.signal:
        return (
            f"{findings.right:.1%} {samples} are right and {little}: take a harder level or "
            "another task, or raise grpo.temperature or grpo.group."
        )
    if findings.signal:
        return (
            f"{findings.right:.1%} {samples} are right, but {little}: raise grpo.temperature or "
            "grpo.group, or mix levels whose problems are neither trivial nor hopeless."
        )
    return (
        f"{findings.right:.1%} {samples} are right, but every group of {findings.group} is all "
        "right or all wrong: raise grpo.temperature or grpo.group, or mix levels whose problems "
        "are neither trivial nor hopeless."
    )


def signal_at(p: float, group: int) -> float:
    """Return the share of groups with both right and wrong samples, 1 - p^G - (1 - p)^G.

    p: the probability that a sample is right.
    """
    return 1 - p**group - (1 - p) ** group


def describe(findings: Findings, max_new: int) -> list[str]:
    """Return the findings as lines for the screen."""
    lines = [
        f"pre-flight: {findings.samples} samples of training problems: cut off "
        f"{findings.truncated:.0%}, form {findings.form:.0%}, right {findings.right:.1%} (one of "
        f"{findings.group}: {findings.solved:.0%})",
        f"    groups with signal {findings.signal:.0%}; reward {findings.reward:.3f}, standard "
        f"deviation {findings.reward_std:.3f}",
    ]

    # Warnings, which do not stop the run
    if findings.failed:
        lines.append(
            f"    A REWARD FAILED for {findings.failed:.0%} of them, which are left out: "
            f"{findings.error}"
        )
    if findings.truncated > WARN_TRUNCATED:
        lines.append(
            f"    {findings.truncated:.0%} are cut off at grpo.max_new {max_new} tokens and count "
            "as wrong: raise it if their answers are still to come"
        )
    if findings.right < MIN_ACCURACY and findings.other:
        lines.append(
            f"    hardly any is right: other rewards differ within {findings.other:.0%} of the "
            f"groups, but accuracy seldom starts below {MIN_ACCURACY:.0%}"
        )
    return lines


def preflight(
    rollouts: Rollouts,
    problems: TaskProblems,
    variables: dict[str, Any],
    grpo: GrpoConfig,
    seed: int,
    folder: Path,
) -> None:
    """Draw rollouts without learning from them, and write preflight.json into the folder.

    Raises RunError if they show that nothing can be learnt.
    """
    weights = rollouts.grader.reward.weights
    resample = objective_of(grpo).resample
    key = jax.random.fold_in(root_key(seed), KEY)
    is_first = jax.process_index() == 0
    graded: list[GradedSample] = []
    findings, reason, stop, clear = None, "", False, False

    # The first process decides, because the others have the rewards alone.
    enough = math.ceil(SAMPLES / (grpo.prompts * grpo.group))
    for number in range(min(ROLLOUTS, enough)):
        batch = problems.training(number * grpo.prompts, grpo.prompts)
        rollout_key = jax.random.fold_in(key, number)
        _, samples = rollouts.draw(variables, batch, grpo.group, rollout_key)
        graded += samples
        if is_first:
            findings = collect_findings(graded, grpo.group, weights, resample)
            reason = diagnose(findings, weights.get("accuracy", 0.0), grpo.max_new)
            clear = not reason and findings.signal >= CLEAR_SIGNAL
        stop = _broadcast(bool(reason))
        if _broadcast(clear):
            break

    if findings is not None:
        record = asdict(findings) | {"diagnosis": reason}
        (folder / "preflight.json").write_text(json.dumps(record, indent=1) + "\n")
        print_lines(describe(findings, grpo.max_new))
    if stop:
        raise RunError(
            f"the pre-flight stops the run: {reason or 'the first process prints the reason.'} To "
            "run all the same: --grpo.no-preflight."
        )


def _broadcast(value: bool) -> bool:
    """Return the first process's value in every process."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.array(value)))
