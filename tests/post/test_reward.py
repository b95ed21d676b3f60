"""Rewards come in named parts, agree with their formulas, and a judge that fails is named and never
turned into a wrong answer."""

import math
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seekjax.errors import ConfigError, DataError
from seekjax.post.rollout.reward import Reward, language_share, overlong, verify
from seekjax.tasks import TASKS, Problem, Problems, find_task
from seekjax.tasks.answer import wrap
from seekjax.tasks.gym import WORKER, families

PROBLEM = Problem("addition", 2, "47+85=", "", {"numbers": [47, 85]})
GOOD, WRONG = wrap("7+5=12 carry 1\n4+8+1=13", "132"), wrap("7+5=12", "122")


def test_parts_are_weighted_and_told_apart():
    reward = Reward({"accuracy": 1.0, "format": 0.5})
    assert reward(PROBLEM, GOOD, tokens=20) == (1.5, {"accuracy": 1.0, "format": 1.0}, "right", "")
    assert reward(PROBLEM, WRONG, tokens=20) == (
        0.5,
        {"accuracy": 0.0, "format": 1.0},
        "122 is not 132",
        "",
    )
    assert reward(PROBLEM, "132", tokens=1) == (
        0.0,
        {"accuracy": 0.0, "format": 0.0},
        "<think> is missing",
        "",
    )
    assert (
        reward(PROBLEM, GOOD.removeprefix("<think>"), tokens=20, think_in_prompt=True).total == 1.5
    )
    assert reward(PROBLEM, GOOD, tokens=20, think_in_prompt=True).total == 0
    assert Reward({"format": 1.0})(PROBLEM, GOOD, tokens=20).parts == {
        "accuracy": 1.0,
        "format": 1.0,
    }, "accuracy is shown even where it does not pay"


def test_what_is_cut_off_earns_nothing_and_says_so():
    for text, reason in (
        (GOOD, "cut off before its end"),
        (GOOD[:30], "cut off before its end: </think> is missing"),
    ):
        assert Reward({"accuracy": 1, "format": 1})(PROBLEM, text, tokens=64, truncated=True) == (
            0.0,
            {"accuracy": 0.0, "format": 0.0},
            reason,
            "",
        )
        assert verify(PROBLEM, text, truncated=True)[0] == (0.0, reason)


@pytest.mark.parametrize(
    ("thought", "english", "chinese"),
    [
        ("3+5=8 no", 1, 0),
        ("3+5=8 不", 0, 1),
        ("3+5=8", 0, 0),
        ("", 0, 0),
        ("我们 try 3", 1 / 3, 2 / 3),
        ("don't", 1, 0),
        ("café über", 1, 0),
        ("нет no", 0.5, 0),
        ("かな 不", 0, 0.5),
        ("试3+5不\nyes no", 0.5, 0.5),
        ("x_y", 1, 0),
        ("一二三四 abcd", 0.2, 0.8),
        ("①² 12", 0, 0),
    ],
)
def test_language_is_the_share_of_words(thought, english, chinese):
    assert language_share(thought, "en") == pytest.approx(english)
    assert language_share(thought, "zh") == pytest.approx(chinese)


def test_language_is_of_the_thought_alone():
    reward = Reward({"language": 1.0}, language="zh")
    assert reward(PROBLEM, wrap("进 carry", "132"), tokens=9).total == 0.5
    assert reward(PROBLEM, "进进", tokens=9).total == 0
    for index, language in enumerate(("en", "zh") * 5):
        problem = Problems(TASKS["countdown"], (1,), False)[index]
        text = wrap(*TASKS["countdown"].solve(problem, random.Random(index), language))
        assert Reward({"language": 1.0}, language=language)(problem, text, tokens=9).total == 1
        assert (
            Reward({"language": 1.0}, language={"en": "zh", "zh": "en"}[language])(
                problem, text, tokens=9
            ).total
            == 0
        )


def test_overlong_is_dapos():
    """Equation 13 of 2503.14476, with its own numbers: 16,384 tokens and a cache of 4,096."""
    assert [overlong(tokens, 20480, 4096) for tokens in (0, 16384, 18432, 20480, 30000)] == [
        0,
        0,
        -0.5,
        -1,
        -1,
    ]
    assert Reward({"length": 2.0}, limit=64, cache=16)(PROBLEM, "1" * 500, tokens=56).total == -1, (
        "tokens count, not characters"
    )


@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 2000))
def test_overlong_falls_from_0_to_minus_1(cache, more, tokens):
    limit = cache + more
    assert -1 <= overlong(tokens + 1, limit, cache) <= overlong(tokens, limit, cache) <= 0


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_rewards.py").write_text("""
import math
import numpy
def short(problem, text, tokens): return 1 / tokens + len(problem.prompt) * 0
def whole(problem, text, tokens): return numpy.float32(2)
def raises(problem, text, tokens): raise KeyError("gone")
def nan(problem, text, tokens): return math.nan
def infinite(problem, text, tokens): return math.inf
def nothing(problem, text, tokens): pass
def words(problem, text, tokens): return "1.0"
def few(problem): return 1.0
constant = 3
""")
    (tmp_path / "own_broken.py").write_text("import nowhere_to_be_found")
    monkeypatch.syspath_prepend(tmp_path)


def test_own_rewards(own):
    scored = Reward({"accuracy": 1.0, "own_rewards:short": 2.0, "own_rewards:whole": 1})(
        PROBLEM, GOOD, tokens=4
    )
    assert scored.total == 3.5
    assert scored.parts == {
        "accuracy": 1,
        "format": 1,
        "own_rewards:short": 0.25,
        "own_rewards:whole": 2,
    }
    assert not scored.error


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("raises", "own_rewards:raises raised KeyError: 'gone'"),
        ("nan", "own_rewards:nan returned nan, not a finite number"),
        ("infinite", "returned inf"),
        ("nothing", "own_rewards:nothing returned None, not a finite number"),
        ("words", "returned '1.0', not a finite number"),
        ("few", "raised TypeError"),
    ],
)
def test_own_rewards_that_fail_are_named_and_not_zero(own, name, error):
    scored = Reward({"accuracy": 1.0, f"own_rewards:{name}": 0.0, "own_rewards:short": 1.0})(
        PROBLEM, GOOD, tokens=4
    )
    assert math.isnan(scored.total)
    assert math.isnan(scored.parts[f"own_rewards:{name}"])
    assert scored.parts["accuracy"] == 1
    assert error in scored.error


def test_a_verifier_that_fails_is_named_and_not_zero(monkeypatch):
    broken = Problem("addition", 2, "47+85=", "", {})
    scored = Reward({"accuracy": 1.0})(broken, GOOD, tokens=4)
    assert math.isnan(scored.total)
    assert scored.error == "the verifier of addition failed: KeyError: 'numbers'"
    assert verify(broken, "no form")[2] == "", "what has no form does not reach the verifier"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": {"acuracy": 1}}, "no reward 'acuracy': did you mean 'accuracy'"),
        ({"weights": {}}, "at least one part"),
        ({"weights": {"format": math.nan}}, "finite number"),
        ({"weights": {"format": "1"}}, "finite number"),
        ({"weights": {"length": 1}}, "0 < cache <= limit"),
        ({"weights": {"length": 1}, "limit": 8, "cache": 9}, "0 < cache <= limit"),
        ({"weights": {"language": 1}, "language": "fr"}, "en and zh, not 'fr'"),
        ({"weights": {"own_rewards:absent": 1}}, "own_rewards does not define absent"),
        (
            {"weights": {"absent.module:f": 1}},
            "the reward absent.module:f cannot be imported .ModuleNotFoundError",
        ),
        ({"weights": {":f": 1}}, "no reward ':f'"),
        ({"weights": {"own_broken:f": 1}}, "nowhere_to_be_found"),
        ({"weights": {"own_rewards:constant": 1}}, "it must be a function"),
    ],
)
def test_settings_that_cannot_work_are_told_at_once(own, settings, message):
    with pytest.raises(ConfigError, match=message):
        Reward(**settings)


FAKE = """
import random
class Curriculum:
    def __init__(self): self.attributes = {}
class Sum:
    def __init__(self, seed): self.seed = seed
    def __getitem__(self, index):
        a, b = random.Random(self.seed).choices(range(50), k=2)
        return {"question": f"What is {a} + {b}?", "answer": str(a + b)}
    def score_answer(self, answer, entry):
        return 1.0 if eval(answer) == int(entry["answer"]) else 0.05
class Broken(Sum):
    def score_answer(self, answer, entry): raise RuntimeError("never works")
class Writing(Sum):
    def score_answer(self, answer, entry): return len(open("log", "w").write(answer))
DATASETS = {"sum": (Sum, None), "broken": (Broken, None), "writing": (Writing, None)}
CURRICULA = {}
def create_dataset(name, seed, size): return DATASETS[name][0](seed)
"""


@pytest.fixture(scope="module")
def gym(tmp_path_factory):
    """A stand-in for reasoning-gym whose scorer evaluates the model's text, as some of the real
    ones do. SECONDS is 0.4."""
    folder = tmp_path_factory.mktemp("gym")
    (folder / "reasoning_gym").mkdir()
    (folder / "reasoning_gym" / "__init__.py").write_text("from . import factory\nprint('noise')\n")
    (folder / "reasoning_gym" / "factory.py").write_text(FAKE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setattr("seekjax.tasks.gym.SECONDS", 0.4)
        families.cache_clear()
        WORKER.stop()
        yield folder
    WORKER.stop()
    families.cache_clear()
    sys.modules.pop("reasoning_gym", None)


def test_gym_problems_are_problems(gym):
    task = find_task("gym:sum")
    train, held_out = (
        {p.key: p for p in map(Problems(task, (1,), side).__getitem__, range(40))}
        for side in (False, True)
    )
    assert not train.keys() & held_out.keys()
    assert "reasoning_gym.factory" not in sys.modules
    problem = Problems(task, (1,), False)[3]
    assert problem == Problems(task, (1,), False)[3]
    thought, answer = task.solve(problem, None)
    assert Reward({"accuracy": 1.0})(problem, wrap(thought, answer), tokens=9).total == 1
    assert task.verify(problem, "1+1") == (0.0, "reasoning-gym scores it 0.05"), (
        "scores for trying are not paid"
    )
    with ThreadPoolExecutor(4) as threads:
        assert [
            verdict.reward
            for verdict in threads.map(
                lambda i: task.verify(problem, answer if i % 3 else "1"), range(12)
            )
        ] == [0, 1, 1] * 4
    assert task.verify(problem, "word") == (
        0.0,
        "the text does what no answer does: scoring was stopped",
    )


def test_gym_scorers_run_nothing_of_the_models(gym, tmp_path, monkeypatch):
    task, mark = find_task("gym:sum"), str(tmp_path / "mark")
    monkeypatch.setenv("SECRET", "x")
    problem = task.make(random.Random(0), 1)
    right, start = problem.data["answer"], time.perf_counter()
    for text in (
        f"open({mark!r}, 'w')",
        f"__import__('os').system('touch {mark}')",
        f"exec('import os; os.mkdir({mark!r})')",
        "__import__('os').fork()",
        "open('/etc/passwd').read()",
        "__import__('socket').socket()",
        "__import__('os').write(3, b'{\"score\": 1.0}')",
        "9**9**9**9",
        "__import__('os').kill(__import__('os').getppid(), 9)",
        "'a' * 10**11",
        "[0] * 10**11",
        "exit()",
        "().__class__.__base__.__subclasses__()",
        "print(1)",
        "__import__('time').sleep(99)",
        "(lambda: open)()",
        "type('A', (), {'__eq__': lambda a, b: True})()",
        "(x := 1)",
        "globals()",
        "\0",
        "1" * 10**5,
    ):
        verdict = task.verify(problem, text)
        assert verdict.reward == 0, text
        assert verdict.reason, text
    assert not os.path.exists(mark)
    assert time.perf_counter() - start < 5
    assert task.verify(problem, f"{right}+0").reward == 1, "and what is mathematics is still scored"


def test_gym_scorers_that_fail_are_not_wrong_answers(gym):
    task = find_task("gym:broken")
    problem = task.make(random.Random(0), 1)
    scored = Reward({"accuracy": 1.0})(problem, wrap("a", "1"), tokens=3)
    assert math.isnan(scored.total)
    assert (
        scored.error
        == "the verifier of gym:broken failed: reasoning-gym's scorer raises RuntimeError: "
        "never works"
    )
    assert math.isnan(
        find_task("gym:writing")
        .verify(find_task("gym:writing").make(random.Random(0), 1), "1")
        .reward
    ), "one that needs what is forbidden"
    problem = find_task("gym:sum").make(random.Random(0), 1)
    assert find_task("gym:sum").verify(problem, "1 +") == (
        0.0,
        "reasoning-gym's scorer raises SyntaxError: invalid syntax (<string>, line 1)",
    )
    WORKER.process.kill()
    WORKER.process.wait()
    assert find_task("gym:sum").verify(problem, problem.data["answer"]).reward == 1, (
        "a process that died is started again"
    )


def test_gym_families_and_their_absence(gym, monkeypatch):
    with pytest.raises(DataError, match="no family 'summ': did you mean 'sum'"):
        find_task("gym:summ")
    WORKER.stop()
    families.cache_clear()
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(gym)])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'seekjax\[gym\]'"):
        find_task("gym:sum")
