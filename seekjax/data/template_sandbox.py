"""The sandbox of chat templates: Jinja's own, with a meter on the work that a template does.

A template is a program that comes with weights from anywhere. Jinja's sandbox keeps it from
reaching files and Python's internals, but one operation may still build gigabytes from a few
characters, or run for years. Here each operation is charged in advance for the size of what it
reads and may build, against a budget that grows with the conversation. Only the filters and methods
that published templates use are available.

Jinja has hooks for operators, calls and attributes, which `Sandbox` overrides. Elsewhere `_Meter`
inserts calls of `charge`, `charged` and `charged_loop` into the parsed template.
"""

import json
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from itertools import chain
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.filters import do_indent
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

# The unit of the budget is roughly one character read or written.
BASE = 2**22  # of every render
PER_CHARACTER = 64  # of the conversation
STEP = 16  # charge for one turn of a loop, one call of a macro, or looking into a list

DEEPEST = 64  # lists inside lists
LONGEST_INT = 64  # bits
WIDEST_INDENT = 64  # characters
WIDEST_JSON_INDENT = 16
LARGEST_BASE, LARGEST_EXPONENT = 2**16, 16  # of a power

# fmt: off
METHODS = {
    str: frozenset({
        "capitalize", "count", "endswith", "find", "format", "index", "isalnum", "isalpha",
        "isdigit", "islower", "isspace", "isupper", "join", "lower", "lstrip", "removeprefix",
        "removesuffix", "replace", "rfind", "rsplit", "rstrip", "split", "splitlines",
        "startswith", "strip", "title", "upper",
    }),
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
}
FILTERS = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items",
    "join", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr",
    "replace", "reverse", "select", "selectattr", "sort", "string", "title", "trim", "unique",
    "upper",
)
# fmt: on
# Methods and filters whose work is the size of the value times the size of the arguments.
PRODUCTS = {"join", "strip", "lstrip", "rstrip", "trim"}

DICT_VIEWS = (type({}.items()), type({}.keys()), type({}.values()))
COLLECTIONS = (list, tuple, set, frozenset, *DICT_VIEWS)

# What is left of the budget: a list of one number, which `charge` reduces.
_left: ContextVar[list[int]] = ContextVar("left")


@contextmanager
def budget(given: Any = "") -> Iterator[None]:
    """Set the budget of the block, which compiles or renders a template, by the size of `given`."""
    token = _left.set([2**62])  # enough to measure `given`
    try:
        _left.set([BASE + PER_CHARACTER * size(given)])
        yield
    finally:
        _left.reset(token)


def charge(amount: int) -> None:
    """Reduce the budget. Raises TemplateError once it is used up."""
    left = _left.get()
    left[0] -= amount
    if left[0] < 0:
        raise TemplateError("it builds far more than a conversation of this size needs")


def size(value: Any, depth: int = DEEPEST) -> int:
    """Return the work of reading or writing a value, up to a little over the rest of the budget.

    An element that a collection holds several times counts as often.

    Raises:
        TemplateError: the value has an integer or a nesting beyond the limits.
    """
    if depth == 0:
        raise TemplateError(f"it puts lists into lists more than {DEEPEST} deep")
    if isinstance(value, str):
        return 1 + len(value)
    if isinstance(value, int) and value.bit_length() > LONGEST_INT:
        raise TemplateError(f"it computes with integers of more than {LONGEST_INT} bits")

    if isinstance(value, Mapping):
        parts = chain.from_iterable(value.items())
    elif isinstance(value, COLLECTIONS):
        parts = value
    else:
        return 1

    total = STEP
    for part in parts:
        total += size(part, depth - 1)
        if total > _left.get()[0]:
            break
    return total


def charged(value: Any) -> Any:
    """Charge for the size of a value, and return it."""
    charge(size(value))
    return value


def charged_loop(values: Any) -> Any:
    """Charge for the length of what a loop iterates over, and return it."""
    length = len(values) if isinstance(values, Sized) else 0
    charge(STEP * (1 + length))
    return values


def concatenate(*values: Any) -> str:
    """Return `a ~ b ~ ...`."""
    texts = [str(charged(value)) for value in values]
    return "".join(texts)


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with a meter. Compile and render inside a `budget`."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    # Called from compiled templates, where `_Meter` inserts them.
    charge = staticmethod(charge)
    charged = staticmethod(charged)
    charged_loop = staticmethod(charged_loop)
    concatenate = staticmethod(concatenate)

    def __init__(self):
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=charged,
            extensions=["jinja2.ext.loopcontrols"],
        )
        self.filters = {name: _metered(self.filters[name], name) for name in FILTERS}
        self.filters |= {"tojson": to_json, "indent": indent, "safe": as_text}
        self.tests = {name: _metered(test) for name, test in self.tests.items()}
        self.globals = {
            "namespace": namespace,
            "range": metered_range,
            "raise_exception": raise_exception,
        }

    def compile_metered(self, source: str) -> Template:
        """Return a template ready to render; whatever is wrong with the source is raised."""
        tree = _Meter().visit(self.parse(source))
        tree.set_environment(self).set_lineno(1)
        return self.from_string(tree)

    def is_safe_attribute(
        self,
        obj: Any,
        attr: str,
        value: Any,
    ) -> bool:
        """Allow METHODS of built-in types, and what Jinja allows of all other types."""
        if not super().is_safe_attribute(obj, attr, value):
            return False

        for kind, names in METHODS.items():
            if isinstance(obj, kind):
                return attr in names
        return type(obj).__module__ != "builtins"

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Charge for the key, which is hashed."""
        return super().getitem(obj, charged(argument))

    def call_binop(
        self,
        context,
        operator: str,
        left: Any,
        right: Any,
    ) -> Any:
        """Allow arithmetic on numbers, with small powers, and `+` on anything."""
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))

        if operator == "**":
            allowed = numbers and abs(left) <= LARGEST_BASE and abs(right) <= LARGEST_EXPONENT
        else:
            allowed = numbers or operator == "+"
        if not allowed:
            raise TemplateError(
                f"a chat template has no need of {type(left).__name__} {operator} "
                f"{type(right).__name__}"
            )

        return super().call_binop(context, operator, charged(left), charged(right))

    def call(self, context, function, *args, **kwargs):
        """Charge for a built-in method before it is called."""
        if isinstance(function, types.BuiltinMethodType):
            own = function.__self__
            # Looking up a key does not read the whole dict.
            value = None if isinstance(own, Mapping) else own
            internal = ("_loop_vars", "_block_vars")  # Jinja's own arguments
            given = {name: arg for name, arg in kwargs.items() if name not in internal}
            charge(_price(function.__name__, value, args, given))

        return super().call(context, function, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return the metered replacement of a string's own format method."""
        if super().wrap_str_format(value) is None or value.__name__ != "format":
            return None

        def metered_format(*args: Any, **kwargs: Any) -> str:
            return _Formatter(self).vformat(str(value.__self__), args, kwargs)

        return metered_format


class _Formatter(SandboxedFormatter):
    """The formatter of "...".format: charges for each field, at most three digits wide."""

    def convert_field(self, value: Any, conversion: Any) -> Any:
        return super().convert_field(charged(value), conversion)

    def format_field(self, value: Any, format_spec: str) -> Any:
        if re.search(r"\d{4}", format_spec):
            raise TemplateError(f"it formats a field as wide as {format_spec[:40]!r}")
        return charged(super().format_field(charged(value), format_spec))


class _Meter(NodeTransformer):
    """Inserts charges into a parsed template where Jinja's sandbox has no hook."""

    def visit_Concat(self, node: Any) -> Any:
        node = self.generic_visit(node)
        return _call("concatenate", *node.nodes)

    def visit_Compare(self, node: Any) -> Any:
        node = self.generic_visit(node)
        node.expr = _call("charged", node.expr)
        for operand in node.ops:
            operand.expr = _call("charged", operand.expr)
        return node

    def visit_Getitem(self, node: Any) -> Any:
        node = self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):  # which copies
            node.node = _call("charged", node.node)
        return node

    def visit_Pair(self, node: Any) -> Any:
        node = self.generic_visit(node)
        node.key = _call("charged", node.key)  # a key is hashed
        return node

    def visit_For(self, node: Any) -> Any:
        node.iter = _call("charged_loop", node.iter)
        return self.visit_Macro(node)

    def visit_Macro(self, node: Any) -> Any:
        """Charge each run of a body for itself and for the plain text that it writes."""
        plain_text = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        node = self.generic_visit(node)
        amount = nodes.Const(STEP + plain_text)
        node.body.insert(0, nodes.ExprStmt(_call("charge", amount)))
        return node

    visit_CallBlock = visit_Block = visit_Macro


def _call(name: str, *args: nodes.Expr) -> nodes.Call:
    """Return a call of one of the sandbox's functions, for a parsed template."""
    return nodes.Call(nodes.EnvironmentAttribute(name), list(args), [], None, None)


def _price(
    name: str,
    value: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> int:
    """Return the charge for a method or filter of that name on a value."""
    own = size(value)
    given = 1 + sum(size(argument) for argument in (*args, *kwargs.values()))

    if name == "replace":
        replacements = str(value).count(str(args[0])) if args else own
        return own + given * (1 + replacements)
    if name in PRODUCTS:
        return own * given
    return own + given


def _metered(function: Callable, name: str = "") -> Callable:
    """Return a filter or a test that charges for its arguments and its result."""
    # Jinja passes the environment or context first to functions that carry this mark.
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)  # which copies the mark
    def metered(*args: Any, **kwargs: Any) -> Any:
        value, *others = args[first:]
        charge(_price(name, value, others, kwargs))
        return charged(function(*args, **kwargs))

    return metered


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
