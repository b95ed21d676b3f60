"""Whether every value of a config has its field's type, and lies in the range stated with it.

Command line, config.json and Python file all lead to a Config, and the same rules hold for each.
"""

import types
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from seekjax.config.ranges import Range, in_float32
from seekjax.errors import ConfigError
from seekjax.registry import did_you_mean

WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
}


def check_values(config: Any, path: str = "") -> None:
    """Raise ConfigError for the first value of another type than its field's, or out of range.

    Args:
        config: A Config, or a part of one.
        path: Where the part lies, as "model.", for the sentence.
    """
    for complaint in _complaints(type(config), config, path):
        raise ConfigError(complaint)


@cache
def field_types(kind: type) -> dict[str, Any]:
    """Return the type of each field of a dataclass, with the range that is stated with it."""
    return typing.get_type_hints(kind, include_extras=True)


def _complaints(kind: Any, value: Any, path: str) -> Iterator[str]:
    """Yield a sentence for each value in `value` that does not fit its type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        yield from _of_fields(kind, value, path)
    elif origin is typing.Annotated:
        yield from _of_annotated(arguments[0], arguments[1:], value, path)
    elif origin in (types.UnionType, typing.Union):
        if value is not None:
            yield from _complaints(arguments[0], value, path)
    elif origin is tuple:
        yield from _of_tuple(arguments, value, path)
    elif origin is typing.Literal:
        if value not in arguments:
            near = did_you_mean(str(value), arguments)
            yield f"{path} is {_shown(value)}{near} Choose one of {', '.join(arguments)}."
    elif not _is_of(kind, value):
        yield f"{path} is {_shown(value)}: it must be {WORDS[kind]}."


def _of_fields(kind: Any, value: Any, path: str) -> Iterator[str]:
    """Yield the complaints about the fields of a part."""
    if not isinstance(value, kind):
        yield f"{path} is {_shown(value)}: it must be a {kind.__name__}."
        return
    start = f"{path.removesuffix('.')}." if path else ""
    hints = field_types(kind)
    for field in fields(kind):
        yield from _complaints(hints[field.name], getattr(value, field.name), start + field.name)


def _of_annotated(kind: Any, marks: tuple[Any, ...], value: Any, path: str) -> Iterator[str]:
    """Yield the complaints about a value whose type has a range."""
    wrong_type = list(_complaints(kind, value, path))
    yield from wrong_type
    if wrong_type:
        return
    for mark in marks:
        if isinstance(mark, Range):
            yield from _out_of_range(kind, mark, value, path)


def _out_of_range(kind: Any, allowed: Range, value: float, path: str) -> Iterator[str]:
    """Yield a sentence if the number, or what it is on a device, lies outside the range."""
    complaint = allowed.complaint(value)
    rounded = ""
    if not complaint and kind is float:
        complaint = allowed.complaint(in_float32(value))
        rounded = f", which is {in_float32(value):g} in float32"
    if complaint:
        yield f"{path} is {_shown(value)}{rounded}: {complaint}."


def _of_tuple(kinds: tuple[Any, ...], value: Any, path: str) -> Iterator[str]:
    """Yield the complaints about the items of a tuple."""
    is_list = kinds[-1] is Ellipsis
    if not isinstance(value, tuple) or not (is_list or len(value) == len(kinds)):
        expected = "a tuple" if is_list else f"a tuple of {len(kinds)}"
        yield f"{path} is {_shown(value)}: it must be {expected}."
        return
    for number, item in enumerate(value):
        kind = kinds[0] if is_list else kinds[number]
        yield from _complaints(kind, item, f"{path}[{number}]")


def _is_of(kind: Any, value: Any) -> bool:
    """Return whether a value has a plain type; a whole number is a number too."""
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _shown(value: Any) -> str:
    """Return a value as a sentence shows it, at most 60 characters."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."
