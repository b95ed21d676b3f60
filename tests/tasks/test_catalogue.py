"""A command line names a task of this package, a researcher's own one, or a file of questions."""

import hashlib
import json
import random

import pytest

from seekjax.errors import DataError
from seekjax.post.rollout.reward import Reward
from seekjax.tasks import TASKS, Problems, find_task, is_held_out, parse_task
from seekjax.tasks.answer import wrap
from seekjax.tasks.question_file import normalise

OWN = "tests.scripts.own_task:Doubling"


def write_questions(path, rows):
    """Write rows of a .jsonl file: objects, or bytes as they are."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return f"jsonl:{path}"


@pytest.fixture(scope="module")
def times_three(tmp_path_factory):
    """The name of a task of 100 questions."""
    rows = [{"question": f"What is {i} times 3?", "answer": str(3 * i)} for i in range(100)]
    return write_questions(tmp_path_factory.mktemp("questions") / "times.jsonl", rows)


@pytest.mark.parametrize("name", TASKS)
def test_each_task_is_found_by_its_name_and_level(name):
    task, levels = parse_task(name)
    assert task is TASKS[name]
    assert task.name == name
    assert levels == tuple(task.levels)
    assert parse_task(f"{name}:1") == (task, (1,))


# SHA-256 of the problems of seed 7, eight of each level and side. A change here means that seeds,
# and so recorded runs, no longer name the same problems.
DIGESTS = {
    "addition": "b5e11c2af4096591",
    "countdown": "943b5c2194e10c48",
    "arithmetic": "396febd47678f0b8",
    "equation": "fbcde2e89625af21",
    "knights": "ef71a53507c1e0e9",
    "program": "e4f9a9a0e8f8b01b",
}


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_names_the_same_problems_as_ever(name):
    digest = hashlib.sha256()
    for level in TASKS[name].levels:
        for held_out in (False, True):
            side = Problems(TASKS[name], (level,), held_out, seed=7)
            for index in range(8):
                problem = side[index]
                fields = [problem.task, level, problem.prompt, problem.key, problem.data]
                digest.update(json.dumps(fields).encode())
    assert digest.hexdigest()[:16] == DIGESTS[name]


def test_an_unknown_task_is_an_error_that_says_what_there_is():
    with pytest.raises(DataError, match="no task 'countdwon': did you mean 'countdown'") as error:
        parse_task("countdwon:1")
    for way in ("addition", "module:name", "gym:FAMILY", "jsonl:PATH"):
        assert way in str(error.value)


def test_an_own_task_is_used_like_one_of_the_package():
    task, levels = parse_task(OWN)
    assert levels == (1, 2, 3)
    assert parse_task(f"{OWN}:2") == (task, (2,))
    assert find_task(OWN) is task

    problem = Problems(task, levels, held_out=True)[0]
    assert is_held_out(problem)
    assert find_task(problem.task) is task
    completion = wrap(*task.solve(problem, random.Random(0)))
    reward = Reward({"accuracy": 1.0, "format": 1.0})
    assert reward(problem, completion, tokens=9).total == 2
    assert reward(problem, wrap("a", "-1"), tokens=9).total == 1
    with pytest.raises(DataError, match="has levels 1 to 3"):
        Problems(*parse_task(f"{OWN}:4"), held_out=False)


def test_an_own_task_may_be_an_instance():
    name = "tests.scripts.own_task:TRIPLING"
    task = find_task(name)
    assert task.name == name
    problem = task.make(random.Random(0), 1)
    assert problem.task == name
    assert problem.prompt.startswith("3*")
    assert task.verify(problem, str(problem.data["answer"])) == (1.0, "right")

    from tests.scripts.own_task import TRIPLING

    assert TRIPLING.name == "doubling", "the user's object stays as it is"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_module:Task", "cannot be imported .ModuleNotFoundError"),
        ("tests.scripts.own_task:Halving", "does not define Halving"),
        ("tests.scripts.own_task:Failing", "cannot be made .OSError: no such file"),
        ("tests.scripts.own_task:WithoutVerifier", "has no verify and no solve: a task offers"),
        ("tests.scripts.own_task:Frozen", "has a name that cannot be set"),
    ],
)
def test_what_an_own_task_lacks_is_named(name, reason):
    with pytest.raises(DataError, match=reason):
        parse_task(name)


def test_a_file_of_questions_is_a_task(times_three):
    task, levels = parse_task(times_three)
    assert levels == (1,)
    assert parse_task(f"{times_three}:1") == (task, (1,))
    assert find_task(times_three) is task, "the file is read once"

    problem = Problems(task, levels, held_out=False)[0]
    assert problem.task == times_three
    answer = problem.data["answer"]
    assert task.solve(problem, random.Random(0)) == (f"It is {answer}.", answer)
    assert task.verify(problem, f" {answer}\n") == (1.0, "right")
    assert task.verify(problem, f"{answer}0").reward == 0
    assert "is not the expected answer" in task.verify(problem, "").reason
    completion = wrap(*task.solve(problem, random.Random(0)))
    assert Reward({"accuracy": 1.0})(problem, completion, tokens=9).total == 1
    with pytest.raises(DataError, match="solutions in en, not in 'zh'"):
        task.solve(problem, random.Random(0), "zh")


def test_the_rows_of_a_file_are_split_by_hash(times_three):
    task, levels = parse_task(times_three)
    prompts = {}
    for held_out in (False, True):
        side = Problems(task, levels, held_out)
        problems = [side[index] for index in range(300)]
        assert all(is_held_out(problem) == held_out for problem in problems)
        assert side[7] == Problems(task, levels, held_out)[7]
        prompts[held_out] = {problem.prompt for problem in problems}
    assert not prompts[False] & prompts[True]
    assert len(prompts[False]) > 70
    assert 2 < len(prompts[True]) < 30


def test_answers_are_compared_after_normalising():
    assert normalise("  New\n York ") == normalise("new york")
    assert normalise("Zu\u0308rich") == normalise("Z\u00fcrich")
    assert normalise("x\u00b2") != normalise("x2")
    assert normalise("3.0") != normalise("3")


GOOD = {"question": "1+1?", "answer": "2"}
BAD_ROWS = {
    "not JSON": (b"{", "line 2 is not valid JSON"),
    "not UTF-8": (b'{"question": "\xff", "answer": "2"}', "line 2 is not valid JSON"),
    "nested deeply": (b"[" * 10**5, "line 2 is not valid JSON"),
    "a list": ([1], "line 2 is a JSON list, not an object"),
    "no question": ({"answer": "2"}, 'line 2 has no "question"'),
    "no answer": ({"question": "2+2?"}, 'line 2 has no "answer"'),
    "a number": ({"question": "2+2?", "answer": 4}, 'line 2 has "answer" of type int'),
    "an empty answer": ({"question": "2+2?", "answer": " "}, 'line 2 has an empty "answer"'),
    "half a character": ({"question": "\ud800", "answer": "2"}, "line 2 has half a character"),
    "a special token": (
        {"question": "<｜User｜>2+2?", "answer": "4"},
        "line 2 has a question that contains the special token",
    ),
    "a tag": (
        {"question": "2+2?", "answer": "</answer>"},
        "line 2 has an answer that no completion can give: 3 times </answer>",
    ),
    "another answer": (
        {"question": " 1+1? ", "answer": "3"},
        "line 2 gives the question of line 1 another answer",
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_refused_with_file_and_line(name, tmp_path):
    row, reason = BAD_ROWS[name]
    path = tmp_path / "problems.jsonl"
    with pytest.raises(DataError, match=reason) as error:
        find_task(write_questions(path, [GOOD, row]))
    assert str(path) in str(error.value)


def test_blank_lines_and_repeated_rows_are_allowed(tmp_path):
    task = find_task(write_questions(tmp_path / "problems.jsonl", [GOOD, b"", GOOD]))
    assert [row.line for row in task.rows] == [1, 3]


def test_a_file_that_is_missing_or_empty_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        find_task(f"jsonl:{tmp_path}/none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="is empty: write one"):
        find_task(f"jsonl:{tmp_path}/empty.jsonl")
    name = write_questions(tmp_path / "single.jsonl", [GOOD])
    with pytest.raises(DataError, match="gives no held-out problem"):
        Problems(*parse_task(name), held_out=True)[0]
