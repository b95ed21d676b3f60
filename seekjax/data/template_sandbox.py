"""Where chat templates run: Jinja's sandbox, with a meter on what a template builds and on how
often it goes around.

A template is a program that comes with weights from anywhere. Jinja's own sandbox lets it reach
nothing, but any operation may make gigabytes of a few characters or run for years. Here every
operation first pays for the size of what it reads and may build, from a budget that grows with the
conversation, and there are only the filters and methods that published templates use.
"""

import json
import re
import types
from collections.abc import Mapping, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.filters import do_indent
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

BASE, PER_CHARACTER = (
    2**22,
    64,
)  # what a render may spend: so much, and so much per character of the conversation
STEP = 16  # the price of one turn of a loop, of one call of a macro, and of looking into a list
DEEPEST = 64  # lists in lists
LONGEST_INT = 64  # bits
METHODS = {
    str: frozenset(
        {
            "capitalize",
            "count",
            "endswith",
            "find",
            "format",
            "index",
            "isalnum",
            "isalpha",
            "isdigit",
            "islower",
            "isspace",
            "isupper",
            "join",
            "lower",
            "lstrip",
            "removeprefix",
            "removesuffix",
            "replace",
            "rfind",
            "rsplit",
            "rstrip",
            "split",
            "splitlines",
            "startswith",
            "strip",
            "title",
            "upper",
        }
    ),
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
}
PRODUCTS = {
    "join",
    "strip",
    "lstrip",
    "rstrip",
    "trim",
}  # methods and filters whose work is that of one argument times that of another
FILTERS = (
    "abs",
    "capitalize",
    "count",
    "d",
    "default",
    "dictsort",
    "first",
    "float",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "select",
    "selectattr",
    "sort",
    "string",
    "title",
    "trim",
    "unique",
    "upper",
)

_left: ContextVar[list[int]] = ContextVar("left")


@contextmanager
def budget(given: Any = ""):
    """What is rendered or compiled within may spend what a conversation of this size allows."""
    token = _left.set([2**62])
    try:
        _left.set([BASE + PER_CHARACTER * size(given)])
        yield
    finally:
        _left.reset(token)


def spend(amount: int) -> None:
    """Raises TemplateError once the budget is used up."""
    left = _left.get()
    left[0] -= amount
    if left[0] < 0:
        raise TemplateError("it builds far more than a conversation of this size needs")


def size(value: Any, depth: int = DEEPEST) -> int:
    """How much there is to read or to write of a value, what it holds several times counted as
    often; at most what is left of the budget.
    """
    if depth == 0:
        raise TemplateError(f"it puts lists into lists more than {DEEPEST} deep")
    if isinstance(value, str):
        return 1 + len(value)
    if isinstance(value, int) and value.bit_length() > LONGEST_INT:
        raise TemplateError(f"it reckons with numbers of more than {LONGEST_INT} bits")
    if isinstance(value, Mapping):
        parts = (part for pair in value.items() for part in pair)
    elif isinstance(
        value, (list, tuple, set, frozenset, type({}.items()), type({}.keys()), type({}.values()))
    ):
        parts = value
    else:
        return 1
    total = STEP
    for part in parts:
        total += size(part, depth - 1)
        if total > _left.get()[0]:
            break
    return total


def weighed(value: Any) -> Any:
    """The value, paid for."""
    spend(size(value))
    return value


def walked(values: Any) -> Any:
    """What a loop goes through, paid for by its length."""
    spend(STEP * (1 + (len(values) if isinstance(values, Sized) else 0)))
    return values


def joined(*values: Any) -> str:
    """A ~ b"""
    return "".join(str(weighed(value)) for value in values)


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's, metered. Everything in it must happen within a `budget`."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)
    step, weighed, walked, joined = (
        staticmethod(spend),
        staticmethod(weighed),
        staticmethod(walked),
        staticmethod(joined),
    )

    def __init__(self):
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=weighed,
            extensions=["jinja2.ext.loopcontrols"],
        )
        self.filters = {name: _metered(self.filters[name], name) for name in FILTERS}
        self.filters |= {
            "tojson": tojson,
            "indent": indent,
            "safe": lambda text: str(weighed(text)),
        }
        self.tests = {name: _metered(test) for name, test in self.tests.items()}
        self.globals = {"namespace": namespace, "range": numbers, "raise_exception": complain}

    def compile_metered(self, source: str):
        """Ready to render; raises whatever is wrong with it."""
        tree = _Meter().visit(self.parse(source))
        tree.set_environment(self).set_lineno(1)
        return self.from_string(tree)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        builtin = type(obj).__module__ == "builtins"
        allowed = next((names for kind, names in METHODS.items() if isinstance(obj, kind)), ())
        return super().is_safe_attribute(obj, attr, value) and (
            attr in allowed or not (allowed or builtin)
        )

    def getitem(self, obj: Any, argument: Any) -> Any:
        return super().getitem(obj, weighed(argument))

    def call_binop(self, context, operator: str, left: Any, right: Any) -> Any:
        both = isinstance(left, (int, float)) and isinstance(right, (int, float))
        if (operator == "**" and not (both and abs(left) <= 2**16 and abs(right) <= 16)) or (
            operator != "+" and not both
        ):
            raise TemplateError(
                f"a chat template has no need of {type(left).__name__} {operator} "
                f"{type(right).__name__}"
            )
        return super().call_binop(context, operator, weighed(left), weighed(right))

    def call(self, context, function, *args, **kwargs):
        if isinstance(function, types.BuiltinMethodType):
            given = {
                name: a for name, a in kwargs.items() if name not in ("_loop_vars", "_block_vars")
            }  # Jinja's own
            spend(
                _price(
                    function.__name__,
                    None if isinstance(function.__self__, Mapping) else function.__self__,
                    args,
                    given,
                )
            )
        return super().call(context, function, *args, **kwargs)

    def wrap_str_format(self, value: Any):
        if super().wrap_str_format(value) is None or value.__name__ != "format":
            return None
        return lambda *args, **kwargs: _Formatter(self).vformat(str(value.__self__), args, kwargs)


class _Formatter(SandboxedFormatter):
    """Of "...".format: fields of at most three digits of width, each paid for."""

    def convert_field(self, value, conversion):
        return super().convert_field(weighed(value), conversion)

    def format_field(self, value, spec):
        if re.search(r"\d{4}", spec):
            raise TemplateError(f"it formats a field as wide as {spec[:40]!r}")
        return weighed(super().format_field(weighed(value), spec))


class _Meter(NodeTransformer):
    """Puts payments into a parsed template where Jinja's sandbox has no hook."""

    def visit_Concat(self, node):
        return _call("joined", *self.generic_visit(node).nodes)

    def visit_Compare(self, node):
        node = self.generic_visit(node)
        node.expr = _call("weighed", node.expr)
        for operand in node.ops:
            operand.expr = _call("weighed", operand.expr)
        return node

    def visit_Getitem(self, node):
        node = self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _call("weighed", node.node)
        return node

    def visit_Pair(self, node):  # a key is hashed
        node = self.generic_visit(node)
        node.key = _call("weighed", node.key)
        return node

    def visit_For(self, node):
        node.iter = _call("walked", node.iter)
        return self.visit_Macro(node)

    def visit_Macro(self, node):
        """Each time around pays for itself and for the plain text it writes."""
        text = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        node = self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("step", nodes.Const(STEP + text))))
        return node

    visit_CallBlock = visit_Block = visit_Macro


def _call(name: str, *args):
    return nodes.Call(nodes.EnvironmentAttribute(name), list(args), [], None, None)


def _price(name: str, value: Any, args, kwargs) -> int:
    """Of a method or filter of that name."""
    own, rest = size(value), 1 + sum(size(a) for a in (*args, *kwargs.values()))
    if name == "replace":
        return own + rest * (1 + (str(value).count(str(args[0])) if args else own))
    return own * rest if name in PRODUCTS else own + rest


def _metered(function, name: str = ""):
    @wraps(
        function
    )  # Jinja passes some of them the environment first, which it marks on the function
    def run(*args, **kwargs):
        value, *rest = args[hasattr(function, "jinja_pass_arg") :]
        spend(_price(name, value, rest, kwargs))
        return weighed(function(*args, **kwargs))

    return run


def numbers(*bounds: int) -> range:
    """range()"""
    found = range(*bounds)
    spend(STEP * len(found))
    return found


class _Namespace(Namespace):
    def __repr__(
        self,
    ) -> str:  # of two that name each other many times over, Jinja's would be endless
        return "<namespace>"


def namespace(*args, **kwargs) -> Namespace:
    return _Namespace(*weighed(args), **weighed(kwargs))


def complain(message: str) -> None:
    """raise_exception()"""
    raise TemplateError(message)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators=None,
    sort_keys: bool = False,
) -> str:
    """As transformers has it: plain JSON, where Jinja's own makes it safe for HTML."""
    if indent is not None and not 0 <= indent <= 16:
        raise TemplateError(f"it indents by {indent}")
    pieces = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    ).iterencode(weighed(value))
    return "".join(map(weighed, pieces))


def indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """As Jinja's, by at most 64."""
    margin = width if isinstance(width, str) else " " * min(width, 65)
    if len(margin) > 64:
        raise TemplateError(f"it indents by {width if isinstance(width, int) else len(margin)}")
    spend((1 + len(str(weighed(text)).splitlines())) * len(margin))
    return do_indent(str(text), margin, first, blank)
