"""Statistics of graded samples: pass@k, cons@k, and their confidence intervals."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from seekjax.post.rollout.grader import GradedSample
from seekjax.tasks.answer import Parsed, parse

Z = 1.959963984540054  # standard deviations that hold 95 % of a normal distribution
METHOD = (
    "95 %, Wilson's, over problems: of p (1 - p) / error^2 tries, the error of the mean counting "
    "problems and not their samples as independent"
)


def pass_at(k: int, samples: int, right: int) -> float:
    """Return the probability that k of a problem's samples contain a right one.

    1 - C(n - c, k) / C(n, k), drawn without replacement (2107.03374, equation 1).
    """
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def consensus(answers: Sequence[str | None], right: Sequence[bool]) -> float:
    """Return whether the most frequent answer is right; in a tie, the share of them that is.

    A sample without an answer, None, has no vote.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return 0.0

    most = max(votes.values())
    leading = [answer for answer, count in votes.items() if count == most]
    correct = 0
    for answer in leading:
        correct += right[answers.index(answer)]
    return correct / len(leading)


def interval(values: Sequence[float], tries: float) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean of values from 0 to 1, one per problem.

    Wilson's score interval, which does not vanish at 0 and 1, for as many tries as would give this
    mean its standard error: the number of values if they are 0 and 1, at most `tries` if each is a
    mean of several.
    """
    mean = sum(values) / len(values)
    deviations = [(value - mean) ** 2 for value in values]
    variance = sum(deviations) / len(values) ** 2  # of the mean
    if variance > 0:
        tries = min(tries, mean * (1 - mean) / variance)
    elif mean in (0, 1):
        tries = len(values)

    center = mean + Z**2 / (2 * tries)
    width = Z * math.sqrt(mean * (1 - mean) / tries + Z**2 / (4 * tries**2))
    scale = 1 + Z**2 / tries
    low = (center - width) / scale
    high = (center + width) / scale
    return max(0.0, low), min(1.0, high)


def is_right(sample: GradedSample) -> bool:
    """Return whether the verifier gives full marks."""
    return sample.parts.get("accuracy", 0.0) >= 1


def has_reward(graded: Sequence[GradedSample]) -> np.ndarray:
    """Return which samples have a reward, [B]; those whose reward failed have none."""
    rewards = [sample.reward for sample in graded]
    return np.isfinite(np.array(rewards, np.float32))


def has_signal(graded: Sequence[GradedSample], group: int, outcomes: bool) -> np.ndarray:
    """Return of each group whether its samples differ in reward, [P]; with `outcomes`, in outcome.

    Samples whose reward failed make no difference.
    """
    values = []
    for sample in graded:
        values.append(sample.outcome if outcomes else sample.reward)
    value_PG = np.array(values, np.float32).reshape(-1, group)
    high_P = np.where(np.isfinite(value_PG), value_PG, -np.inf).max(1)
    low_P = np.where(np.isfinite(value_PG), value_PG, np.inf).min(1)
    return high_P > low_P


def has_error(sample: GradedSample) -> bool:
    """Return whether the verifier failed."""
    return bool(sample.error)


def answer_of(sample: GradedSample, think_in_prompt: bool) -> str | None:
    """Return the answer that a sample votes for, or None.

    Blanks are normalised, except in an answer of several lines: in a program they have a meaning.
    """
    parsed = None if sample.truncated else parse(sample.text, think_in_prompt)
    if not isinstance(parsed, Parsed):
        return None
    return parsed.answer if "\n" in parsed.answer else " ".join(parsed.answer.split())


def figures(groups: Sequence[Sequence[GradedSample]], think_in_prompt: bool) -> dict[str, Any]:
    """Return all statistics of equally many samples of each problem.

    {"pass@1": [mean, low, high], "pass@2", ..., "cons@k", "form", ...}: pass@k is given for powers
    of two and for the number of samples. A problem whose verifier failed for some sample is left
    out, and counted under "failed".
    """
    valid = []
    for group in groups:
        if not any(map(has_error, group)):
            valid.append(group)
    record: dict[str, Any] = {
        "problems": len(valid),
        "samples": len(groups[0]),
        "failed": len(groups) - len(valid),
    }
    if not valid:
        return record

    # pass@k and cons@k
    size = len(valid[0])
    right = [list(map(is_right, group)) for group in valid]
    for k in powers_and(size):
        values = [pass_at(k, size, sum(row)) for row in right]
        record[f"pass@{k}"] = _with_interval(values, len(valid) * size / k)
    if size > 1:
        values = []
        for group, row in zip(valid, right):
            answers = [answer_of(sample, think_in_prompt) for sample in group]
            values.append(consensus(answers, row))
        record[f"cons@{size}"] = _with_interval(values, len(valid))

    # Means over samples
    record["interval"] = METHOD
    form, truncated, length = 0.0, 0, 0
    for sample in chain.from_iterable(valid):
        form += sample.parts["format"]
        truncated += sample.truncated
        length += sample.tokens
    samples = len(valid) * size
    record["form"] = form / samples
    record["truncated"] = truncated / samples
    record["length"] = length / samples
    return record


def powers_and(size: int) -> list[int]:
    """Return the powers of two below a size, and the size."""
    sizes = []
    power = 1
    while power < size:
        sizes.append(power)
        power *= 2
    return [*sizes, size]


def sentence(record: dict[str, Any]) -> str:
    """Return the most important of the figures in words."""
    last = record["samples"]
    names = ["pass@1"]
    if last > 1:
        names += [f"pass@{last}", f"cons@{last}"]

    parts = []
    for name in names:
        mean, low, high = record[name]
        parts.append(f"{name} {mean:.1%} ({low:.1%} to {high:.1%})")
    if "floor" in record:
        floor = [f"{name} {value:.1%}" for name, value in record["floor"].items()]
        parts.append(f"a random valid answer {', '.join(floor)}")
    parts.append(
        f"form {record['form']:.0%}, truncated {record['truncated']:.0%}, "
        f"{record['length']:.1f} tokens"
    )
    if record["failed"]:
        parts.append(f"THE VERIFIER FAILED on {record['failed']} problems, which are left out")
    return "; ".join(parts)


def _with_interval(values: Sequence[float], tries: float) -> list[float]:
    mean = sum(values) / len(values)
    low, high = interval(values, tries)
    return [round(mean, 6), round(low, 6), round(high, 6)]
