"""Write a small function on lists, words or text from its description: judged by running it in the
sandbox on cases it has not seen.
"""

import hashlib
import json
import math
import random
import re
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

from seekjax.errors import SandboxError
from seekjax.sandbox import Limits, grade
from seekjax.tasks.task import Grade, Problem, speak

NUMBERS, WORDS, TEXT, NUMBER = "a list of numbers", "a list of words", "a text", "a number"
SPOKEN = {
    "en": {"start": "Step by step, with the example.", "makes": "becomes"},
    "zh": {"start": "用例子一步一步来。", "makes": "变成"},
}
LIMITS = Limits(seconds=2.0, output=16 << 10)
CASES = 8
LONGEST = 4000  # letters of a program worth running
FENCE = re.compile(r"```(?:python)?\n(.*?)\n?```", re.DOTALL)


class Step(NamedTuple):
    """One thing done to v: said, written as code, and done. The code runs in the sandbox alone, so
    the tests can hold the two against each other.
    """

    takes: str
    gives: str
    phrase: str  # {k} is the step's constant
    code: str
    apply: Callable[[Any, Any], Any]
    constants: tuple = (None,)


STEPS = {
    "even": Step(
        NUMBERS,
        NUMBERS,
        "keep the even numbers",
        "[x for x in v if x % 2 == 0]",
        lambda v, k: [x for x in v if not x & 1],
    ),
    "odd": Step(
        NUMBERS,
        NUMBERS,
        "keep the odd numbers",
        "[x for x in v if x % 2 == 1]",
        lambda v, k: [x for x in v if x & 1],
    ),
    "above": Step(
        NUMBERS,
        NUMBERS,
        "keep the numbers above {k}",
        "[x for x in v if x > {k}]",
        lambda v, k: [x for x in v if k < x],
        (0, 3, 5),
    ),
    "below": Step(
        NUMBERS,
        NUMBERS,
        "keep the numbers below {k}",
        "[x for x in v if x < {k}]",
        lambda v, k: [x for x in v if k > x],
        (0, 4, 6),
    ),
    "add": Step(
        NUMBERS,
        NUMBERS,
        "add {k} to each",
        "[x + {k} for x in v]",
        lambda v, k: [k + x for x in v],
        (1, 2, 5),
    ),
    "times": Step(
        NUMBERS,
        NUMBERS,
        "multiply each by {k}",
        "[x * {k} for x in v]",
        lambda v, k: [k * x for x in v],
        (2, 3),
    ),
    "square": Step(
        NUMBERS, NUMBERS, "square each", "[x * x for x in v]", lambda v, k: [x**2 for x in v]
    ),
    "absolute": Step(
        NUMBERS,
        NUMBERS,
        "take the absolute value of each",
        "[abs(x) for x in v]",
        lambda v, k: [max(x, -x) for x in v],
    ),
    "running": Step(
        NUMBERS,
        NUMBERS,
        "replace each with the sum up to and including it",
        "[sum(v[:i + 1]) for i in range(len(v))]",
        lambda v, k: list(accumulate(v)),
    ),
    "difference": Step(
        NUMBERS,
        NUMBERS,
        "take each number minus the one before it",
        "[b - a for a, b in zip(v, v[1:])]",
        lambda v, k: [v[i] - v[i - 1] for i in range(1, len(v))],
    ),
    "total": Step(NUMBERS, NUMBER, "return the sum", "sum(v)", lambda v, k: sum(v)),
    "largest": Step(
        NUMBERS,
        NUMBER,
        "return the largest, or 0 if there is none",
        "max(v, default=0)",
        lambda v, k: sorted(v)[-1] if v else 0,
    ),
    "smallest": Step(
        NUMBERS,
        NUMBER,
        "return the smallest, or 0 if there is none",
        "min(v, default=0)",
        lambda v, k: sorted(v)[0] if v else 0,
    ),
    "digits": Step(
        NUMBERS,
        WORDS,
        "write each as a string",
        "[str(x) for x in v]",
        lambda v, k: list(map(repr, v)),
    ),
    "mirror": Step(
        WORDS,
        WORDS,
        "reverse each word",
        "[x[::-1] for x in v]",
        lambda v, k: ["".join(reversed(x)) for x in v],
    ),
    "shout": Step(
        WORDS,
        WORDS,
        "make each word upper case",
        "[x.upper() for x in v]",
        lambda v, k: list(map(str.upper, v)),
    ),
    "twice": Step(
        WORDS,
        WORDS,
        "write each word twice without a space",
        "[x + x for x in v]",
        lambda v, k: [2 * x for x in v],
    ),
    "long": Step(
        WORDS,
        WORDS,
        "keep words longer than {k} letters",
        "[x for x in v if len(x) > {k}]",
        lambda v, k: [x for x in v if x[k:]],
        (2, 3, 4),
    ),
    "holding": Step(
        WORDS,
        WORDS,
        "keep words that contain {k!r}",
        "[x for x in v if {k!r} in x]",
        lambda v, k: [x for x in v if x.count(k)],
        ("a", "e", "t"),
    ),
    "by_length": Step(
        WORDS,
        WORDS,
        "sort by length, ties in their old order",
        "sorted(v, key=len)",
        lambda v, k: [x for size in sorted({len(x) for x in v}) for x in v if len(x) == size],
    ),
    "lengths": Step(
        WORDS,
        NUMBERS,
        "replace each word with its length",
        "[len(x) for x in v]",
        lambda v, k: list(map(len, v)),
    ),
    "join": Step(
        WORDS,
        TEXT,
        "join the words with {k!r}",
        "{k!r}.join(v)",
        lambda v, k: k.join(v),
        (" ", "-", ""),
    ),
    "initials": Step(
        WORDS,
        TEXT,
        "join the first letters",
        "''.join(x[0] for x in v)",
        lambda v, k: "".join(x[:1] for x in v),
    ),
    "backward": Step(TEXT, TEXT, "reverse the text", "v[::-1]", lambda v, k: "".join(reversed(v))),
    "upper": Step(
        TEXT, TEXT, "make it upper case", "v.upper()", lambda v, k: "".join(map(str.upper, v))
    ),
    "without": Step(
        TEXT,
        TEXT,
        "remove every {k!r}",
        "v.replace({k!r}, '')",
        lambda v, k: "".join(v.split(k)),
        (" ", "a", "e"),
    ),
    "split": Step(
        TEXT,
        WORDS,
        "split it into words at spaces",
        "v.split()",
        lambda v, k: [x for x in v.split(" ") if x],
    ),
    "occurrences": Step(
        TEXT,
        NUMBER,
        "count how often {k!r} is in it",
        "v.count({k!r})",
        lambda v, k: len(v.split(k)) - 1,
        ("a", "e", "t"),
    ),
    "size": Step(TEXT, NUMBER, "return its length", "len(v)", lambda v, k: sum(1 for _ in v)),
    **{
        f"{name} {kind.split()[-1]}": Step(kind, gives, *rest)
        for kind in (NUMBERS, WORDS)
        for name, gives, *rest in (
            ("ascend", kind, "sort ascending", "sorted(v)", lambda v, k: sorted(v)),
            (
                "descend",
                kind,
                "sort descending",
                "sorted(v, reverse=True)",
                lambda v, k: sorted(v)[::-1],
            ),
            ("reverse", kind, "reverse the order", "v[::-1]", lambda v, k: list(reversed(v))),
            (
                "first",
                kind,
                "keep the first {k}",
                "v[:{k}]",
                lambda v, k: [x for i, x in enumerate(v) if i < k],
                (2, 3, 4),
            ),
            (
                "rest",
                kind,
                "drop the first {k}",
                "v[{k}:]",
                lambda v, k: [x for i, x in enumerate(v) if i >= k],
                (1, 2),
            ),
            (
                "other",
                kind,
                "keep every second one, from the first on",
                "v[::2]",
                lambda v, k: [x for i, x in enumerate(v) if i % 2 == 0],
            ),
            (
                "unique",
                kind,
                "drop repeats, keeping the first of each",
                "list(dict.fromkeys(v))",
                lambda v, k: [x for i, x in enumerate(v) if x not in v[:i]],
            ),
            (
                "count",
                NUMBER,
                "return how many there are",
                "len(v)",
                lambda v, k: sum(1 for _ in v),
            ),
        )
    },
}
Chain = list[tuple[str, Any]]  # of (name of a step, its constant)


class Program:
    """Levels are numbers of steps. Programs that do the same on 32 fixed inputs are one problem,
    however they are described; no step is without effect.
    """

    name = "program"
    levels = range(1, 6)

    def make(self, rng: random.Random, level: int) -> Problem:
        """A problem that has an answer."""
        while True:
            kind = rng.choice((NUMBERS, WORDS, TEXT))
            chain = draw_chain(rng, kind, level)
            key = chain and behaviour(chain, inputs_of(kind))
            if not key or any(
                behaviour(less, inputs_of(kind)) == key for less in shorter(chain, kind)
            ):
                continue
            inputs = [
                draw_input(rng, kind, size) for size in (0, *rng.choices(range(2, 9), k=CASES))
            ]
            values = [follow(chain, value) for value in inputs]
            shown = [i for i in range(len(inputs)) if inputs[i] and values[i]]
            if (
                not shown
                or len(set(map(json.dumps, values))) < 4
                or any(
                    behaviour(less, inputs) == behaviour(chain, inputs)
                    for less in shorter(chain, kind)
                )
            ):
                continue  # the cases do not tell the program from a simpler one
            example = min(shown, key=lambda i: len(repr((inputs[i], values[i]))))
            cases = [
                [[value], result]
                for i, (value, result) in enumerate(zip(inputs, values))
                if i != example
            ]
            data = {
                "function": "f",
                "kind": kind,
                "steps": [list(step) for step in chain],
                "example": [inputs[example], values[example]],
                "cases": cases,
            }
            said = ", then ".join(STEPS[name].phrase.format(k=k) for name, k in chain)
            prompt = (
                f"Write a Python function f(v). v is {kind}: {said}.\nExample: "
                f"f({inputs[example]!r}) == {values[example]!r}"
            )
            return Problem(
                self.name,
                level,
                prompt,
                f"{kind} {hashlib.blake2b(key.encode(), digest_size=12).hexdigest()}",
                data,
            )

    def verify(self, problem: Problem, answer: str) -> Grade:
        """Run the answer on the hidden cases; nan where nothing can be run safely."""
        fenced = FENCE.fullmatch(answer.strip())
        program = fenced[1] if fenced else answer.strip()
        if len(program) > LONGEST:
            return Grade(0.0, f"longer than {LONGEST} letters")
        try:
            return Grade(*grade(program, problem.data["function"], problem.data["cases"], LIMITS))
        except SandboxError as error:
            return Grade(math.nan, str(error))

    def solve(self, problem: Problem, rng: random.Random, language: str = "en") -> tuple[str, str]:
        """What each line makes of the example, and the lines."""
        words, (value, _) = speak(self.name, SPOKEN, language), problem.data["example"]
        lines, thoughts = [], [words["start"]]
        for i, (name, k) in enumerate(problem.data["steps"]):
            step, before = STEPS[name], value
            code, value = step.code.format(k=k), step.apply(value, k)
            thoughts.append(f"{code}: {before!r} {words['makes']} {value!r}")
            lines.append(f"    {'return' if i == len(problem.data['steps']) - 1 else 'v ='} {code}")
        return "\n".join(thoughts), "\n".join(["def f(v):", *lines])


def draw_chain(rng: random.Random, kind: str, length: int) -> Chain:
    """So many steps, each taking what the one before gives; [] where it came to a number too
    soon.
    """
    chain = []
    for _ in range(length):
        names = [name for name, step in STEPS.items() if step.takes == kind]
        if not names:
            return []
        name = rng.choice(names)
        chain.append((name, rng.choice(STEPS[name].constants)))
        kind = STEPS[name].gives
    return chain


def draw_input(rng: random.Random, kind: str, size: int) -> Any:
    if kind == NUMBERS:
        return rng.choices(range(-9, 13), k=size)
    words = ["".join(rng.choices("aaeeottnsrl", k=rng.randint(1, 6))) for _ in range(size)]
    words = [rng.choice(words) if rng.random() < 0.2 else word for word in words]  # repeats
    return words if kind == WORDS else " ".join(words)


@lru_cache
def inputs_of(kind: str) -> tuple:
    """The inputs that say which programs are the same."""
    rng = random.Random(kind)
    return tuple(draw_input(rng, kind, size % 10) for size in range(32))


def follow(chain: Chain, value: Any) -> Any:
    for name, k in chain:
        value = STEPS[name].apply(value, k)
    return value


def behaviour(chain: Chain, inputs: tuple | list) -> str:
    return json.dumps([follow(chain, value) for value in inputs])


def shorter(chain: Chain, kind: str) -> list[Chain]:
    """The chain without one step or several neighbours, wherever the rest still fits: what it must
    not behave like.
    """
    kinds = [kind, *(STEPS[name].gives for name, _ in chain)]
    return [
        chain[:i] + chain[j:]
        for i in range(len(chain))
        for j in range(i + 1, len(chain) + 1)
        if kinds[i] == kinds[j]
    ]


PROGRAM = Program()
