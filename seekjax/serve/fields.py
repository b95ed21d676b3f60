"""The JSON body of a request, and its fields by a table: type, range, sentence."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from seekjax.registry import did_you_mean
from seekjax.serve.errors import RequestError, need_field

TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
}


class Field(NamedTuple):
    """What a field may hold; null is the same as leaving it out."""

    type: str  # a key of TYPES; several are joined by |
    least: float | None = None  # of a number, or of the length of a string or array
    most: float | None = None
    choices: tuple[str, ...] = ()  # of a string
    required: bool = False
    items: "Field | None" = None  # of an array


def parse_body(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in a request's body.

    Raises RequestError if it is not JSON, not an object, or not writable as UTF-8.
    """
    try:
        body = json.loads(raw, parse_constant=_refuse_constant)
        json.dumps(body, ensure_ascii=False).encode()  # refuses half a pair of surrogates
    except RecursionError as error:
        raise RequestError("the body nests arrays and objects too deeply.") from error
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise RequestError(f"the body is not valid JSON ({reason}); send an object.") from error
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object.")
    return body


def read_fields(
    body: Mapping[str, Any],
    fields: Mapping[str, Field],
    inside: str = "",
) -> dict[str, Any]:
    """Return the fields of the table that the body has, without those that are null.

    Fields that are not in the table are ignored, as OpenAI-compatible servers do. `inside` is the
    name of the field that holds this object. Raises RequestError for a wrong type or range.
    """
    values = {}
    for name, field in fields.items():
        path = f"{inside}.{name}" if inside else name
        value = body.get(name)
        if value is not None:
            check(value, field, path)
            values[name] = value
        elif field.required:
            raise RequestError(f"{path} is missing: it must be {_expected(field)}.", param=path)
    return values


def check(
    value: Any,
    field: Field,
    path: str,
) -> None:
    """Raise RequestError unless the value is what its field may hold."""
    need_field(_has_type(value, field), path, f"is {_shown(value)}: it must be {_expected(field)}.")
    if field.choices and isinstance(value, str):
        nearest = did_you_mean(value, field.choices)
        need_field(
            value in field.choices,
            path,
            f"is {_shown(value)}{nearest}: it must be {_expected(field)}.",
        )

    size = len(value) if isinstance(value, str | list) else value
    measured = isinstance(size, int | float) and not isinstance(size, bool)
    if measured and field.least is not None:
        need_field(size >= field.least, path, f"is {_shown(value)}: it must be {_expected(field)}.")
    if measured and field.most is not None:
        need_field(size <= field.most, path, f"is {_shown(value)}: it must be {_expected(field)}.")

    if field.items is not None and isinstance(value, list):
        for index, item in enumerate(value):
            check(item, field.items, f"{path}[{index}]")


def _has_type(value: Any, field: Field) -> bool:
    """Return whether a value has one of the field's types; a boolean is not a number."""
    for name in field.type.split("|"):
        if isinstance(value, TYPES[name]):
            if isinstance(value, bool) and name != "boolean":
                continue
            return True
    return False


def _expected(field: Field) -> str:
    """Return what a field may hold, in words."""
    if field.choices:
        return f"one of {', '.join(field.choices)}"
    names = []
    for name in field.type.split("|"):
        names.append(f"an {name}" if name[0] in "aio" else f"a {name}")
    words = " or ".join(names)

    unit = ""
    if "string" in field.type:
        unit = " characters"
    elif "array" in field.type:
        unit = " items"
    if field.least is not None and field.most is not None:
        return f"{words} of {field.least:g} to {field.most:g}{unit}"
    if field.least is not None:
        return f"{words} of at least {field.least:g}{unit}"
    if field.most is not None:
        return f"{words} of at most {field.most:g}{unit}"
    return words


def _shown(value: Any) -> str:
    """Return a value as JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
