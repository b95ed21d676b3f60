"""config.json of a run: written from a Config, read back into one, and compared."""

import json
import types
import typing
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from seekjax.config import Config
from seekjax.errors import RunError


def to_json(config: Config) -> dict[str, Any]:
    """The config as JSON-able dicts."""
    return json.loads(json.dumps(asdict(config), default=str))


def differences(old: dict, new: dict, path: str = "") -> list[str]:
    """ "train.steps: 100 -> 200" for every field in which two configs differ."""
    found = []
    for name in old.keys() | new.keys():
        a, b, here = old.get(name), new.get(name), f"{path}{name}"
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{here}.")
        elif a != b:
            found.append(f"{here}: {a} -> {b}")
    return sorted(found)


def read_config(path: Path) -> Config:
    """The Config that `to_json` wrote. A field it lacks has its default; raises RunError for one
    that this version does not know."""
    try:
        return _made(Config, json.loads(path.read_text()), "")
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"{path} cannot be read as a config: {str(error).partition(chr(10))[0]}"
        ) from error


def _made(kind: Any, value: Any, path: str) -> Any:
    """`value` out of JSON as a field of type `kind`."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        known = typing.get_type_hints(kind)
        if unknown := [name for name in value if name not in known]:
            raise ValueError(
                f"it sets {path}{unknown[0]}, which this version of seekjax does not have."
            )
        return kind(
            **{
                f.name: _made(known[f.name], value[f.name], f"{path}{f.name}.")
                for f in fields(kind)
                if f.name in value
            }
        )
    if origin is tuple:
        return tuple(_made(inner[0], item, path) for item in value)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        kinds = [one for one in inner if one is not type(None)]
        fits = [
            one
            for one in kinds
            if is_dataclass(one) and value.keys() <= {f.name for f in fields(one)}
        ]  # what a stage of training sets, tells which it is
        return _made((fits or kinds)[0], value, path)
    return Path(value) if kind is Path else value
