"""Rewards by rule, in named parts, each with a reason.

Reinforcement finds every hole in a verifier, and a verifier's own failure must not look like a
wrong answer.

    weights = {"accuracy": 1.0, "format": 1.0, "language": 0.5, "my_module:function": 0.1}
    reward = Reward(weights, language="en")
    scored = reward(problem, text, tokens=52, truncated=False, think_in_prompt=True)
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import NamedTuple

from seekjax.errors import need
from seekjax.registry import Registry, is_foreign
from seekjax.tasks import Grade, Problem, find_task
from seekjax.tasks.answer import Invalid, Parsed, parse

LANGUAGES = ("en", "zh")
OVERLONG = 0.2  # share of max_new that the length penalty takes if the recipe does not say

_CHINESE = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
# The last alternative: words of yet another language.
_WORDS = re.compile(rf"(?P<zh>[{_CHINESE}])|(?P<en>[{_LATIN}]+)|[^\W\d_{_CHINESE}{_LATIN}]+")


class Scored(NamedTuple):
    """A reward and its parts. `total` is NaN if a part failed: do not train on that sample."""

    total: float
    parts: dict[str, float]  # before their weights
    reason: str  # why the answer is right or wrong
    error: str = ""  # the part that failed and how


class Completion(NamedTuple):
    """An answer as the parts of a reward read it."""

    problem: Problem
    text: str
    tokens: int
    grade: Grade
    parsed: Parsed | Invalid


@dataclass(frozen=True)
class RewardSettings:
    """Settings of single parts."""

    language: str = "en"  # that the part "language" pays for
    limit: int = 0  # tokens that a completion may have
    cache: int = 0  # of these, tokens at the end over which the part "length" falls to -1


Part = Callable[[Completion, RewardSettings], float]


def accuracy(completion: Completion, settings: RewardSettings) -> float:
    """Return the task's verdict on the answer; 0 if the format is wrong."""
    return completion.grade.reward


def well_formed(completion: Completion, settings: RewardSettings) -> float:
    """Return 1 if the completion parses and is not cut off, else 0."""
    return float(isinstance(completion.parsed, Parsed))


def language_consistency(completion: Completion, settings: RewardSettings) -> float:
    """Return the share of the thought's words in the language (R1: 2501.12948, section 2.3.2).

    0 if the format is wrong, or the thought has no words: else leaving them out would pay.
    """
    if isinstance(completion.parsed, Invalid):
        return 0.0
    return language_share(completion.parsed.thought, settings.language)


def length_penalty(completion: Completion, settings: RewardSettings) -> float:
    """Return DAPO's soft overlong penalty (2503.14476, equation 13), in tokens."""
    return overlong(completion.tokens, settings.limit, settings.cache)


# A user's own part, `module:name`, is called as f(problem=, text=, tokens=) and returns a finite
# number.
REWARDS: Registry[Part] = Registry(
    "reward",
    {
        "accuracy": accuracy,
        "format": well_formed,
        "language": language_consistency,
        "length": length_penalty,
    },
)
ALWAYS = ("accuracy", "format")  # reported even without a weight


class Reward:
    """The weighted sum of named parts, see REWARDS. Accuracy and format are always reported.

    Raises ConfigError for a part that does not exist, cannot be imported, or lacks its setting.
    """

    def __init__(
        self, weights: Mapping[str, float], language: str = "en", limit: int = 0, cache: int = 0
    ):
        finite = [_is_number(weight) for weight in weights.values()]
        need(
            finite and all(finite),
            f"the weights of the reward are {dict(weights)}; name at least one part, each with a "
            "finite number.",
        )
        need(
            language in LANGUAGES,
            f"the language reward is for {' and '.join(LANGUAGES)}, not {language!r}.",
        )
        need(
            not weights.get("length") or 0 < cache <= limit,
            f"the length reward needs 0 < cache <= limit in tokens, not cache={cache} and "
            f"limit={limit}.",
        )

        self.weights = dict(weights)
        self.settings = RewardSettings(language, limit, cache)
        self.parts: dict[str, Part] = {}
        for name, part in REWARDS.items():
            if name in weights or name in ALWAYS:
                self.parts[name] = part

        self.own: dict[str, Callable[..., float]] = {}
        for name in weights:
            function = REWARDS.find(name)
            need(callable(function), f"the reward {name!r} is not a function.")
            if is_foreign(name):
                self.own[name] = function

    def __call__(
        self,
        problem: Problem,
        text: str,
        tokens: int,
        truncated: bool = False,
        think_in_prompt: bool = False,
    ) -> Scored:
        """Score one completion.

        truncated: it was cut off. think_in_prompt: the chat template has written `<think>`.
        """
        grade, parsed, error = verify(problem, text, truncated, think_in_prompt)
        completion = Completion(problem, text, tokens, grade, parsed)

        values = {name: part(completion, self.settings) for name, part in self.parts.items()}
        for name, function in self.own.items():
            values[name], failure = _call_own(name, function, completion)
            error = error or failure

        total = math.nan
        if not error:
            weighted = [weight * values[name] for name, weight in self.weights.items()]
            total = sum(weighted)
        return Scored(total, values, grade.reason, error)

    def outcome(self, scored: Scored) -> float:
        """Return what a group's samples must differ in for DAPO's filter to keep the group.

        It is the accuracy: the samples are neither all right nor all wrong (2503.14476, equation
        11). Where accuracy does not pay, it is the reward before the length penalty, because
        lengths differ in every group. NaN if a part failed.
        """
        if scored.error:
            return math.nan
        if self.weights.get("accuracy"):
            return scored.parts["accuracy"]

        unshaped = 0.0
        for name, weight in self.weights.items():
            if name != "length":
                unshaped += weight * scored.parts[name]
        return unshaped


def make_reward(
    weights: Sequence[tuple[str, float]], language: str, max_new: int, overlong_share: float = 0.0
) -> Reward:
    """Return the reward of a run.

    overlong_share: share of max_new over which a length penalty grows to 1; 0 = without, unless
        the weights name it.
    """
    named = dict(weights)
    if overlong_share:
        named = {"length": 1.0} | named
    cache = round((overlong_share or OVERLONG) * max_new)
    return Reward(named, language, limit=max_new, cache=cache)


def verify(
    problem: Problem, text: str, truncated: bool = False, think_in_prompt: bool = False
) -> tuple[Grade, Parsed | Invalid, str]:
    """Return the task's grade, the parsed completion, and how the verifier failed or ""."""
    parsed = parse(text, think_in_prompt)
    if truncated:
        fault = f": {parsed.reason}" if isinstance(parsed, Invalid) else ""
        parsed = Invalid("cut off before its end" + fault)
    if isinstance(parsed, Invalid):
        return Grade(0.0, parsed.reason), parsed, ""

    try:
        grade = find_task(problem.task).verify(problem, parsed.answer)
    except Exception as failure:  # a verifier's defect must not count as a wrong answer
        grade = Grade(math.nan, _describe(failure))
    error = ""
    if not _is_number(grade.reward):
        error = f"the verifier of {problem.task} failed: {grade.reason}"
    return grade, parsed, error


def language_share(thought: str, language: str) -> float:
    """Return the share of words in the language, 0 for a text without words."""
    languages = word_languages(thought)
    return languages.count(language) / len(languages) if languages else 0.0


def word_languages(thought: str) -> list[str | None]:
    """Return the language of every word, None for one that is not in LANGUAGES.

    A run of Latin letters is one word, and so is each Chinese character.
    """
    languages = []
    for word in _WORDS.finditer(thought):
        # A circled digit matches as a word of another language, but is a number.
        if word.lastgroup or not word[0].isnumeric():
            languages.append(word.lastgroup)
    return languages


def overlong(tokens: int, limit: int, cache: int) -> float:
    """Return 0 up to limit - cache tokens, then a straight line to -1 at the limit, then -1."""
    if not cache:
        return 0.0
    return -min(1.0, max(0, tokens - (limit - cache)) / cache)


def _call_own(
    name: str, function: Callable[..., float], completion: Completion
) -> tuple[float, str]:
    """Return (value, ""), or (nan, what went wrong)."""
    try:
        value = function(problem=completion.problem, text=completion.text, tokens=completion.tokens)
    except Exception as failure:
        return math.nan, f"{name} raised {_describe(failure)}"
    if not _is_number(value):
        return math.nan, f"{name} returned {ascii(value)[:80]}, not a finite number"
    return float(value), ""


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _describe(failure: Exception) -> str:
    return f"{type(failure).__name__}: {str(failure)[:200]}"
