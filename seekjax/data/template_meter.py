"""The meter on the work of a chat template: a budget, and what operations are charged.

Each operation is charged in advance for the size of what it reads and may build, against a budget
that grows with the conversation.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from itertools import chain
from typing import Any

from jinja2 import TemplateError

# The unit of the budget is roughly one character read or written.
BASE = 2**22  # of every render
PER_CHARACTER = 64  # of the conversation
STEP = 16  # charge for one turn of a loop, one call of a macro, or looking into a list

DEEPEST = 64  # lists inside lists
LONGEST_INT = 64  # bits

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


def price(
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


def metered_function(function: Callable, name: str = "") -> Callable:
    """Return a filter or a test that charges for its arguments and its result."""
    # Jinja passes the environment or context first to functions that carry this mark.
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)  # which copies the mark
    def metered(*args: Any, **kwargs: Any) -> Any:
        value, *others = args[first:]
        charge(price(name, value, others, kwargs))
        return charged(function(*args, **kwargs))

    return metered
