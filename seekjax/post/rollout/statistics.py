"""What samples of problems say of a model: pass@k, cons@k, and how sure that is. Pure functions of
what was judged.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from seekjax.post.rollout.grader import Judged
from seekjax.tasks.answer import Parsed, parse

Z = 1.959963984540054  # standard deviations that hold 95 % of a normal distribution
METHOD = (
    "95 %, Wilson's, over problems: of p (1 - p) / error^2 tries, the error of the mean "
    "counting problems and not their samples as independent"
)


def pass_at(k: int, samples: int, right: int) -> float:
    """How likely k of a problem's samples, drawn without putting back, hold a right one: 1 - C(n -
    c, k) / C(n, k) (2107.03374, equation 1).
    """
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def consensus(answers: Sequence[str | None], right: Sequence[bool]) -> float:
    """Whether the answer given most often is right; of several equally often, the share that is.
    None, for a sample without an answer, has no vote.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return 0.0
    most = [answer for answer, count in votes.items() if count == max(votes.values())]
    return sum(right[answers.index(answer)] for answer in most) / len(most)


def interval(values: Sequence[float], tries: float) -> tuple[float, float]:
    """Where the mean of values from 0 to 1, one per problem, lies with 95 % confidence.

    Wilson's score interval, which does not vanish at 0 and 1, of as many tries as would have the
    error of this mean: the values themselves where they are 0 and 1, at most `tries` where they are
    means of several.
    """
    mean = sum(values) / len(values)
    square = sum((value - mean) ** 2 for value in values) / len(values) ** 2
    tries = (
        min(tries, mean * (1 - mean) / square)
        if square > 0
        else len(values)
        if mean in (0, 1)
        else tries
    )
    center, wide = (
        mean + Z**2 / (2 * tries),
        Z * math.sqrt(mean * (1 - mean) / tries + Z**2 / (4 * tries**2)),
    )
    return max(0.0, (center - wide) / (1 + Z**2 / tries)), min(
        1.0, (center + wide) / (1 + Z**2 / tries)
    )


def is_right(one: Judged) -> bool:
    """Whether the verifier is content, without reserve."""
    return one.parts.get("accuracy", 0.0) >= 1


def answer_of(one: Judged, think_in_prompt: bool) -> str | None:
    """What a sample votes for: its answer, blanks apart, unless it has several lines, as a program
    whose blanks mean something.
    """
    parsed = None if one.truncated else parse(one.text, think_in_prompt)
    if not isinstance(parsed, Parsed):
        return None
    return parsed.answer if "\n" in parsed.answer else " ".join(parsed.answer.split())


def figures(groups: Sequence[Sequence[Judged]], think_in_prompt: bool) -> dict[str, Any]:
    """All of it, from equally many samples of each problem: {"pass@1": [mean, low, high], "pass@2",
    ..., "cons@k", "form", ...}.

    pass@k is given for powers of two and the number of samples. A problem whose verifier failed for
    some sample is left out, and counted.
    """
    whole = [group for group in groups if not any(one.error for one in group)]
    seen: dict[str, Any] = {
        "problems": len(whole),
        "samples": len(groups[0]),
        "failed": len(groups) - len(whole),
    }
    if not whole:
        return seen
    size, right = len(whole[0]), [[is_right(one) for one in group] for group in whole]
    for k in sorted({1 << i for i in range(size.bit_length())} | {size}):
        values = [pass_at(k, size, sum(row)) for row in right]
        seen[f"pass@{k}"] = _with_interval(values, len(whole) * size / k)
    if size > 1:
        values = [
            consensus([answer_of(one, think_in_prompt) for one in group], row)
            for group, row in zip(whole, right)
        ]
        seen[f"cons@{size}"] = _with_interval(values, len(whole))
    samples = [one for group in whole for one in group]
    return seen | {
        "interval": METHOD,
        **{
            name: sum(values) / len(samples)
            for name, values in (
                ("form", [one.parts["format"] for one in samples]),
                ("truncated", [one.truncated for one in samples]),
                ("length", [one.tokens for one in samples]),
            )
        },
    }


def sentence(seen: dict[str, Any]) -> str:
    """The figures that one wants first."""
    last = seen["samples"]
    names = ["pass@1"] + ([f"pass@{last}", f"cons@{last}"] if last > 1 else [])
    parts = [
        f"{name} {seen[name][0]:.1%} ({seen[name][1]:.1%} to {seen[name][2]:.1%})" for name in names
    ]
    if "floor" in seen:
        parts.append(
            "a random valid answer "
            + ", ".join(f"{name} {value:.1%}" for name, value in seen["floor"].items())
        )
    parts.append(
        f"form {seen['form']:.0%}, truncated {seen['truncated']:.0%}, {seen['length']:.1f} tokens"
    )
    return "; ".join(parts) + (
        f"; THE VERIFIER FAILED on {seen['failed']} problems, which are left out"
        if seen["failed"]
        else ""
    )


def _with_interval(values: Sequence[float], tries: float) -> list[float]:
    return [round(x, 6) for x in (sum(values) / len(values), *interval(values, tries))]
