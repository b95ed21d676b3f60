"""The functions that chat templates use, each charged for its work: filters and globals."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from jinja2 import TemplateError
from jinja2.filters import do_indent
from jinja2.utils import Namespace

from seekjax.data.template_meter import STEP, charge, charged, size

WIDEST_INDENT = 64  # characters
WIDEST_JSON_INDENT = 16
WIDEST_FIELD = 1000  # characters


def repeat(value: Any, times: int) -> Any:
    """Return `value * times` of a text or a list."""
    charge(size(value) * max(0, times))
    return value * times


def percent(text: str, values: Any) -> str:
    """Return `text % values`, in which no field is wider than WIDEST_FIELD."""
    if re.search(r"\d{4}|\*", text):
        raise TemplateError(f"it formats fields of a width without bound: {text[:40]!r}")
    charge(size(text) + text.count("%") * (WIDEST_FIELD + size(values)))
    return charged(text % values)


def percent_format(text: Any, *values: Any, **named: Any) -> str:
    """Return the filter `format`: the text with its fields replaced, as the operator % does."""
    if values and named:
        raise TemplateError("it formats by position and by name at once")
    return percent(str(charged(text)), named or values)


def strftime_now(pattern: str) -> str:
    """Return the time of now in this pattern, as transformers does."""
    if re.search(r"%\W*\d{3}", str(pattern)):
        raise TemplateError(f"it formats a time as wide as {str(pattern)[:40]!r}")
    charge(WIDEST_FIELD * size(pattern))
    return charged(datetime.now().strftime(pattern))


def metered_dict(values: Mapping[Any, Any] = {}, **named: Any) -> dict[Any, Any]:
    """Return a new dict of these values."""
    return {**charged(values), **charged(named)}


def metered_range(*bounds: int) -> range:
    """Return `range(...)`, charged by its length."""
    numbers = range(*bounds)
    charge(STEP * len(numbers))
    return numbers


class _Namespace(Namespace):
    def __repr__(self) -> str:
        # Jinja's own would be endless for two namespaces that contain each other many times.
        return "<namespace>"


def namespace(*args: Any, **kwargs: Any) -> Namespace:
    """Return a `namespace(...)`, whose attributes a template may set."""
    return _Namespace(*charged(args), **charged(kwargs))


def raise_exception(message: str) -> None:
    """Raise the template's own error."""
    raise TemplateError(message)


def as_text(text: Any) -> str:
    """Return the value as plain text: the filter `safe`, without markup for HTML."""
    return str(charged(text))


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return plain JSON as transformers does; Jinja's own `tojson` escapes it for HTML."""
    if indent is not None and not 0 <= indent <= WIDEST_JSON_INDENT:
        raise TemplateError(f"it indents by {indent}")

    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    pieces = encoder.iterencode(charged(value))
    return "".join(map(charged, pieces))


def indent(
    text: str,
    width: int | str = 4,
    first: bool = False,
    blank: bool = False,
) -> str:
    """Return the text indented as Jinja does, by at most WIDEST_INDENT."""
    if isinstance(width, str):
        margin = width
    else:
        margin = " " * min(width, WIDEST_INDENT + 1)
    if len(margin) > WIDEST_INDENT:
        raise TemplateError(f"it indents by {width if isinstance(width, int) else len(margin)}")

    lines = str(charged(text)).splitlines()
    charge((1 + len(lines)) * len(margin))
    return do_indent(str(text), margin, first, blank)
