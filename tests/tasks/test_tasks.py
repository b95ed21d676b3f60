"""Every problem has an answer that its task accepts and attacks that it does not; training and
held-out problems never meet."""

import json
import math
import random
import re
import time
from collections import Counter
from dataclasses import replace
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekjax.errors import DataError
from seekjax.post.samples.solutions import Solutions, SolutionSettings
from seekjax.tasks import TASKS, Problems, attempt, find_task, is_held_out
from seekjax.tasks.answer import Invalid, Parsed, evaluate, parse, wrap
from seekjax.tasks.countdown import LEVELS, WORDS, chance, floor, ways
from seekjax.tasks.expression import canonical, draw, value, write
from seekjax.tasks.knights import _key

EACH = [
    (name, level)
    for name in ("addition", "countdown", "arithmetic", "equation", "knights")
    for level in TASKS[name].levels
]
each = pytest.mark.parametrize(("name", "level"), EACH)
LONGEST = {
    "addition": (14, 100),
    "countdown": (19, 160),
    "arithmetic": (24, 60),
    "equation": (12, 45),
    "knights": (110, 300),
}  # characters: prompt, thought


def problems(name, level, count=40, held_out=False):
    """The first problems of one level and side."""
    side = Problems(TASKS[name], (level,), held_out)
    return [side[index] for index in range(count)]


@each
def test_solutions_are_short_right_and_of_the_form(name, level):
    task = TASKS[name]
    for index, problem in enumerate(problems(name, level)):
        thought, answer = task.solve(problem, random.Random(index))
        assert task.verify(problem, answer) == (1.0, "right"), problem
        assert parse(wrap(thought, answer)) == Parsed(thought, answer)
        assert len(problem.prompt) <= LONGEST[name][0]
        assert len(thought) <= LONGEST[name][1]
        assert json.loads(json.dumps(problem.data)) == problem.data
        assert problem.task == name
        assert problem.level == level


@each
def test_problems_are_functions_of_seed_and_index(name, level):
    task = TASKS[name]
    first = Problems(task, (level,), False, seed=3)
    for index in (7, 2, 10**9):
        again = Problems(task, (level,), False, seed=3)[index]
        assert first[index] == again
        assert first[index].data == again.data
    assert task.solve(again, random.Random(5)) == task.solve(again, random.Random(5))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["addition", "countdown", "arithmetic", "equation", "knights"])
def test_no_problem_is_on_both_sides(name):
    levels = tuple(TASKS[name].levels)

    def keys(held_out, seeds, count):
        sides = [Problems(TASKS[name], levels, held_out, seed=seed) for seed in seeds]
        return {side[index].key for side in sides for index in range(count)}

    train = keys(False, seeds=(0, 1, 2), count=350)
    held_out = keys(True, seeds=(0, 1, 99), count=35)
    assert train
    assert held_out
    assert not train & held_out
    assert all(map(is_held_out, problems(name, levels[-1], 10, held_out=True)))


def test_the_same_question_is_on_one_side_whoever_asks():
    sums = problems("addition", 1, 1500) + problems("addition", 2, 1500)
    addition = {problem.prompt: problem.key for problem in sums}
    arithmetic = {problem.prompt: problem.key for problem in problems("arithmetic", 1, 1500)}
    shared = arithmetic.keys() & addition.keys()
    assert len(shared) > 20
    assert all(arithmetic[prompt] == addition[prompt] for prompt in shared)


def test_canonical_forms():
    sums = {problem.prompt: problem.key for problem in problems("addition", 1, 300)}
    swapped = {prompt: f"{prompt[2]}+{prompt[0]}=" for prompt in sums if prompt[0] != prompt[2]}
    pairs = [(prompt, other) for prompt, other in swapped.items() if other in sums]
    assert len(pairs) > 20
    assert all(sums[prompt] == sums[other] for prompt, other in pairs)

    key = canonical(("+", 3, ("*", 4, 2)))
    assert key == canonical(("+", ("*", 2, 4), 3))
    assert key != canonical(("*", ("+", 3, 4), 2))
    key = canonical(("-", 9, ("-", 4, 2)))
    assert key == canonical(("+", ("-", 9, 4), 2))
    assert key != canonical(("-", ("-", 9, 4), 2))

    for problem in problems("equation", 3, 100):
        sides = (problem.data["left"], problem.data["right"])
        assert problem.key == "=".join(sorted(f"{a}x{b:+d}" for a, b in sides))

    puzzle = problems("knights", 2, 1)[0]
    for to in permutations(range(3)):  # the same puzzle under other names and in another order
        claims = [
            [
                to[speaker],
                relation,
                *(
                    (to[p] for p in about)
                    if relation in ("same", "differ")
                    else (to[p] if i % 2 == 0 else p for i, p in enumerate(about))
                ),
            ]
            for speaker, relation, *about in puzzle.data["claims"]
        ]
        assert _key(claims[::-1], 3) == puzzle.key


def test_countdown_problems_differ_in_more_than_order():
    for problem in problems("countdown", 1, 100):
        numbers = " ".join(map(str, sorted(problem.data["numbers"])))
        assert problem.key == f"{problem.data['target']} from {numbers}"


@given(st.randoms(use_true_random=False), st.lists(st.integers(1, 99), min_size=1, max_size=5))
def test_expressions_are_written_as_they_are_valued(rng, numbers):
    tree = draw(rng, numbers, "+-*/")
    result = evaluate(write(tree))
    if value(tree) is None:
        assert isinstance(result, Invalid)
    else:
        assert result.value == value(tree)
        assert sorted(result.numbers) == sorted(numbers)


def test_ways_counts_every_expression():
    """Against a plain enumeration of 3! orders, 2 shapes and 4 x 4 operators."""
    numbers, counts = [3, 5, 8], Counter()
    for (a, b, c), first, second in product(permutations(numbers), "+-*/", "+-*/"):
        for tree in ((first, a, (second, b, c)), (second, (first, a, b), c)):
            counts[value(tree)] += 1
    counts.pop(None, None)
    assert ways(numbers, "+-*/") == counts
    assert sum(ways([1, 2, 3, 4], "+-").values()) == 24 * 5 * 8


@pytest.mark.parametrize(
    ("level", "once", "sixteen"), [(1, 0.056, 0.53), (2, 0.097, 0.775), (3, 0.034, 0.405)]
)
def test_random_expressions_solve_no_more_countdown_than_is_known(level, once, sixteen):
    sample = problems("countdown", level, 250)
    assert floor(sample) == pytest.approx(once, abs=0.008)
    assert floor(sample, 16) == pytest.approx(sixteen, abs=0.05)

    problem, rng = sample[0], random.Random(0)
    operators = LEVELS[level].operators
    values = [value(draw(rng, problem.data["numbers"], operators)) for _ in range(3000)]
    valid = [result for result in values if result is not None]
    hits = valid.count(problem.data["target"]) / len(valid)
    assert hits == pytest.approx(float(chance(problem)), abs=0.02)


def test_countdown_says_what_is_wrong():
    task, problem = TASKS["countdown"], problems("countdown", 1, 1)[0]
    problem = replace(problem, prompt="24 from 3 5 9", data={"target": 24, "numbers": [3, 5, 9]})
    for answer, reason in {
        "3*5+9": "right",
        "9+5*3": "right",
        "(3*5) + 9": "right",
        "9-5*-3": "- where a number belongs",
        "3*5": "9 is not used",
        "24": "3 is not used",
        "3*5+9+3": "3 is used too often",
        "3*8": "5 is not used",
        "3*5+9+0": "0 is used but not given",
        "3+5+9": "17 is not 24",
        "3*5/9": "5/3 is not 24",
        "35-9-2": "3 is not used",
        "3*5+9=24": "'=' is not a digit, operator or bracket",
        "3**5+9": "* where a number belongs",
        "3*5+9 or 9+3*5": "'o' is not a digit, operator or bracket",
        "3*5+9-(3-3)": "3 is used too often",
        "3*5+9*1": "1 is used but not given",
        "9**9**9**9": "* where a number belongs",
    }.items():
        assert task.verify(problem, answer) == (float(reason == "right"), reason)
    twice = replace(problem, data={"target": 15, "numbers": [5, 5, 5]})
    assert task.verify(twice, "5+5+5").reward == 1
    assert task.verify(twice, "5*(5-2)").reason == "5 is not used often enough"


def test_countdown_can_be_thought_in_chinese():
    for index, problem in enumerate(problems("countdown", 1)):
        thought, answer = TASKS["countdown"].solve(problem, random.Random(index), "en")
        for word, other in zip(WORDS["en"].values(), WORDS["zh"].values()):
            thought = thought.replace(f" {word}", f" {other}")
        chinese = TASKS["countdown"].solve(problem, random.Random(index), "zh")
        assert (thought, answer) == chinese
    with pytest.raises(DataError, match="words in en and zh, not in 'fr'"):
        TASKS["countdown"].solve(problem, random.Random(0), "fr")


@pytest.mark.parametrize("name", ["addition", "equation", "arithmetic"])
def test_every_line_of_a_trace_is_true(name):
    """Each `left=right` of a trace holds; the lines of arithmetic all have one value."""
    for level in TASKS[name].levels:
        for problem in problems(name, level, 60):
            thought, answer = TASKS[name].solve(problem, random.Random(0))
            lines = thought.split("\n")
            if name == "arithmetic":
                for line in [problem.prompt[:-1], *lines]:
                    assert evaluate(line).value == int(answer)
            else:
                for line in lines:
                    left, right = line.split(" ")[0].split("=")
                    assert signed(left) == signed(right)


def test_equations_hold():
    for level in TASKS["equation"].levels:
        for problem in problems("equation", level):
            (a, b), (c, d), x = problem.data["left"], problem.data["right"], problem.data["x"]
            assert a * x + b == c * x + d
            assert a != c
            for side in problem.prompt.split("="):  # the text says what the data say
                assert [at(side, 1) - at(side, 0), at(side, 0)] in ([a, b], [c, d])


def signed(text):
    """The value of an expression whose numbers may be negative, at its start or in brackets."""
    return evaluate(re.sub(r"^-|\(-", lambda match: match[0][:-1] + "0-", text)).value


def at(side, x):
    """A side of an equation at x, read from its text."""
    return signed(re.sub(r"(\d)([x(])", r"\1*\2", side).replace("x", str(x)))


def test_puzzles_have_one_solution_and_say_so_plainly():
    """The prompt alone, read again from its words, has the answer for its only solution."""
    task = TASKS["knights"]
    for level in task.levels:
        for problem in problems("knights", level, 30):
            solutions = read_solutions(problem)
            assert solutions == [task.solve(problem, random.Random(0))[1]]
            words = solutions[0].split()
            assert task.verify(problem, " ".join(words[-2:] + words[:-2])).reward == 1, "any order"


def read_solutions(problem):
    """The answers that fit the words of the prompt."""
    names = sorted(problem.data["names"])
    claims = problem.prompt.split(", ")
    solutions = []
    for kinds in product((False, True), repeat=len(names)):
        is_knight = dict(zip(names, kinds))
        if all(is_knight[claim[0]] == is_true(claim[3:], is_knight) for claim in claims):
            parts = [f"{name} {'knight' if is_knight[name] else 'knave'}" for name in names]
            solutions.append(" ".join(parts))
    return solutions


def is_true(claim, is_knight):
    """Whether a claim, in words, is true of these kinds."""
    for word, combine in ((" and ", all), (" or ", any)):
        if word in claim:
            return combine(is_true(part, is_knight) for part in claim.split(word))
    *who, what = claim.split()
    kinds = [is_knight[name] for name in who]
    return {
        "knight": kinds[0],
        "knave": not kinds[0],
        "same": len(set(kinds)) == 1,
        "differ": len(set(kinds)) == 2,
    }[what]


HOSTILE = [
    "",
    " ",
    "\0",
    "9**9**9**9",
    "(" * 10**5,
    "9" * 10**5,
    "1+" * 10**4,
    "__import__('os').system('true')",
    "٣",
    "３",
    "nan",
    "inf",
    "1e999",
    "-",
    "--1",
    "0" * 50,
    "knight",
    "A knight " * 10**4,
    "A B C D",
    "<answer>",
    "None",
    "True",
    "\ud800",
    "a" * 10**6,
    "right",
    "1 or 2",
    "x=5",
    "5.0",
    "5/1",
    "+5",
    "any",
]


@pytest.mark.parametrize("name", ["addition", "countdown", "arithmetic", "equation", "knights"])
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_attacks_earn_nothing_and_are_told_why(name, text):
    problem, start = problems(name, TASKS[name].levels[-1], 1)[0], time.perf_counter()
    grade = TASKS[name].verify(problem, text)
    assert grade.reward == 0
    assert 0 < len(grade.reason) < 120
    assert time.perf_counter() - start < 0.3


@settings(max_examples=60)
@given(
    st.sampled_from(EACH), st.integers(0, 5), st.text() | st.text("0123456789+-*/() knightveABCD")
)
def test_verifiers_never_raise(which, index, text):
    name, level = which
    problem = problems(name, level, index + 1)[-1]
    grade = TASKS[name].verify(problem, text)
    assert grade.reward in (0, 1)
    assert not math.isnan(grade.reward)
    assert grade.reason


def test_wrong_arguments_are_errors_that_say_what_is_possible():
    with pytest.raises(DataError, match="no task 'countdwon': did you mean 'countdown'"):
        find_task("countdwon")
    assert find_task("addition") is TASKS["addition"]
    with pytest.raises(DataError, match=r"countdown has levels 1 to 3, not \(4,\)"):
        Problems(TASKS["countdown"], (4,), False)
    with pytest.raises(DataError, match="held-out share is 0"):
        Problems(TASKS["countdown"], (1,), True, share=0)

    class Single:
        name, levels = "single", range(1, 2)

        def make(self, rng, level):
            return problems("addition", 2, 1)[0]

    with pytest.raises(DataError, match="single at levels \\(1,\\) gives no held-out problem"):
        Problems(Single(), (1,), True)[0]


@pytest.mark.parametrize(
    ("name", "level", "least", "most"), [("countdown", 1, 0.13, 0.23), ("addition", 3, 0.52, 0.68)]
)
def test_attempts_have_the_right_form_and_are_right_by_chance(name, level, least, most):
    task = find_task(name)
    problems = Problems(task, (level,), held_out=False)
    tries = [(problems[i], attempt(task, problems[i], random.Random(i))) for i in range(1000)]
    assert all(isinstance(parse(wrap(*solution)), Parsed) for _, solution in tries)
    rewards = [task.verify(problem, answer).reward for problem, (_, answer) in tries]
    assert least < sum(rewards) / 1000 < most
    with pytest.raises(DataError, match="has solutions but no attempts"):
        attempt(find_task("equation"), problems[0], random.Random(0))


@pytest.mark.parametrize(
    "write",
    [attempt, lambda task, problem, rng: task.solve(problem, rng)],
    ids=["attempt", "solution"],
)
def test_countdown_compares_truly_and_answers_what_it_tried_last(write):
    """Each line ends with the target and yes where its last value is the target, else no."""
    task = TASKS["countdown"]
    for index, problem in enumerate(problems("countdown", 1, 200)):
        thought, answer = write(task, problem, random.Random(index))
        for line in thought.split("\n"):
            form = re.fullmatch(r"(?:\S+=(-?\d+) )+(-?\d+)\? (yes|no)", line)
            value, target, outcome = form.groups()
            assert target == str(problem.data["target"])
            assert (value == target) == (outcome == "yes")
        assert (task.verify(problem, answer).reward == 1) == (outcome == "yes")


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_some_of_what_a_base_model_reads_are_attempts(share):
    """A solution always ends right, an attempt seldom."""
    settings = SolutionSettings(None, "en", 511, False, share, "sft")
    side = Solutions("countdown:1", Problems(TASKS["countdown"], (1,), False), 400, settings)
    rewards = []
    for index in range(400):
        problem = side.problems[index]
        answer = parse(side.solution(index, problem)).answer
        rewards.append(TASKS["countdown"].verify(problem, answer).reward)

    right = sum(rewards) / 400
    if share == 0:
        assert right == 1
    assert right == pytest.approx(1 - share + 0.18 * share, abs=0.07)
