"""What the source says of a config's fields: their comments, and which of them name a choice."""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from seekjax.config.model import Named


def field_comments(kind: type) -> dict[str, str]:
    """Return the comment above each field of a dataclass, or after it on its own line.

    Fields that are inherited have the comments of the class that declares them.
    """
    comments: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if is_dataclass(base):
            comments |= _own_comments(base)
    return comments


def named_choices(config: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path, name) of every `Name` in a config, such as ("model.scoring", "sigmoid")."""
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        value = getattr(config, field.name)
        yield from _names_of(hints[field.name], value, path + field.name)


def leaves(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of each field without fields of its own, such as ("lora.rank", 0)."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from leaves(value, f"{path}{field.name}.")
        else:
            yield path + field.name, value


def switches(config: Any) -> Iterator[str]:
    """Yield the path of every boolean field in a config, such as "data.mask_documents"."""
    for path, value in leaves(config):
        if isinstance(value, bool):
            yield path


def _names_of(hint: Any, value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield the names that a value of this type holds."""
    if is_dataclass(value):
        yield from named_choices(value, f"{path}.")
    elif any(isinstance(mark, Named) for mark in getattr(hint, "__metadata__", ())):
        yield path, value
    elif get_origin(hint) is tuple:
        kinds = get_args(hint)
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(value)
        for kind, item in zip(kinds, value):
            yield from _names_of(kind, item, path)


@cache
def _own_comments(kind: type) -> dict[str, str]:
    """Return the comments of the fields that the body of this class declares."""
    source = inspect.getsource(kind)
    lines = source.splitlines()
    definition = ast.parse(source).body[0]
    assert isinstance(definition, ast.ClassDef)

    comments = {}
    for node in definition.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        after = lines[(node.end_lineno or node.lineno) - 1][node.end_col_offset :].strip()
        above: list[str] = []
        number = node.lineno - 2
        while lines[number].strip().startswith("#"):
            above.insert(0, lines[number].strip())
            number -= 1
        words = [after] if after else above
        comments[node.target.id] = " ".join(line.lstrip("#").strip() for line in words)
    return comments
