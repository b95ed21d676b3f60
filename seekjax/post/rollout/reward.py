"""Rewards by rule, in named parts, each with a reason: reinforcement finds every hole in a judge,
and a judge's own failure must not look like a wrong answer.

reward = Reward({"accuracy": 1.0, "format": 1.0, "language": 0.5, "my_module:function": 0.1},
language="en") scored = reward(problem, text, tokens=52, truncated=False, think_in_prompt=True)
"""

import importlib
import math
import re
from collections.abc import Callable
from numbers import Real
from typing import NamedTuple

from seekjax.errors import DataError
from seekjax.registry import did_you_mean
from seekjax.tasks import Grade, Problem, find_task
from seekjax.tasks.answer import Invalid, Parsed, parse

PARTS = ("accuracy", "format", "language", "length")
_CHINESE, _LATIN = (
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
    "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f",
)
_WORDS = re.compile(
    rf"(?P<zh>[{_CHINESE}])|(?P<en>[{_LATIN}]+)|[^\W\d_{_CHINESE}{_LATIN}]+"
)  # the last: words of yet another language
LANGUAGES = ("en", "zh")


class Scored(NamedTuple):
    """`total` is nan where a part failed: leave that sample out, and count and show `error`."""

    total: float
    parts: dict[str, float]  # before their weights
    reason: str  # why the answer is right or wrong
    error: str = ""  # the part that failed and how


class Reward:
    """The weighted sum of parts; accuracy and format are told apart whatever their weights.

    accuracy   what the task says of the answer, 0 where the form is wrong format     1 where the
    completion parses and has ended language   R1's (2501.12948, 2.3.2): the share of the thought's
    words that are of `language`; 0 where the form is wrong length     DAPO's soft overlong penalty
    (2503.14476, eq. 13), in tokens: 0 up to limit - cache, from there falling to -1 at the limit
    "a.b:f"    f(problem=, text=, tokens=) of the module a.b: a finite number

    Raises DataError for a part that does not exist, cannot be imported, or lacks its setting.
    """

    def __init__(
        self, weights: dict[str, float], language: str = "en", limit: int = 0, cache: int = 0
    ):
        if not weights or not all(_is_number(weight) for weight in weights.values()):
            raise DataError(
                f"the weights of the reward are {weights}; name at least one part, each "
                "with a finite number."
            )
        if language not in LANGUAGES:
            raise DataError(
                f"the language reward knows {' and '.join(LANGUAGES)}, not {language!r}."
            )
        if weights.get("length") and not 0 < cache <= limit:
            raise DataError(
                f"the length reward needs 0 < cache <= limit in tokens, not cache={cache} "
                f"and limit={limit}."
            )
        self.weights, self.language, self.limit, self.cache = dict(weights), language, limit, cache
        self.own = {name: _load(name) for name in weights if name not in PARTS}

    def __call__(
        self,
        problem: Problem,
        text: str,
        tokens: int,
        truncated: bool = False,
        think_in_prompt: bool = False,
    ) -> Scored:
        """Scores one completion of so many tokens. `truncated`: it was cut off; `think_in_prompt`: the chat
        template wrote `<think>`.
        """
        grade, parsed, error = judge(problem, text, truncated, think_in_prompt)
        good = isinstance(parsed, Parsed)
        parts = {"accuracy": grade.reward, "format": float(good)}
        if "language" in self.weights:
            parts["language"] = share(parsed.thought, self.language) if good else 0.0
        if "length" in self.weights:
            parts["length"] = overlong(tokens, self.limit, self.cache)
        for name, function in self.own.items():
            parts[name], failure = _call(name, function, problem, text, tokens)
            error = error or failure
        total = (
            math.nan
            if error
            else sum(weight * parts[name] for name, weight in self.weights.items())
        )
        return Scored(total, parts, grade.reason, error)


def judge(
    problem: Problem, text: str, truncated: bool = False, think_in_prompt: bool = False
) -> tuple[Grade, Parsed | Invalid, str]:
    """What the task says of a completion, what it parses to, and "" or how the verifier failed.
    What evaluation and rejection sampling use too.
    """
    parsed = parse(text, think_in_prompt)
    if truncated:
        parsed = Invalid(
            "cut off before its end" + (f": {parsed.reason}" if isinstance(parsed, Invalid) else "")
        )
    if isinstance(parsed, Invalid):
        return Grade(0.0, parsed.reason), parsed, ""
    try:
        grade = find_task(problem.task).verify(problem, parsed.answer)
    except Exception as failure:  # a verifier's mistake is not the model's
        grade = Grade(math.nan, _told(failure))
    error = (
        "" if _is_number(grade.reward) else f"the verifier of {problem.task} failed: {grade.reason}"
    )
    return grade, parsed, error


def share(thought: str, language: str) -> float:
    """The share of words that are of the language: a run of Latin letters is one word, and so is
    each Chinese character. 1 where there are none.
    """
    words = [
        found.lastgroup
        for found in _WORDS.finditer(thought)
        if found.lastgroup or not found[0].isnumeric()
    ]  # a circled 1 is none
    return words.count(language) / len(words) if words else 1.0


def overlong(tokens: int, limit: int, cache: int) -> float:
    """0 up to limit - cache tokens, then a straight line to -1 at the limit, and -1 beyond."""
    return -min(1.0, max(0, tokens - (limit - cache)) / cache) if cache else 0.0


def _load(name: str) -> Callable:
    """An own reward by "module:function"."""
    module, colon, function = name.partition(":")
    if not colon:
        raise DataError(
            f"there is no reward {name!r}{did_you_mean(name, PARTS)} "
            f"There are {', '.join(PARTS)}, and your own as module:function."
        )
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as failure:  # importing runs a module, which may fail in any way
        raise DataError(
            f"the reward {name!r} cannot be imported: {_told(failure)}. Is its folder on "
            "PYTHONPATH?"
        ) from failure
    if not callable(found):
        raise DataError(f"the reward {name!r} is no function.")
    return found


def _call(
    name: str, function: Callable, problem: Problem, text: str, tokens: int
) -> tuple[float, str]:
    """(value, ""), or (nan, what went wrong)."""
    try:
        value = function(problem=problem, text=text, tokens=tokens)
    except Exception as failure:
        return math.nan, f"{name} raised {_told(failure)}"
    return (
        (float(value), "")
        if _is_number(value)
        else (math.nan, f"{name} returned {ascii(value)[:80]}, not a finite number")
    )


def _is_number(value) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _told(failure: Exception) -> str:
    return f"{type(failure).__name__}: {str(failure)[:200]}"
