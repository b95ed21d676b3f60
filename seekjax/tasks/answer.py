"""What a completion must look like, and what an expression may say: the one judge of form for
rewards, rejection sampling and evaluation.

    <think>THOUGHT</think><answer>ANSWER</answer>

Nothing is executed and nothing is forgiven: a pattern that lets trailing text, two answers or an
empty thought pass is the first thing RL finds.
"""

import re
from fractions import Fraction
from typing import NamedTuple

from seekjax.data.tokenizer import find_special_token

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
BLANK = " \t\r\n"
_NEAR_TAG = re.compile(
    r"<[\s/]*(?:think|answer)\b", re.IGNORECASE
)  # "< / Answer x>": looks like a tag to whoever reads it
_TOKEN = re.compile(r"([0-9]+)|([-+*/()])")
LONGEST, DEEPEST, DIGITS = (
    128,
    16,
    9,
    # of an expression: characters, nested brackets, digits of a number; so no value has over 450
    # bits
)


class Parsed(NamedTuple):
    thought: str  # both without blanks around them
    answer: str


class Invalid(NamedTuple):
    reason: str  # one short clause


class Value(NamedTuple):
    value: Fraction
    numbers: list[int]  # as they stand in the text, from left to right


class _Wrong(Exception):
    """An expression that is none; its text is the reason."""


def wrap(thought: str, answer: str, think_in_prompt: bool = False) -> str:
    """The completion that says so: what `parse` reads back. `think_in_prompt`: the chat template has written
    `<think>` already.
    """
    return f"{'' if think_in_prompt else '<think>'}{thought}</think><answer>{answer}</answer>"


def parse(text: str, think_in_prompt: bool = False) -> Parsed | Invalid:
    """Thought and answer of a whole completion, or why it is none. Blanks may stand around the two
    blocks, and nothing else.

    `think_in_prompt`: the chat template has written `<think>` already, as R1's does.
    """
    text = ("<think>" if think_in_prompt else "") + text.strip(BLANK)
    for tag in TAGS:
        if (times := text.count(tag)) != 1:
            return Invalid(f"{tag} is missing" if not times else f"{times} times {tag}")
    starts = [text.index(tag) for tag in TAGS]
    if starts != sorted(starts):
        return Invalid("tags in the wrong order")
    before, thought, between, answer, after = re.split("|".join(TAGS), text)
    for part, where in (
        (before, "before <think>"),
        (between.strip(BLANK), "between the blocks"),
        (after, "after </answer>"),
    ):
        if part:
            return Invalid(f"text {where}")
    if named := find_special_token(text):
        return Invalid(f"the special token {named}")
    if _NEAR_TAG.search(thought) or _NEAR_TAG.search(answer):
        return Invalid("a tag within a block")
    if not any(map(str.isalnum, thought)):
        return Invalid("an empty thought")
    if not (answer := answer.strip(BLANK)):
        return Invalid("an empty answer")
    return Parsed(thought.strip(BLANK), answer)


def evaluate(text: str) -> Value | Invalid:
    """The exact value of + - * / and brackets over whole numbers, and the numbers used; or why it
    has none. No sign before a number, no power.

    Recursive descent over a bounded text: it takes microseconds whatever the text says.
    """
    if len(text) > LONGEST:
        return Invalid(f"over {LONGEST} characters")
    try:
        tokens, numbers = [*_tokens(text), "the end"][::-1], []
        value = _sum(tokens, numbers, 0)
        if tokens[-1] != "the end":
            raise _Wrong(f"{tokens[-1]} where + - * / or the end belongs")
        return Value(value, numbers)
    except _Wrong as wrong:
        return Invalid(str(wrong))


def integer(text: str) -> int | Invalid:
    """A whole number as one writes it: an optional minus, up to DIGITS digits, no leading zero."""
    if not re.fullmatch(r"-?[0-9]+", text, re.ASCII):
        return Invalid("not a whole number")
    digits = text.removeprefix("-")
    if len(digits) > DIGITS or (digits[0] == "0" and text != "0"):
        return Invalid(f"over {DIGITS} digits" if len(digits) > DIGITS else "a leading zero")
    return int(text)


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    while at < len(text):
        if text[at] != " ":
            found = _TOKEN.match(text, at)
            if not found:
                raise _Wrong(f"{text[at]!a} is no digit, operator or bracket")
            tokens.append(found[0])
        at = at + 1 if text[at] == " " else found.end()
    return tokens


def _sum(tokens: list[str], numbers: list[int], depth: int) -> Fraction:
    value = _product(tokens, numbers, depth)
    while tokens[-1] in ("+", "-"):
        operator, right = tokens.pop(), _product(tokens, numbers, depth)
        value = value + right if operator == "+" else value - right
    return value


def _product(tokens: list[str], numbers: list[int], depth: int) -> Fraction:
    value = _factor(tokens, numbers, depth)
    while tokens[-1] in ("*", "/"):
        operator, right = tokens.pop(), _factor(tokens, numbers, depth)
        if operator == "/" and not right:
            raise _Wrong("a division by zero")
        value = value * right if operator == "*" else value / right
    return value


def _factor(tokens: list[str], numbers: list[int], depth: int) -> Fraction:
    token = tokens.pop()
    if token == "(":
        if depth == DEEPEST:
            raise _Wrong(f"over {DEEPEST} brackets deep")
        value = _sum(tokens, numbers, depth + 1)
        if (closing := tokens.pop()) != ")":
            raise _Wrong(f"{closing} where ) belongs")
        return value
    if not token.isdigit():
        raise _Wrong(f"{token} where a number belongs")
    number = integer(token)
    if isinstance(number, Invalid):
        raise _Wrong(number.reason)
    numbers.append(number)
    return Fraction(number)
