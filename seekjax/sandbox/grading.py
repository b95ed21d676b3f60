"""Run a program on inputs in the sandbox, and compare its outputs here, outside of it.

The expected values never enter the sandbox.
"""

from collections.abc import Sequence
from typing import Any

from seekjax.sandbox.backend import find_backend
from seekjax.sandbox.execution import Limits, Outcome, execute

DEFAULT_LIMITS = Limits()


def run(
    program: str,
    function: str,
    inputs: Sequence[list],
    limits: Limits = DEFAULT_LIMITS,
) -> list[Outcome]:
    """Return what `function` of a program gives for each list of arguments, or why nothing.

    Raises SandboxError if this machine has no working sandbox.
    """
    _, command = find_backend()
    return execute(command, program, function, inputs, limits)


def grade(
    program: str,
    function: str,
    cases: Sequence[Sequence],
    limits: Limits = DEFAULT_LIMITS,
) -> tuple[float, str]:
    """Return (1, "right") if every case has its expected value, else (0, the first reason).

    A case is (arguments, expected value); values are compared with their types. Raises SandboxError
    if this machine has no working sandbox, and ValueError if there are no cases.
    """
    if not cases:
        raise ValueError(
            "a program that is tried on no case would always be right: give at least one"
        )

    inputs = [arguments for arguments, _ in cases]
    outcomes = run(program, function, inputs, limits)
    for (arguments, expected), outcome in zip(cases, outcomes, strict=True):
        if outcome.reason:
            return 0.0, outcome.reason
        if not equal_with_types(outcome.value, expected):
            call = f"{function}({shorten(', '.join(map(repr, arguments)))})"
            return 0.0, f"{call} is {shorten(repr(outcome.value))}, not {shorten(repr(expected))}"
    return 1.0, "right"


def equal_with_types(value: Any, expected: Any) -> bool:
    """Return whether two values are equal in value and in type all the way down.

    1 equals neither True nor 1.0. A tuple counts as a list, because JSON has no tuples.
    """
    if isinstance(expected, tuple):
        expected = list(expected)
    if type(value) is not type(expected):
        return False
    if isinstance(expected, list):
        return len(value) == len(expected) and all(map(equal_with_types, value, expected))
    if isinstance(expected, dict):
        if value.keys() != expected.keys():
            return False
        return all(equal_with_types(value[key], item) for key, item in expected.items())
    return value == expected


def shorten(text: str, most: int = 60) -> str:
    """Return the beginning of a text."""
    return text if len(text) <= most else text[:most] + "..."
