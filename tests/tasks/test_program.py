"""The task "program": described truly, solved by its own solutions, not by simpler ones, and split
by what programs do."""

import json
import math
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from seekjax.sandbox import Limits, backend, grade
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
from tests.sandbox.available import needs_sandbox


def problems(count, level=None):
    """Problems of one level, or of all in turn."""
    rng = random.Random(level or 0)
    levels = [level] if level else PROGRAM.levels
    return [PROGRAM.make(rng, levels[i % len(levels)]) for i in range(count)]


@needs_sandbox
def test_every_step_does_what_its_code_does():
    """One program holds the code of all steps, and one sandbox runs it on inputs of each kind."""
    rng = random.Random(0)
    inputs = {}
    for kind in (NUMBERS, WORDS, TEXT):
        inputs[kind] = [draw_input(rng, kind, size) for size in (0, 2, 7)]

    functions, cases = [], []
    for name, step in STEPS.items():
        for k in step.constants:
            label = f"{name} {k}"
            functions.append(f"{label!r}: lambda v: {step.code.format(k=k)}")
            values = inputs[step.takes]
            cases.append(([label, values], [step.apply(value, k) for value in values]))

    table = "STEPS = {" + ", ".join(functions) + "}"
    program = table + "\ndef f(label, values): return [STEPS[label](v) for v in values]"
    assert grade(program, "f", cases, Limits(seconds=20)) == (1.0, "right")
    assert len(cases) * 3 > 150


@needs_sandbox
@pytest.mark.parametrize("level", PROGRAM.levels)
def test_solutions_are_right_and_simpler_programs_are_not(level):
    for problem in problems(3, level):
        thought, answer = PROGRAM.solve(problem, random.Random(level))
        assert PROGRAM.verify(problem, answer) == (1.0, "right")
        assert thought.splitlines()[-1].endswith(f"becomes {problem.data['example'][1]!r}")
        assert len(thought.splitlines()) == level + 1
        assert PROGRAM.solve(problem, random.Random(level), "zh")[1] == answer

        name, k = problem.data["steps"][-1]
        without_last = answer.replace(f"return {STEPS[name].code.format(k=k)}", "return v")
        simpler = PROGRAM.verify(problem, without_last)
        assert simpler.reward == 0
        assert " is " in simpler.reason
        assert ", not " in simpler.reason


@needs_sandbox
def test_verify_reads_one_program_and_nothing_more():
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
    with ThreadPoolExecutor(4) as pool:  # a sandbox mostly waits for processes to start
        grades = list(pool.map(lambda text: PROGRAM.verify(problem, text), right + wrong))
    for accepted in grades[: len(right)]:
        assert accepted == (1.0, "right")
    for rejected in grades[len(right) :]:
        assert rejected.reward == 0
        assert rejected.reason
        assert rejected.reason != "right"


def test_a_missing_sandbox_is_counted_and_not_rewarded(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    backend._find_backend.cache_clear()
    try:
        result = PROGRAM.verify(problems(1, 1)[0], "def f(v): return v")
        assert math.isnan(result.reward)
        assert "install bubblewrap" in result.reason
    finally:
        backend._find_backend.cache_clear()


@pytest.mark.parametrize("level", PROGRAM.levels)
def test_problems_are_as_hard_as_their_level_says(level):
    for problem in problems(40, level):
        data = problem.data
        assert problem.task == "program"
        assert problem.level == level
        assert len(data["steps"]) == level
        inputs = [value for (value,), _ in data["cases"]]
        assert len(inputs) == 8

        # Every step counts, on the fixed inputs and on those that the verifier uses.
        chain, kind = data["steps"], data["kind"]
        for values in (inputs_of(kind), [data["example"][0], *inputs]):
            outputs = behaviour(chain, values)
            assert outputs not in [behaviour(part, values) for part in shorter(chain, kind)]

        assert len({json.dumps(result) for _, result in data["cases"]}) >= 3
        assert all(follow(data["steps"], value) == result for (value,), result in data["cases"])
        assert json.loads(json.dumps(data)) == data
        assert len(problem.prompt) < 500
        assert repr(data["example"][1]) in problem.prompt


def test_a_seed_says_it_all():
    assert [(p.prompt, p.data) for p in problems(20)] == [(p.prompt, p.data) for p in problems(20)]
    assert len({p.prompt for p in problems(200)}) > 150


def test_programs_that_do_the_same_are_one_problem():
    def alike(chain, other, kind):
        return behaviour(chain, inputs_of(kind)) == behaviour(other, inputs_of(kind))

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
    keys = {}
    for held_out in (False, True):
        source = Problems(PROGRAM, (1, 2, 3), held_out)
        side = [source[i] for i in range(150)]
        keys[held_out] = {problem.key for problem in side}
    assert not keys[False] & keys[True]
    assert len(keys[False]) > 60
    assert len(keys[True]) > 15
    assert all(is_held_out(problem) for problem in side)
    assert {problem.level for problem in side} == {1, 2, 3}
