"""The one place that reads options from a command line, by tyro."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

Options = TypeVar("Options")

NARROWEST = 40  # columns; in less, tyro cannot fold a help text


def read_options(
    kind: type[Options],
    words: list[str],
    program: str,
    default: Options | None = None,
    description: str | None = None,
    rules: ConstructorRegistry | None = None,
) -> Options:
    """Return the dataclass that the words describe, with `default` where they do not.

    Exits with status 0 after --help, and with 2 and the nearest name if an option does not exist.
    """
    given: dict[str, Any] = {} if default is None else {"default": default}
    with _readable_width():
        return tyro.cli(
            kind,
            prog=program,
            args=words,
            **given,
            description=description,
            registry=with_plain_types(rules or ConstructorRegistry()),
        )


def with_plain_types(registry: ConstructorRegistry) -> ConstructorRegistry:
    """Add the rules by which numbers and paths are read, each with a sentence for a wrong one."""

    @registry.primitive_rule
    def of_plain_type(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        if info.type not in PLAIN:
            return None
        metavar, read = PLAIN[info.type]
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=metavar,
            instance_from_str=lambda words: read(words[0]),
            is_instance=lambda value: _fits(value, info.type),
            str_from_instance=lambda value: [str(value)],
        )

    @registry.primitive_rule
    def of_rows(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        columns = _columns(info.type)
        if not columns:
            return None
        metavar = " ".join(PLAIN[kind][0] for kind in columns)
        return PrimitiveConstructorSpec(
            nargs="*",
            metavar=f"[{metavar} ...]",
            instance_from_str=partial(_rows, columns),
            is_instance=lambda value: isinstance(value, tuple),
            str_from_instance=lambda rows: [str(item) for row in rows for item in row],
        )

    return registry


def _columns(kind: Any) -> tuple[type, ...]:
    """Return the types of a row, for a tuple of rows such as tuple[tuple[str, float], ...]."""
    arguments = get_args(kind)
    if get_origin(kind) is not tuple or arguments[1:] != (Ellipsis,):
        return ()
    if get_origin(arguments[0]) is not tuple:
        return ()
    return tuple(getattr(column, "__origin__", column) for column in get_args(arguments[0]))


def _rows(columns: tuple[type, ...], words: list[str]) -> tuple[tuple[Any, ...], ...]:
    """Return the rows that words fill. Raises ValueError if the last one is not full."""
    if len(words) % len(columns):
        names = " ".join(PLAIN[kind][0] for kind in columns)
        raise ValueError(f"it takes {names}, again and again, and the last of these is missing")
    rows = []
    for start in range(0, len(words), len(columns)):
        row = zip(columns, words[start:])
        rows.append(tuple(PLAIN[kind][1](word) for kind, word in row))
    return tuple(rows)


def whole_number(word: str) -> int:
    """Return the whole number that a word writes, also as 1e6. Raises ValueError for another."""
    for read in (int, float):
        with suppress(ValueError):
            value = read(word)
            if isinstance(value, int):
                return value
            if abs(value) < 2**53 and value.is_integer():
                return int(value)
    raise ValueError(f"{_shown(word)} is not a whole number")


def number(word: str) -> float:
    """Return the number that a word writes. Raises ValueError for another word."""
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"{_shown(word)} is not a number") from None


def path(word: str) -> Path:
    """Return a path, with ~ as the home folder. Raises ValueError for an empty word."""
    if not word:
        raise ValueError("a path is empty: write . for this folder")
    try:
        return Path(word).expanduser()
    except RuntimeError:
        raise ValueError(f"{_shown(word)} begins with a user that this machine lacks") from None


def path_or_none(word: str) -> Path | None:
    """Return a path, and None for the word None. Raises ValueError for an empty word."""
    return None if word == "None" else path(word)


# How a value of each plain type is called, and read from a word.
PLAIN: dict[Any, tuple[str, Callable[[str], Any]]] = {
    int: ("INT", whole_number),
    float: ("FLOAT", number),
    str: ("STR", str),
    Path: ("PATH", path),
    Path | None: ("PATH", path_or_none),
}


def _fits(value: Any, kind: Any) -> bool:
    """Return whether a default is of this type; a whole number is a number too."""
    if isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _shown(word: str) -> str:
    """Return a word as a sentence shows it, at most 60 characters."""
    return repr(word) if len(word) <= 60 else f"{word[:57]!r}..."


@contextmanager
def _readable_width() -> Iterator[None]:
    """Let texts be folded for a screen of at least NARROWEST columns."""
    if shutil.get_terminal_size().columns >= NARROWEST:
        yield
        return
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(NARROWEST)
    try:
        yield
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before


def note(notices: list[str]) -> None:
    """Print the notices of options that have another name now."""
    for notice in notices:
        print(f"note: {notice}", file=sys.stderr)
