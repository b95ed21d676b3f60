"""The sandbox of chat templates: Jinja's own, with a meter on the work that a template does.

A template is a program that comes with weights from anywhere. Jinja's sandbox keeps it from
reaching files and Python's internals, but one operation may still build gigabytes from a few
characters, or run for years. Here each operation is charged in advance for the size of what it
reads and may build, against a budget that grows with the conversation. Only the filters and methods
that published templates use are available.

Jinja has hooks for operators, calls and attributes, which `Sandbox` overrides. Elsewhere `_Meter`
inserts calls of `charge`, `charged` and `charged_loop` into the parsed template.
"""

import re
import types
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.visitor import NodeTransformer

from seekjax.data import template_functions as functions
from seekjax.data.template_meter import (
    STEP,
    charge,
    charged,
    charged_loop,
    concatenate,
    metered_function,
    price,
    size,
)

LONGEST = 2**17  # characters of a template
MOST_NODES = 2**13  # of its syntax tree: R1's has 312, and compiling takes a second at the limit
REPEATED = (str, list, tuple)  # by the operator *
LARGEST_BASE, LARGEST_EXPONENT = 2**16, 16  # of a power

# fmt: off
METHODS = {
    str: frozenset({
        "capitalize", "casefold", "count", "endswith", "find", "format", "index", "isalnum",
        "isalpha", "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "isupper", "join",
        "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind",
        "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip",
        "swapcase", "title", "upper",
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
class GenerationTag(Extension):
    """{% generation %}...{% endgeneration %}, which marks an answer for trainers: its contents."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> nodes.Node:
        """Return the contents as a scope of their own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


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
            extensions=["jinja2.ext.loopcontrols", GenerationTag],
        )
        self.filters = {name: metered_function(self.filters[name], name) for name in FILTERS}
        self.filters |= {
            "tojson": functions.to_json,
            "indent": functions.indent,
            "safe": functions.as_text,
            "format": functions.percent_format,
        }
        self.tests = {name: metered_function(test) for name, test in self.tests.items()}
        self.globals = {
            "namespace": functions.namespace,
            "dict": functions.metered_dict,
            "range": functions.metered_range,
            "raise_exception": functions.raise_exception,
            "strftime_now": functions.strftime_now,
        }

    def compile_metered(self, source: str) -> Template:
        """Return a template ready to render; whatever is wrong with the source is raised."""
        parsed = self.parse(source)
        for number, _ in enumerate(parsed.find_all(nodes.Node)):
            if number == MOST_NODES:
                raise TemplateError(f"it has more than {MOST_NODES} parts")

        tree = _Meter().visit(parsed)
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
        """Allow arithmetic on numbers, with small powers, and on texts and lists +, * and %."""
        if operator == "%" and isinstance(left, str):
            return functions.percent(left, right)
        if operator == "*" and isinstance(left, REPEATED) and isinstance(right, int):
            return functions.repeat(left, right)
        if operator == "*" and isinstance(right, REPEATED) and isinstance(left, int):
            return functions.repeat(right, left)

        _check_numbers(operator, left, right)
        return super().call_binop(context, operator, charged(left), charged(right))

    def call(self, context, function, *args, **kwargs):
        """Charge for the arguments, and for a built-in method before it is called."""
        charge(STEP * (len(args) + len(kwargs)))
        if getattr(function, "__name__", "") == "changed":  # of a loop: it compares the arguments
            charge(size(args))
        if isinstance(function, types.BuiltinMethodType):
            own = function.__self__
            # Looking up a key does not read the whole dict.
            value = None if isinstance(own, Mapping) else own
            internal = ("_loop_vars", "_block_vars")  # Jinja's own arguments
            given = {name: arg for name, arg in kwargs.items() if name not in internal}
            charge(price(function.__name__, value, args, given))

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

    def visit_Call(self, node: Any) -> Any:
        """Charge for *lists and **dicts before they become arguments."""
        node = self.generic_visit(node)
        if node.dyn_args is not None:
            node.dyn_args = _call("charged_loop", node.dyn_args)
        if node.dyn_kwargs is not None:
            node.dyn_kwargs = _call("charged_loop", node.dyn_kwargs)
        return node

    visit_Filter = visit_Test = visit_Call

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


def _check_numbers(operator: str, left: Any, right: Any) -> None:
    """Raise TemplateError unless an operator is +, or works on numbers and its power is small."""
    allowed = isinstance(left, (int, float)) and isinstance(right, (int, float))
    if allowed and operator == "**":
        allowed = abs(left) <= LARGEST_BASE and abs(right) <= LARGEST_EXPONENT
    if not allowed and operator != "+":
        raise TemplateError(
            f"a chat template has no need of {type(left).__name__} {operator} "
            f"{type(right).__name__}"
        )


def _call(name: str, *args: nodes.Expr) -> nodes.Call:
    """Return a call of one of the sandbox's functions, for a parsed template."""
    return nodes.Call(nodes.EnvironmentAttribute(name), list(args), [], None, None)
