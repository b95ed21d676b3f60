"""Write a small function on lists, words or text from its description.

An answer is graded by running it in the sandbox on hidden cases.
"""

import hashlib
import json
import math
import random
import re
from functools import lru_cache
from typing import Any

from seekjax.errors import SandboxError
from seekjax.sandbox import Limits, grade
from seekjax.tasks.program_steps import NUMBERS, STEPS, TEXT, WORDS
from seekjax.tasks.task import Grade, Problem, Solution, words_in

VOCABULARY = {
    "en": {"start": "Step by step, with the example.", "makes": "becomes"},
    "zh": {"start": "用例子一步一步来。", "makes": "变成"},
}
LIMITS = Limits(seconds=2.0, output=16 << 10)
CASES = 8  # hidden ones; one more is the example in the prompt
MAX_CHARACTERS = 4000  # of a program that is run at all
FENCE = re.compile(r"```(?:python)?\n(.*?)\n?```", re.DOTALL)

Chain = list[tuple[str, Any]]  # of (name of a step, its constant)
Case = tuple[Any, Any]  # (input, output)


class Program:
    """Functions of `level` steps, each of which has an effect.

    Programs that do the same on 32 fixed inputs are one problem, however they are described.
    """

    name = "program"
    levels = range(1, 6)

    def make(self, rng: random.Random, level: int) -> Problem:
        """Draw chains of steps and inputs until the cases tell the chain from shorter ones."""
        while True:
            kind = rng.choice((NUMBERS, WORDS, TEXT))
            chain = draw_chain(rng, kind, level)
            if not chain or acts_like_shorter(chain, kind, inputs_of(kind)):
                continue

            cases = draw_cases(rng, chain, kind)
            inputs = [value for value, _ in cases]
            shown = [case for case in cases if all(case)]  # neither input nor output is empty
            varied = len({json.dumps(output) for _, output in cases}) >= 4
            if shown and varied and not acts_like_shorter(chain, kind, inputs):
                break

        # The shortest of them is the example in the prompt; all other cases are hidden.
        example = min(shown, key=lambda case: len(repr(case)))
        cases.remove(example)
        data = {
            "function": "f",
            "kind": kind,
            "steps": [list(step) for step in chain],
            "example": list(example),
            "cases": [[[value], output] for value, output in cases],
        }

        value, output = example
        prompt = (
            f"Write a Python function f(v). v is {kind}: {describe(chain)}.\n"
            f"Example: f({value!r}) == {output!r}"
        )
        outputs = behaviour(chain, inputs_of(kind))
        digest = hashlib.blake2b(outputs.encode(), digest_size=12).hexdigest()
        return Problem(self.name, level, prompt, f"{kind} {digest}", data)

    def verify(self, problem: Problem, answer: str) -> Grade:
        """Run the answer on the hidden cases; the reward is nan if there is no safe way to run it.

        The answer is a program, alone or in one code fence.
        """
        program = answer.strip()
        fenced = FENCE.fullmatch(program)
        if fenced:
            program = fenced[1]
        if len(program) > MAX_CHARACTERS:
            return Grade(0.0, f"longer than {MAX_CHARACTERS} letters")

        try:
            return Grade(*grade(program, problem.data["function"], problem.data["cases"], LIMITS))
        except SandboxError as error:
            return Grade(math.nan, str(error))

    def solve(
        self,
        problem: Problem,
        rng: random.Random,
        language: str = "en",
    ) -> Solution:
        """Write a line of code for each step, and show what each line makes of the example."""
        words = words_in(self.name, VOCABULARY, language)
        value, _ = problem.data["example"]
        chain = problem.data["steps"]

        thoughts = [words["start"]]
        lines = ["def f(v):"]
        for number, (name, k) in enumerate(chain, 1):
            step = STEPS[name]
            code = step.code.format(k=k)
            result = step.apply(value, k)
            thoughts.append(f"{code}: {value!r} {words['makes']} {result!r}")
            lines.append(f"    {'return' if number == len(chain) else 'v ='} {code}")
            value = result
        return "\n".join(thoughts), "\n".join(lines)


def draw_chain(
    rng: random.Random,
    kind: str,
    length: int,
) -> Chain:
    """Draw steps, each of which takes what the one before gives.

    Returns [] if the chain came to a number too soon: no step takes one.
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


def draw_cases(
    rng: random.Random,
    chain: Chain,
    kind: str,
) -> list[Case]:
    """Draw an empty input and CASES others, and compute their outputs."""
    cases = []
    for size in (0, *rng.choices(range(2, 9), k=CASES)):
        value = draw_input(rng, kind, size)
        cases.append((value, follow(chain, value)))
    return cases


def draw_input(
    rng: random.Random,
    kind: str,
    size: int,
) -> Any:
    """Draw a value of a kind: `size` numbers, words, or words of a text."""
    if kind == NUMBERS:
        return rng.choices(range(-9, 13), k=size)

    words = []
    for _ in range(size):
        letters = rng.choices("aaeeottnsrl", k=rng.randint(1, 6))
        words.append("".join(letters))
    words = [rng.choice(words) if rng.random() < 0.2 else word for word in words]  # repeats
    return words if kind == WORDS else " ".join(words)


@lru_cache
def inputs_of(kind: str) -> tuple:
    """Return the inputs that decide which programs are the same."""
    rng = random.Random(kind)
    return tuple(draw_input(rng, kind, size % 10) for size in range(32))


def describe(chain: Chain) -> str:
    """Return a chain in the words of the prompt."""
    phrases = []
    for name, k in chain:
        phrases.append(STEPS[name].phrase.format(k=k))
    return ", then ".join(phrases)


def follow(chain: Chain, value: Any) -> Any:
    """Return what a chain of steps makes of a value."""
    for name, k in chain:
        value = STEPS[name].apply(value, k)
    return value


def behaviour(chain: Chain, inputs: tuple | list) -> str:
    """Return the outputs of a chain on some inputs, as JSON."""
    return json.dumps([follow(chain, value) for value in inputs])


def acts_like_shorter(
    chain: Chain,
    kind: str,
    inputs: tuple | list,
) -> bool:
    """Return whether a shorter chain has the same outputs on these inputs."""
    outputs = behaviour(chain, inputs)
    return any(behaviour(part, inputs) == outputs for part in shorter(chain, kind))


def shorter(chain: Chain, kind: str) -> list[Chain]:
    """Return the chain without one step or several neighbours, wherever the rest still fits."""
    kinds = [kind]  # of v before each step, and behind the last one
    for name, _ in chain:
        kinds.append(STEPS[name].gives)

    chains = []
    for start in range(len(chain)):
        for end in range(start + 1, len(chain) + 1):
            if kinds[start] == kinds[end]:
                chains.append(chain[:start] + chain[end:])
    return chains


PROGRAM = Program()
