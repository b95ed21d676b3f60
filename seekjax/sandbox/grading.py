"""Run a program on some inputs in the sandbox, and grade its outputs here, where the expected
values are.
"""

from collections.abc import Sequence
from typing import Any

from seekjax.sandbox.backend import find_backend
from seekjax.sandbox.execution import Limits, Outcome, execute


def run(
    program: str, function: str, inputs: Sequence[list], limits: Limits = Limits()
) -> list[Outcome]:
    """What `function` of `program` returns for each list of arguments, or why it returned nothing.
    SandboxError where there is no sandbox.
    """
    return execute(find_backend()[1], program, function, inputs, limits)


def grade(
    program: str, function: str, cases: Sequence[Sequence], limits: Limits = Limits()
) -> tuple[float, str]:
    """(1, "right") where `function` returns the expected value for every (arguments, expected),
    types included, else (0, the first reason).
    """
    if not cases:
        raise ValueError(
            "a program that is tried on no case would always be right: give at least one"
        )
    for (arguments, expected), found in zip(
        cases, run(program, function, [arguments for arguments, _ in cases], limits), strict=True
    ):
        if found.reason:
            return 0.0, found.reason
        if not same(found.value, expected):
            shown = ", ".join(map(repr, arguments))
            return (
                0.0,
                f"{function}({short(shown)}) is {short(repr(found.value))}, not "
                f"{short(repr(expected))}",
            )
    return 1.0, "right"


def same(value: Any, expected: Any) -> bool:
    """Equal in value and in type all the way down: 1 is neither True nor 1.0."""
    if isinstance(expected, tuple):
        expected = list(expected)
    if type(value) is not type(expected):
        return False
    if isinstance(expected, list):
        return len(value) == len(expected) and all(map(same, value, expected))
    if isinstance(expected, dict):
        return value.keys() == expected.keys() and all(
            same(value[key], item) for key, item in expected.items()
        )
    return value == expected


def short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[:most] + "..."
