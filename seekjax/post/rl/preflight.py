"""Before reinforcement starts: sample as it will, say what there is to learn from, and stop with a
diagnosis where there is nothing.

A run without signal fails silently: its loss is 0 and its curves are flat, for hours. A rollout
with signal is enough to go ahead; a run is given up only after several.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.experimental import multihost_utils

from seekjax.errors import RunError
from seekjax.post.rollout.grader import Judged
from seekjax.post.rollout.statistics import is_right
from seekjax.tasks.answer import TAGS
from seekjax.train.state import TrainState

if TYPE_CHECKING:
    from seekjax.post.rl.grpo import Reinforcement

SAMPLES, ROLLOUTS = (
    512,
    16,
)  # drawn before a run is given up: so many samples, in at most so many rollouts
MANY = 0.2  # share cut off that is worth a warning
HOPELESS = 0.01  # pass@1 below which reinforcement on accuracy alone does not start
FORM = "<think>...</think><answer>...</answer>"
KEY = 0x5EED  # sets these draws apart from those of training and evaluation


@dataclass(frozen=True)
class Findings:
    """What samples of training problems look like; shares but for `samples`, `group` and the last
    lines."""

    samples: int
    group: int
    truncated: float
    form: float
    right: float  # pass@1
    solved: float  # pass@G: groups with a right sample
    signal: float  # groups whose rewards differ
    other: float  # groups told apart by another reward than accuracy
    tagged: float  # samples with any of the tags of the form
    failed: float  # samples whose reward failed
    reward: float  # mean
    reward_std: float
    fault: str  # the commonest of form
    error: str  # of a reward that failed


def find(judged: Sequence[Judged], group: int, weights: dict[str, float]) -> Findings:
    """Look at whole groups of samples; `weights` are those of the reward's parts."""
    groups = [judged[at : at + group] for at in range(0, len(judged), group)]
    whole = [[one for one in some if not math.isnan(one.reward)] for some in groups]
    others = [name for name, weight in weights.items() if weight and name != "accuracy"]
    rewards = [one.reward for some in whole for one in some]

    def share(samples):
        return sum(samples) / len(judged)

    def differ(values):
        return sum(len(set(some)) > 1 for some in values) / len(groups)

    faults = Counter(one.reason for one in judged if not one.parts.get("format"))
    return Findings(
        samples=len(judged),
        group=group,
        truncated=share(one.truncated for one in judged),
        form=share(one.parts.get("format", 0.0) for one in judged),
        right=share(map(is_right, judged)),
        solved=sum(any(map(is_right, some)) for some in groups) / len(groups),
        signal=differ([one.reward for one in some] for some in whole),
        other=differ([tuple(one.parts[name] for name in others) for one in some] for some in whole),
        tagged=share(any(tag in one.text for tag in TAGS) for one in judged),
        failed=share(math.isnan(one.reward) for one in judged),
        reward=float(np.mean(rewards)) if rewards else math.nan,
        reward_std=float(np.std(rewards)) if rewards else math.nan,
        fault=faults.most_common(1)[0][0] if faults else "",
        error=next((one.error for one in judged if one.error), ""),
    )


def diagnose(found: Findings, accuracy: float, max_new: int) -> str:
    """Why nothing can be learnt, and what to do; "" where something can. `accuracy`: the weight of
    that part."""
    count = f"of {found.samples} samples"
    if found.failed > 0.5:
        return f"the reward failed for {found.failed:.0%} {count} ({found.error}): repair it first."
    if found.other or (found.signal and (not accuracy or found.right >= HOPELESS)):
        return ""
    if found.truncated > 0.9 and found.right < HOPELESS:
        return (
            f"{found.truncated:.0%} {count} were cut off at post.max_new {max_new} tokens "
            "before they ended, and so earn nothing: raise post.max_new, or "
            "teach the model to end its answers by SFT first."
            + (
                f" Hardly one has any tag of {FORM}: the model may not have seen this form of chat."
                if found.tagged < 0.05
                else ""
            )
        )
    if not found.form and found.tagged < 0.05:
        return (
            f"none {count} has the form {FORM}, and hardly one has any of its tags: the "
            "model has not seen this form of "
            "chat. Fine-tune it on solved problems first (python train.py sft), or name "
            "the chat template it knows with --post.template."
        )
    if not found.form:
        return (
            f"none {count} has the form {FORM}; the commonest fault: {found.fault}. "
            "Fine-tune the model on solved problems "
            "first (python train.py sft), or reward the form too with --post.rewards."
        )
    if found.right == 1:
        return (
            f"every one {count} is right, so there is nothing to learn: take a harder level "
            "or another task."
        )
    if not accuracy:
        return (
            f"all samples of a problem earn the same reward in {count}: raise "
            "post.temperature, or reward what differs between them."
        )
    if found.right == 0:
        return (
            f"none {count} is right and no other reward tells them apart "
            f"({found.form:.0%} have the form): take an easier level, or fine-tune the "
            "model on solved problems first (python train.py sft)."
        )
    if found.right < HOPELESS:
        chances = ", ".join(
            f"{p:.0%}: {signal_at(p, found.group):.0%}" for p in (0.01, 0.03, 0.05, 0.1, 0.2)
        )
        return (
            f"{found.right:.1%} {count} are right, and below {HOPELESS:.0%} reinforcement "
            "does not start, for hardly any group has both right and wrong "
            f"samples (groups of {found.group} that do, by the share that is right: "
            f"{chances}). Take an easier level, or fine-tune the model on solved "
            "problems until 5% to 10% are right."
        )
    return (
        f"{found.right:.1%} {count} are right, but every group of {found.group} is all "
        "right or all wrong: raise post.temperature or post.group, or "
        "mix levels whose problems are neither trivial nor hopeless."
    )


def signal_at(p: float, group: int) -> float:
    """The share of groups that hold both right and wrong samples, where each is right with
    probability p: 1 - p^G - (1 - p)^G."""
    return 1 - p**group - (1 - p) ** group


def lines(found: Findings, max_new: int) -> list[str]:
    """What is found, for the screen."""
    said = [
        f"pre-flight: {found.samples} samples of training problems: cut off "
        f"{found.truncated:.0%}, form {found.form:.0%}, "
        f"right {found.right:.1%} (one of {found.group}: {found.solved:.0%})",
        f"    groups with signal {found.signal:.0%}; reward {found.reward:.3f}, standard "
        f"deviation {found.reward_std:.3f}",
    ]
    if found.failed:
        said.append(
            f"    A REWARD FAILED for {found.failed:.0%} of them, which teach nothing: "
            f"{found.error}"
        )
    if found.truncated > MANY:
        said.append(
            f"    {found.truncated:.0%} are cut off at post.max_new {max_new} tokens and "
            "count as wrong: raise it if their answers are still to come"
        )
    if found.right < HOPELESS and found.other:
        said.append(
            "    hardly any is right: other rewards tell apart the samples of "
            f"{found.other:.0%} of the groups, but accuracy seldom starts "
            f"below {HOPELESS:.0%}"
        )
    return said


def preflight(stage: "Reinforcement", state: TrainState, folder: Path) -> None:
    """Draw rollouts that are learnt from by nobody, write preflight.json, and raise RunError where
    they show that nothing can be learnt."""
    post, weights = stage.config.post, stage.judge.reward.weights
    variables = {"params": stage.plan.weights(state.params, state.frozen), "balance": state.balance}
    key, judged, first = (
        jax.random.fold_in(jax.random.key(stage.config.train.seed), KEY),
        [],
        jax.process_index() == 0,
    )
    for number in range(min(ROLLOUTS, -(-SAMPLES // stage.rows))):
        problems = stage.judge.training(number * post.prompts, post.prompts)
        texts = stage.sampler(
            variables,
            [stage.judge.prompt(problem) for problem in problems],
            post.group,
            jax.random.fold_in(key, number),
        )
        judged += stage.judge(texts, problems, post.group)
        if first:  # the others know the rewards alone
            found = find(judged, post.group, weights)
            reason = diagnose(found, weights.get("accuracy", 0.0), post.max_new)
        if not _told(first and bool(reason)):
            break
    stop = _told(first and bool(reason))
    if first:
        (folder / "preflight.json").write_text(
            json.dumps(asdict(found) | {"diagnosis": reason}, indent=1) + "\n"
        )
        print("\n".join(lines(found, post.max_new)), flush=True)
    if stop:
        raise RunError(
            "the pre-flight stops the run: "
            f"{reason if first else 'the first process says why.'} To run all the same: "
            "--post.preflight False."
        )


def _told(value: bool) -> bool:
    """What the first process says, in every process."""
    return (
        value
        if jax.process_count() == 1
        else bool(multihost_utils.broadcast_one_to_all(np.array(value)))
    )
