"""config.json of a run: written from a Config, read back into one, and compared."""

import json
import types
import typing
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from seekjax.checkpoint.old_config import in_current_form
from seekjax.config import Config
from seekjax.config.fields import named_choices
from seekjax.config.values import check_values
from seekjax.errors import RunError
from seekjax.registry import is_foreign

# The fields that are never saved: whether a folder is trusted, and what is traced.
OF_ONE_START = ("trust", "profile")
# The parts of a config whose choices are imported when only the weights are used.
WEIGHTS = ("model", "kernel")


def to_json(config: Config) -> dict[str, Any]:
    """Return the config in JSON's types, without what concerns one start of a run."""
    values = json.loads(json.dumps(asdict(config), default=str))
    for name in OF_ONE_START:
        del values[name]
    return values


def differences(
    old: dict[str, Any],
    new: dict[str, Any],
    path: str = "",
) -> list[str]:
    """Return "train.steps: 100 -> 200" for every field in which two configs differ."""
    lines = []
    for name in old.keys() | new.keys():
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{path}{name}.")
        elif before != after:
            lines.append(f"{path}{name}: {before} -> {after}")
    return sorted(lines)


def read_config(
    path: Path,
    *,
    trust: bool,
    parts: tuple[str, ...] | None = None,
) -> Config:
    """Return the Config that `to_json` wrote, here or in an earlier version of seekjax.

    A field that the file lacks has its default. A config.json may come from a stranger: unless
    `trust`, RunError is raised if it names code from outside this package, as module:name, in one
    of the `parts` that the caller uses (default: all). RunError is also raised for a field that
    this version does not know, and for a value of another type than the field's or out of its
    range.
    """
    try:
        text = path.read_text(encoding="utf-8")
        config = _from_json(Config, in_current_form(json.loads(text)), "")
        check_values(config)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise RunError(f"{path} cannot be read as a config: {reason}") from error
    if not trust:
        _refuse_foreign_names(path, config, parts)
    return config


def _refuse_foreign_names(
    path: Path,
    config: Config,
    parts: tuple[str, ...] | None,
) -> None:
    """Raise RunError for the first name that would import code from outside this package."""
    for field, name in named_choices(config):
        is_used = parts is None or field.partition(".")[0] in parts
        if is_used and _imports_code(field, name):
            raise RunError(
                f"{path.parent} names code from outside seekjax: {field} is {name} in its "
                "config.json, and using it runs that module. Add --trust if you trust the folder."
            )


def _imports_code(field: str, name: str) -> bool:
    """Return whether using a name imports code from outside this package.

    A task may have a level after its name, and gym:FAMILY and jsonl:FILE are tasks of this package.
    """
    if field.endswith(".tasks"):
        if name.startswith(("gym:", "jsonl:")):
            return False
        base, _, level = name.rpartition(":")
        name = base if level.isdecimal() else name
    return is_foreign(name)


def _from_json(kind: Any, value: Any, path: str) -> Any:
    """Return a value of JSON as a field of type `kind`; `path` is the field's, for messages.

    Raises ValueError where an object, a list or a path is expected and is not there; plain values
    are checked together, in the config that they make.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        return _dataclass_from_json(kind, value, path)
    if origin is tuple:
        return _tuple_from_json(arguments, value, path)
    if origin in (types.UnionType, typing.Union):
        kinds = [kind for kind in arguments if kind is not type(None)]
        return None if value is None else _from_json(kinds[0], value, path)
    if kind is Path:
        _need(type(value) is str, path, value, "a path")
        return Path(value)
    return value


def _tuple_from_json(kinds: tuple[Any, ...], value: Any, path: str) -> tuple:
    """Return a list of JSON as a tuple of these kinds; an Ellipsis repeats the kind before it."""
    _need(type(value) is list, path, value, "a list")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    _need(len(value) == len(kinds), path, value, f"a list of {len(kinds)}")
    return tuple(_from_json(kind, item, path) for kind, item in zip(kinds, value))


def _dataclass_from_json(
    kind: Any,
    values: Any,
    path: str,
) -> Any:
    """Return the dataclass with these fields, and with defaults for the others."""
    _need(type(values) is dict, path, values, "an object with fields")
    hints = typing.get_type_hints(kind)
    prefix = f"{path}." if path else ""
    made = {}
    for name, value in values.items():
        field = f"{prefix}{name}"
        if name not in hints or field in OF_ONE_START:
            raise ValueError(f"it sets {field}, which this version of seekjax does not have.")
        made[name] = _from_json(hints[name], value, field)

    for field in fields(kind):
        required = field.default is MISSING and field.default_factory is MISSING
        if required and field.name not in made:
            raise ValueError(f"it lacks {prefix}{field.name}.")
    return kind(**made)


def _need(condition: bool, path: str, value: Any, expected: str) -> None:
    """Raise ValueError that a field has a value of another type, unless the condition holds."""
    if not condition:
        shown = ascii(value)
        shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
        raise ValueError(f"{path or 'it'} is {shown}: it must be {expected}.")
