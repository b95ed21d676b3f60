"""The steps that the task "program" composes: small functions on a list, words or a text.

Each step is written twice, independently: as `code`, which a solution contains and which runs in
the sandbox alone, and as the function below its table line, which computes expected values here.
The tests hold the two against each other.

    @keep(NUMBERS, "keep the numbers above {k}", "x > {k}", constants=(0, 3, 5))
    def _above(x, k):
        return k < x

    STEPS["above"].phrase.format(k=3)       keep the numbers above 3
    STEPS["above"].code.format(k=3)         [x for x in v if x > 3]
    STEPS["above"].apply([1, 5], 3)         [5]

A new step changes the problems of every seed, because steps are drawn from this table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

# What v is, in the words of the prompt.
NUMBERS = "a list of numbers"
WORDS = "a list of words"
TEXT = "a text"
NUMBER = "a number"  # of which no step takes more


@dataclass(frozen=True)
class Step:
    """One operation on v.

    `{k}` in phrase and code is the step's constant, drawn from `constants`; a step without one has
    the constant None, and its function takes v alone.
    """

    takes: str
    gives: str
    phrase: str
    code: str
    function: Callable[..., Any]
    constants: tuple = (None,)

    def apply(self, value: Any, constant: Any) -> Any:
        """Return what the step makes of a value."""
        if constant is None:
            return self.function(value)
        return self.function(value, constant)


STEPS: dict[str, Step] = {}
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def whole(
    takes: str,
    gives: str,
    phrase: str,
    code: str,
    constants: tuple = (None,),
) -> Decorator:
    """Add a step whose function maps all of v. The function's name, less its underscore, is the
    name of the step.
    """

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__.removeprefix("_")
        STEPS[name] = Step(takes, gives, phrase, code, function, constants)
        return function

    return add


def keep(
    kind: str,
    phrase: str,
    condition: str,
    constants: tuple = (None,),
) -> Decorator:
    """Add a step that keeps the elements x for which its function is true."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        def filtered(v: list, *constant: Any) -> list:
            return [x for x in v if function(x, *constant)]

        name = function.__name__.removeprefix("_")
        code = f"[x for x in v if {condition}]"
        STEPS[name] = Step(kind, kind, phrase, code, filtered, constants)
        return function

    return add


def each(
    takes: str,
    gives: str,
    phrase: str,
    element: str,
    constants: tuple = (None,),
) -> Decorator:
    """Add a step that replaces each element x by what its function returns."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        def mapped(v: list, *constant: Any) -> list:
            return [function(x, *constant) for x in v]

        name = function.__name__.removeprefix("_")
        code = f"[{element} for x in v]"
        STEPS[name] = Step(takes, gives, phrase, code, mapped, constants)
        return function

    return add


def sequence(
    phrase: str,
    code: str,
    constants: tuple = (None,),
    gives: str = "",
) -> Decorator:
    """Add two steps, one on numbers and one on words: "first numbers" and "first words"."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for takes in (NUMBERS, WORDS):
            name = f"{function.__name__.removeprefix('_')} {takes.split()[-1]}"
            STEPS[name] = Step(takes, gives or takes, phrase, code, function, constants)
        return function

    return add


# On numbers.


@keep(NUMBERS, "keep the even numbers", "x % 2 == 0")
def _even(x):
    return not x & 1


@keep(NUMBERS, "keep the odd numbers", "x % 2 == 1")
def _odd(x):
    return x & 1


@keep(NUMBERS, "keep the numbers above {k}", "x > {k}", constants=(0, 3, 5))
def _above(x, k):
    return k < x


@keep(NUMBERS, "keep the numbers below {k}", "x < {k}", constants=(0, 4, 6))
def _below(x, k):
    return k > x


@each(NUMBERS, NUMBERS, "add {k} to each", "x + {k}", constants=(1, 2, 5))
def _add(x, k):
    return k + x


@each(NUMBERS, NUMBERS, "multiply each by {k}", "x * {k}", constants=(2, 3))
def _times(x, k):
    return k * x


@each(NUMBERS, NUMBERS, "square each", "x * x")
def _square(x):
    return x**2


@each(NUMBERS, NUMBERS, "take the absolute value of each", "abs(x)")
def _absolute(x):
    return max(x, -x)


@whole(
    NUMBERS,
    NUMBERS,
    "replace each with the sum up to and including it",
    "[sum(v[:i + 1]) for i in range(len(v))]",
)
def _running(v):
    return list(accumulate(v))


@whole(
    NUMBERS,
    NUMBERS,
    "take each number minus the one before it",
    "[b - a for a, b in zip(v, v[1:])]",
)
def _difference(v):
    return [v[i] - v[i - 1] for i in range(1, len(v))]


@whole(NUMBERS, NUMBER, "return the sum", "sum(v)")
def _total(v):
    return sum(v)


@whole(NUMBERS, NUMBER, "return the largest, or 0 if there is none", "max(v, default=0)")
def _largest(v):
    return sorted(v)[-1] if v else 0


@whole(NUMBERS, NUMBER, "return the smallest, or 0 if there is none", "min(v, default=0)")
def _smallest(v):
    return sorted(v)[0] if v else 0


@each(NUMBERS, WORDS, "write each as a string", "str(x)")
def _digits(x):
    return repr(x)


# On words.


@each(WORDS, WORDS, "reverse each word", "x[::-1]")
def _mirror(x):
    return "".join(reversed(x))


@each(WORDS, WORDS, "make each word upper case", "x.upper()")
def _shout(x):
    return str.upper(x)


@each(WORDS, WORDS, "write each word twice without a space", "x + x")
def _twice(x):
    return 2 * x


@keep(WORDS, "keep words longer than {k} letters", "len(x) > {k}", constants=(2, 3, 4))
def _long(x, k):
    return x[k:]


@keep(WORDS, "keep words that contain {k!r}", "{k!r} in x", constants=("a", "e", "t"))
def _holding(x, k):
    return x.count(k)


@whole(WORDS, WORDS, "sort by length, ties in their old order", "sorted(v, key=len)")
def _by_length(v):
    result = []
    for length in range(max(map(len, v), default=0) + 1):
        result += [x for x in v if len(x) == length]
    return result


@each(WORDS, NUMBERS, "replace each word with its length", "len(x)")
def _lengths(x):
    return len(x)


@whole(WORDS, TEXT, "join the words with {k!r}", "{k!r}.join(v)", constants=(" ", "-", ""))
def _join(v, k):
    return k.join(v)


@whole(WORDS, TEXT, "join the first letters", "''.join(x[0] for x in v)")
def _initials(v):
    return "".join(x[:1] for x in v)


# On a text.


@whole(TEXT, TEXT, "reverse the text", "v[::-1]")
def _backward(v):
    return "".join(reversed(v))


@whole(TEXT, TEXT, "make it upper case", "v.upper()")
def _upper(v):
    return "".join(map(str.upper, v))


@whole(TEXT, TEXT, "remove every {k!r}", "v.replace({k!r}, '')", constants=(" ", "a", "e"))
def _without(v, k):
    return "".join(v.split(k))


@whole(TEXT, WORDS, "split it into words at spaces", "v.split()")
def _split(v):
    return [x for x in v.split(" ") if x]


@whole(TEXT, NUMBER, "count how often {k!r} is in it", "v.count({k!r})", constants=("a", "e", "t"))
def _occurrences(v, k):
    return len(v.split(k)) - 1


@whole(TEXT, NUMBER, "return its length", "len(v)")
def _size(v):
    return sum(1 for _ in v)


# On numbers or words.


@sequence("sort ascending", "sorted(v)")
def _ascend(v):
    return sorted(v)


@sequence("sort descending", "sorted(v, reverse=True)")
def _descend(v):
    return sorted(v)[::-1]


@sequence("reverse the order", "v[::-1]")
def _reverse(v):
    return list(reversed(v))


@sequence("keep the first {k}", "v[:{k}]", constants=(2, 3, 4))
def _first(v, k):
    return [x for i, x in enumerate(v) if i < k]


@sequence("drop the first {k}", "v[{k}:]", constants=(1, 2))
def _rest(v, k):
    return [x for i, x in enumerate(v) if i >= k]


@sequence("keep every second one, from the first on", "v[::2]")
def _other(v):
    return [x for i, x in enumerate(v) if i % 2 == 0]


@sequence("drop repeats, keeping the first of each", "list(dict.fromkeys(v))")
def _unique(v):
    return [x for i, x in enumerate(v) if x not in v[:i]]


@sequence("return how many there are", "len(v)", gives=NUMBER)
def _count(v):
    return sum(1 for _ in v)
