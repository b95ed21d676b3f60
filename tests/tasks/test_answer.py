"""One form is accepted and nothing near it; expressions are valued exactly, in bounded time, and
nothing is executed."""

import ast
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekjax.tasks.answer import (
    MAX_DIGITS,
    TAGS,
    WHITESPACE,
    Invalid,
    Parsed,
    Value,
    evaluate,
    parse,
    parse_integer,
    wrap,
)

GOOD = "<think>1+1</think><answer>2</answer>"
plain = st.tuples(
    st.text(max_size=9), st.characters(categories=["L", "N"]), st.text(max_size=9)
).map(lambda three: "".join(three).replace("<", ">"))
expressions = st.recursive(
    st.integers(0, 999).map(str),
    lambda inner: (
        st.tuples(inner, st.sampled_from("+-*/"), inner).map("".join) | inner.map("({})".format)
    ),
    max_leaves=8,
)

MALFORMED = {
    "": "<think> is missing",
    "2": "<think> is missing",
    "<answer>2</answer>": "<think> is missing",
    "<think>1+1</think>2": "<answer> is missing",
    "<think>1+1</think><answer>2": "</answer> is missing",
    "<think>1+1<answer>2</answer>": "</think> is missing",
    GOOD + " so 2": "text after",
    GOOD + "\0": "text after",
    GOOD + "\u200b": "text after",
    GOOD + "<｜end▁of▁sentence｜>": "text after",
    "well " + GOOD: "text before",
    "<think>1+1</think>so<answer>2</answer>": "text between",
    "<think>1+1</think>\u00a0<answer>2</answer>": "text between",
    GOOD + "<answer>3</answer>": "2 times <answer>",
    GOOD + GOOD: "2 times <think>",
    GOOD * 10**4: "10000 times <think>",
    "<think></think><answer>2</answer>": "an empty thought",
    "<think> \n\t </think><answer>2</answer>": "an empty thought",
    "<think>\u200b\u2060</think><answer>2</answer>": "an empty thought",
    "<think>...</think><answer>2</answer>": "an empty thought",
    "<think>1+1</think><answer> \n</answer>": "an empty answer",
    "<think><think>1+1</think></think><answer>2</answer>": "2 times <think>",
    "<think>1+1</think><answer>2</answer></answer>": "2 times </answer>",
    "<think>1</answer>1</think><answer>2</answer>": "2 times </answer>",
    "<answer>2</answer><think>1+1</think>": "wrong order",
    "</think>1<think><answer>2</answer>": "wrong order",
    "<think>1<answer>2</answer></think>": "wrong order",
    "<think>1+1</think></answer>2<answer>": "wrong order",
    "<think>1<｜User｜></think><answer>2</answer>": "special token",
    "<think>1</think><answer>2<｜end▁of▁sentence｜></answer>": "special token",
    "<think>< answer>2</ Answer ></think><answer>2</answer>": "a tag within",
    "<think>1+1</think><answer><ANSWER>2</answer>": "a tag within",
    '<think>1</think><answer>2<answer class="x"></answer>': "a tag within",
    "<Think>1+1</Think><answer>2</answer>": "<think> is missing",
    "＜think＞1+1＜/think＞＜answer＞2＜/answer＞": "<think> is missing",
    "<think>1+1</think><\u0430nswer>2</answer>": "<answer> is missing",
    "<think>" + "<" * 10**5 + "</think><answer>2</answer>": "an empty thought",
    "<think>a<" + " " * 10**5 + "</think>": "<answer> is missing",
    "<think>a"
    + ("<" + " " * 400) * 400
    + "</think><answer>2<"
    + "/" * 10**5
    + "think></answer>": "a tag within",
}


@pytest.mark.parametrize(("text", "reason"), MALFORMED.items(), ids=range(len(MALFORMED)))
def test_nothing_near_the_form_passes(text, reason):
    start = time.perf_counter()
    refused = parse(text)
    assert isinstance(refused, Invalid)
    assert reason in refused.reason
    assert len(refused.reason) < 80
    assert time.perf_counter() - start < 0.2


@settings(max_examples=50)
@given(plain, plain, st.booleans(), st.text(" \t\r\n"), st.text(" \t\r\n"))
def test_what_is_wrapped_parses(thought, answer, think_in_prompt, left, right):
    completion = wrap(thought, answer, think_in_prompt)
    text = left + completion.replace("</think><", f"</think>{right}<") + right
    expected = Parsed(thought.strip(WHITESPACE), answer.strip(WHITESPACE))
    assert parse(text, think_in_prompt) == expected
    assert isinstance(parse(text, not think_in_prompt), Invalid), (
        "a template that wrote the tag, and one that did not, are told apart"
    )


def test_after_a_template_that_opened_the_thought():
    completion = "\n1+1</think>\n<answer> 2 </answer>\n"
    assert parse(completion, think_in_prompt=True) == Parsed("1+1", "2")
    assert parse("</think><answer>2</answer>", think_in_prompt=True) == Invalid("an empty thought")


@given(
    st.lists(
        st.sampled_from([*TAGS, "a", "7", " ", "\n", "<", "</", "answer>", "\0"]), max_size=14
    ).map("".join),
    st.booleans(),
)
def test_pieces_in_any_order_give_the_form_or_a_reason(text, think_in_prompt):
    result = parse(text, think_in_prompt)
    if isinstance(result, Invalid):
        assert result.reason
        return
    for tag in TAGS:
        is_given = tag == "<think>" and think_in_prompt
        assert text.count(tag) == (0 if is_given else 1)
        assert tag not in result.thought + result.answer


@given(expressions)
def test_values_are_pythons(text):
    """Against Python's own reader of expressions, its syntax tree folded over exact fractions."""

    def fold(node):
        if isinstance(node, ast.Constant):
            return Fraction(node.value)
        left, right = fold(node.left), fold(node.right)
        return {
            ast.Add: left.__add__,
            ast.Sub: left.__sub__,
            ast.Mult: left.__mul__,
            ast.Div: left.__truediv__,
        }[type(node.op)](right)

    try:
        right = fold(ast.parse(text, mode="eval").body)
    except ZeroDivisionError:
        assert evaluate(text) == Invalid("a division by zero")
    else:
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
        nodes.sort(key=lambda node: node.col_offset)
        assert evaluate(text) == Value(right, [node.value for node in nodes])
        assert evaluate(text.replace("+", " + ")) == evaluate(text)


HOSTILE = [
    "9**9**9",
    "9**9**9**9",
    "2^9",
    "9//2",
    "7%2",
    "1e999",
    "1.5",
    "0x10",
    "1_000",
    "__import__('os')",
    "().__class__",
    "exit()",
    "lambda:1",
    "٣+٤",
    "３+４",
    "²",
    "3×5",
    "8÷2",
    "3−5",
    "3–5",
    "+3",
    "-3",
    "3+-5",
    "3--5",
    "",
    " ",
    "()",
    "3 5",
    "(3)5",
    "3(5)",
    "(3",
    "3)",
    ")",
    "3+",
    "/3",
    "3/0",
    "3/(5-5)",
    "0/0",
    "1/0/0",
    "(" * 10**5,
    "(" * 17 + "1" + ")" * 17,
    "(" * 10**5 + "1" + ")" * 10**5,
    "9" * 10,
    "9" * 10**5,
    "1+" * 10**5 + "1",
    "007",
    "3+05",
    "3=3",
    "3+5=8",
    "3\0",
    "\0",
    "3\n+5",
    "3\t+5",
    "nan",
    "inf",
    "True",
    "x",
    "3,5",
    "[3]",
    "{}",
    "'3'",
    "#",
    "3+5;",
    "\U0001f600",
    "\ud800",
    "\u200b3",
    "3\u00a0+5",
    "a" * 10**6,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_expressions_are_refused_at_once(text):
    start = time.perf_counter()
    refused = evaluate(text)
    assert isinstance(refused, Invalid)
    assert 0 < len(refused.reason) < 80
    assert time.perf_counter() - start < 0.05


@given(st.text("0123456789+-*/() ", max_size=140))
def test_any_signs_have_a_value_or_a_reason(text):
    result = evaluate(text)
    if isinstance(result, Invalid):
        assert result.reason
    else:
        assert result.value.numerator.bit_length() < 500


@given(st.integers(-(10**12), 10**12))
def test_whole_numbers(number):
    if len(str(abs(number))) <= MAX_DIGITS:
        assert parse_integer(str(number)) == number
    else:
        assert isinstance(parse_integer(str(number)), Invalid)

    for prefix, suffix in (("+", ""), ("", "\n"), ("", ".0"), (" ", ""), ("0", ""), ("x=", "")):
        assert isinstance(parse_integer(f"{prefix}{number}{suffix}"), Invalid)
    assert isinstance(parse_integer(f"-0{number}"), Invalid)


@pytest.mark.parametrize(
    "text", ["", "-", "-0", "00", "٣", "３", "²", "1e3", "1_0", "9" * 10**6, "one", "0x1", "--1"]
)
def test_no_whole_numbers(text):
    assert isinstance(parse_integer(text), Invalid)
