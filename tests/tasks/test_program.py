"""The task "program": described truly, solved by its own solutions, not by simpler ones, and split
by what programs do."""

import json
import math
import random
from itertools import islice

import pytest

from seekjax.errors import SandboxError
from seekjax.sandbox import Limits, backend, find_backend, grade
from seekjax.tasks.program import (
    MAX_CHARACTERS,
    PROGRAM,
    behaviour,
    draw_input,
    follow,
    inputs_of,
    shorter,
)
from seekjax.tasks.program_steps import NUMBERS, STEPS, TEXT, WORDS
from seekjax.tasks.task import Problems, is_held_out

try:
    find_backend()
    needs_sandbox = pytest.mark.parametrize("here", [True], ids=["sandbox"])
except SandboxError:
    needs_sandbox = pytest.mark.skip(
        reason="no sandbox works here: tests/sandbox/test_sandbox.py asserts the refusal"
    )


forget = backend._find_backend.cache_clear


def problems(count, level=None):
    rng = random.Random(level or 0)
    return [
        PROGRAM.make(rng, level or PROGRAM.levels[i % len(PROGRAM.levels)]) for i in range(count)
    ]


@needs_sandbox
def test_every_step_does_what_its_code_does(here):
    rng = random.Random(0)
    inputs = {
        kind: [draw_input(rng, kind, size) for size in (0, 2, 7)] for kind in (NUMBERS, WORDS, TEXT)
    }
    tries = [
        (f"{name} {k}", step.code.format(k=k), value, step.apply(value, k))
        for name, step in STEPS.items()
        for k in step.constants
        for value in inputs[step.takes]
    ]
    code = {label: code for label, code, *_ in tries}
    program = (
        "STEPS = {"
        + ", ".join(f"{label!r}: lambda v: {text}" for label, text in code.items())
        + "}\ndef f(label, v): return STEPS[label](v)"
    )
    cases = [([label, value], result) for label, _, value, result in tries]
    assert grade(program, "f", cases, Limits(seconds=20)) == (1.0, "right")
    assert len(tries) > 150


@needs_sandbox
@pytest.mark.parametrize("level", PROGRAM.levels)
def test_solutions_are_right_and_simpler_programs_are_not(here, level):
    for problem in problems(3, level):
        thought, answer = PROGRAM.solve(problem, random.Random(level))
        assert PROGRAM.verify(problem, answer) == (1.0, "right")
        assert thought.splitlines()[-1].endswith(f"becomes {problem.data['example'][1]!r}")
        assert len(thought.splitlines()) == level + 1
        assert PROGRAM.solve(problem, random.Random(level), "zh")[1] == answer
        steps = problem.data["steps"]
        less = PROGRAM.verify(
            problem,
            answer.replace(f"return {STEPS[steps[-1][0]].code.format(k=steps[-1][1])}", "return v"),
        )
        assert less.reward == 0
        assert " is " in less.reason
        assert ", not " in less.reason


@needs_sandbox
def test_verify_reads_one_program_and_nothing_more(here):
    problem = problems(1, 2)[0]
    answer = PROGRAM.solve(problem, random.Random(0))[1]
    value = problem.data["example"][1]
    right = [
        answer,
        f"\n{answer}\n",
        f"```python\n{answer}\n```",
        f"```\n{answer}\n```",
        f"import re\n{answer}",
    ]
    wrong = [
        "",
        " ",
        "right",
        f"Here it is:\n{answer}",
        f"```python\n{answer}\n``` so there",
        f"def f(v): return {value!r}",
        "def g(v): return v",
        answer + "\nraise SystemExit",
        answer + "#" * MAX_CHARACTERS,
        answer.replace("def f", "async def f"),
        "```python\n```",
        "\x00",
        "\ud800",
    ]
    assert [PROGRAM.verify(problem, text).reward for text in right] == [1.0] * len(right)
    verdicts = [PROGRAM.verify(problem, text) for text in wrong]
    assert not any(grade.reward for grade in verdicts)
    assert all(grade.reason and grade.reason != "right" for grade in verdicts)


def test_a_missing_sandbox_is_counted_and_not_rewarded(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    forget()
    try:
        verdict = PROGRAM.verify(problems(1, 1)[0], "def f(v): return v")
        assert math.isnan(verdict.reward)
        assert "install bubblewrap" in verdict.reason
    finally:
        forget()


@pytest.mark.parametrize("level", PROGRAM.levels)
def test_problems_are_as_hard_as_their_level_says(level):
    for problem in problems(40, level):
        data = problem.data
        assert (problem.task, problem.level, len(data["steps"])) == ("program", level, level)
        inputs = [value for (value,), _ in data["cases"]]
        for some in (
            inputs_of(data["kind"]),
            [data["example"][0], *inputs],
        ):  # every step counts, where the verifier looks too
            assert behaviour(data["steps"], some) not in [
                behaviour(less, some) for less in shorter(data["steps"], data["kind"])
            ]
        assert len(inputs) == 8
        assert len({json.dumps(result) for _, result in data["cases"]}) >= 3
        assert all(follow(data["steps"], value) == result for (value,), result in data["cases"])
        assert json.loads(json.dumps(data)) == data
        assert len(problem.prompt) < 500
        assert repr(data["example"][1]) in problem.prompt


def test_a_seed_says_it_all():
    assert [(p.prompt, p.data) for p in problems(20)] == [(p.prompt, p.data) for p in problems(20)]
    assert len({p.prompt for p in problems(200)}) > 150


def test_programs_that_do_the_same_are_one_problem():
    def alike(one, other, kind):
        return behaviour(one, inputs_of(kind)) == behaviour(other, inputs_of(kind))

    assert alike(
        [("even", None), ("reverse numbers", None)],
        [("reverse numbers", None), ("even", None)],
        NUMBERS,
    )
    assert alike(
        [("ascend words", None), ("reverse words", None)], [("descend words", None)], WORDS
    )
    assert alike([("above", 0), ("above", 3)], [("above", 3)], NUMBERS)
    assert not alike([("above", 3)], [("above", 5)], NUMBERS)
    assert not alike([("by_length", None)], [("ascend words", None)], WORDS)
    assert [] in shorter([("backward", None), ("backward", None)], TEXT)  # together they do nothing


def test_the_split_shares_no_problem():
    sides = [
        list(islice((source[i] for i in range(150)), 150))
        for source in (Problems(PROGRAM, (1, 2, 3), held_out) for held_out in (False, True))
    ]
    train, held_out = ({problem.key for problem in side} for side in sides)
    assert not train & held_out
    assert len(train) > 60
    assert len(held_out) > 15
    assert all(is_held_out(problem) for problem in sides[1])
    assert {problem.level for problem in sides[1]} == {1, 2, 3}
