"""The form of a completion, and the value of an expression: rewards, rejection sampling and
evaluation all read an answer with these functions.

    <think>THOUGHT</think><answer>ANSWER</answer>

Nothing is executed and nothing is repaired. If a pattern accepts text behind the answer, a second
answer or an empty thought, reinforcement learning finds that first.
"""

import re
from fractions import Fraction
from typing import NamedTuple

from seekjax.data.tokenizer import find_special_token
from seekjax.tasks.task import Grade

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
WHITESPACE = " \t\r\n"

# Limits of an expression; together they keep every value below about 450 bits.
MAX_CHARACTERS = 128
MAX_DEPTH = 16  # nested brackets
MAX_DIGITS = 9  # of one number

# What a reader would take for a tag, such as "< / Answer x>".
_NEAR_TAG = re.compile(r"<[\s/]*(?:think|answer)\b", re.IGNORECASE)
_TOKEN = re.compile(r"([0-9]+)|([-+*/()])")
_END = "the end"  # the token behind the last one


class Parsed(NamedTuple):
    """The two blocks of a completion, without whitespace around them."""

    thought: str
    answer: str


class Invalid(NamedTuple):
    """Why a text does not have the required form, in one short clause."""

    reason: str


class Value(NamedTuple):
    """The exact value of an expression and its numbers, from left to right."""

    value: Fraction
    numbers: list[int]


def wrap(
    thought: str,
    answer: str,
    think_in_prompt: bool = False,
) -> str:
    """Return the completion that `parse` reads back.

    `think_in_prompt`: the chat template's generation prompt ends with `<think>` already.
    """
    start = "" if think_in_prompt else "<think>"
    return f"{start}{thought}</think><answer>{answer}</answer>"


def parse(text: str, think_in_prompt: bool = False) -> Parsed | Invalid:
    """Return thought and answer of a whole completion, or why it is malformed.

    Whitespace may stand around the two blocks, and nothing else.

    `think_in_prompt`: the chat template's generation prompt ends with `<think>`, as R1's does, so
    the completion does not repeat it.
    """
    text = text.strip(WHITESPACE)
    if think_in_prompt:
        text = "<think>" + text

    # Each tag once, and all in order.
    for tag in TAGS:
        times = text.count(tag)
        if times != 1:
            return Invalid(f"{times} times {tag}" if times else f"{tag} is missing")
    starts = [text.index(tag) for tag in TAGS]
    if starts != sorted(starts):
        return Invalid("tags in the wrong order")

    # Nothing outside the two blocks.
    before, thought, between, answer, after = re.split("|".join(TAGS), text)
    if before:
        return Invalid("text before <think>")
    if between.strip(WHITESPACE):
        return Invalid("text between the blocks")
    if after:
        return Invalid("text after </answer>")

    # Nothing inside them that looks like part of the form.
    special = find_special_token(text)
    if special:
        return Invalid(f"the special token {special}")
    if _NEAR_TAG.search(thought) or _NEAR_TAG.search(answer):
        return Invalid("a tag within a block")

    # Both have content.
    if not any(map(str.isalnum, thought)):
        return Invalid("an empty thought")
    answer = answer.strip(WHITESPACE)
    if not answer:
        return Invalid("an empty answer")
    return Parsed(thought.strip(WHITESPACE), answer)


def evaluate(text: str) -> Value | Invalid:
    """Return the exact value of an expression and the numbers in it, or why it is not valid.

    An expression is made of whole numbers, + - * / and brackets: no sign before a number, no power.
    """
    if len(text) > MAX_CHARACTERS:
        return Invalid(f"over {MAX_CHARACTERS} characters")
    try:
        parser = _Parser(text)
        return Value(parser.expression(), parser.numbers)
    except _InvalidExpression as error:
        return Invalid(str(error))


def parse_integer(text: str) -> int | Invalid:
    """Return a whole number from its usual form, or why the text is not one.

    The form is an optional minus and up to MAX_DIGITS digits, without a leading zero.
    """
    if not re.fullmatch(r"-?[0-9]+", text, re.ASCII):
        return Invalid("not a whole number")

    digits = text.removeprefix("-")
    if len(digits) > MAX_DIGITS:
        return Invalid(f"over {MAX_DIGITS} digits")
    if digits[0] == "0" and text != "0":
        return Invalid("a leading zero")
    return int(text)


def grade_integer(answer: str, expected: int) -> Grade:
    """Give reward 1 if the answer is this whole number, else 0."""
    number = parse_integer(answer)
    if isinstance(number, Invalid):
        return Grade(0.0, number.reason)
    if number != expected:
        return Grade(0.0, f"{number} is not {expected}")
    return Grade(1.0, "right")


class _InvalidExpression(Exception):
    """Raised for text that is not a valid expression. The message is the reason."""


class _Parser:
    """Recursive descent over a text of bounded length: it takes microseconds for every text.

    expression = sum end;  sum = product {("+" | "-") product};
    product = factor {("*" | "/") factor};  factor = number | "(" sum ")"
    """

    def __init__(self, text: str):
        self.tokens = _tokenize(text)
        self.position = 0
        self.numbers: list[int] = []

    def expression(self) -> Fraction:
        """Return the value of the whole text."""
        value = self._sum(depth=0)
        if self._next != _END:
            raise _InvalidExpression(f"{self._next} where + - * / or the end belongs")
        return value

    @property
    def _next(self) -> str:
        return self.tokens[self.position]

    def _take(self) -> str:
        token = self._next
        self.position += 1
        return token

    def _sum(self, depth: int) -> Fraction:
        value = self._product(depth)
        while self._next in ("+", "-"):
            operator = self._take()
            right = self._product(depth)
            value = value + right if operator == "+" else value - right
        return value

    def _product(self, depth: int) -> Fraction:
        value = self._factor(depth)
        while self._next in ("*", "/"):
            operator = self._take()
            right = self._factor(depth)
            if operator == "/" and not right:
                raise _InvalidExpression("a division by zero")
            value = value * right if operator == "*" else value / right
        return value

    def _factor(self, depth: int) -> Fraction:
        token = self._take()

        # A bracketed sum.
        if token == "(":
            if depth == MAX_DEPTH:
                raise _InvalidExpression(f"over {MAX_DEPTH} brackets deep")
            value = self._sum(depth + 1)
            closing = self._take()
            if closing != ")":
                raise _InvalidExpression(f"{closing} where ) belongs")
            return value

        # A number.
        if not token.isdigit():
            raise _InvalidExpression(f"{token} where a number belongs")
        number = parse_integer(token)
        if isinstance(number, Invalid):
            raise _InvalidExpression(number.reason)
        self.numbers.append(number)
        return Fraction(number)


def _tokenize(text: str) -> list[str]:
    """Split an expression into numbers and signs, with the token _END behind them."""
    tokens = []
    position = 0
    while position < len(text):
        if text[position] == " ":
            position += 1
            continue
        token = _TOKEN.match(text, position)
        if not token:
            raise _InvalidExpression(f"{text[position]!a} is not a digit, operator or bracket")
        tokens.append(token[0])
        position = token.end()
    return [*tokens, _END]
