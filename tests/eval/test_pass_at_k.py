"""What samples say: estimators against brute force and published numbers, and both commands on a
model that writes nonsense or what it is told."""

import json
from collections import Counter
from dataclasses import replace
from itertools import combinations
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seekjax.commands import sample as keep
from seekjax.commands.sample import chat_row, choose
from seekjax.commands.settings import Sample
from seekjax.config import Config, DataConfig, GrpoConfig
from seekjax.config.generation import EvalConfig
from seekjax.data import DataError
from seekjax.data.chat import BUILT_IN, compile_chat
from seekjax.errors import ConfigError
from seekjax.eval.evaluator import Evaluator, distinct
from seekjax.eval.report import print_and_write
from seekjax.open import open_model
from seekjax.placement import use_mesh
from seekjax.post.rollout.grader import GradedSample
from seekjax.post.rollout.rollouts import Rollouts
from seekjax.post.rollout.statistics import (
    answer_of,
    consensus,
    figures,
    interval,
    pass_at,
    sentence,
)
from seekjax.post.samples.template import ChatFormat
from seekjax.tasks import Problem, find_task
from seekjax.tasks.answer import wrap
from sharding.mesh import MeshConfig
from tests.fixtures import ONE_LAYER, PLAIN, save_run

CONFIG = Config(
    model=ONE_LAYER,
    data=DataConfig(tokenizer="byte", sequence=40),
    kernel=PLAIN,
    mesh=MeshConfig(data=1),
)
SUM = Problem("addition", 1, "3+4=", "3+4", {"numbers": [3, 4]})


def judged(text, right=None, **rest):
    """A sample, right if it says 7 in the right form."""
    formed = text.startswith("<think>") and text.endswith("</answer>")
    right = formed and "<answer>7<" in text.replace(" ", "") if right is None else right
    return GradedSample(
        SUM,
        text,
        rest.pop("reward", float(right)),
        {"accuracy": float(right), "format": float(formed)},
        "",
        **({"tokens": len(text), "truncated": False} | rest),
    )


@given(
    st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n)))
)
def test_pass_at_k_counts_the_draws_that_hold_a_right_one(case):
    samples, right, k = case
    draws = list(combinations([True] * right + [False] * (samples - right), k))
    assert pass_at(k, samples, right) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-12)


def test_a_majority_decides_and_ties_share():
    assert consensus(["7", "7", "8", None], [True, True, False, False]) == 1
    assert consensus(["7", "8", "8", None], [True, False, False, False]) == 0
    assert consensus(["7", "8", None, None], [True, False, False, False]) == 0.5
    assert (
        consensus([None, None], [False, False]) == 0
    )  # no votes, though most samples agree in that


@pytest.mark.parametrize(
    ("right", "tries", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_newcombes_table(right, tries, low, high):
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    assert interval([1.0] * right + [0.0] * (tries - right), tries) == pytest.approx(
        (low, high), abs=5e-5
    )


def test_samples_of_one_problem_are_not_independent():
    """As a bootstrap over problems has it; with samples that agree, eight say no more than one."""
    rng = np.random.default_rng(0)
    values = rng.binomial(8, rng.beta(0.5, 1.5, 400)) / 8
    means = rng.choice(values, (4000, 400)).mean(1)
    np.testing.assert_allclose(
        interval(values.tolist(), 3200), np.quantile(means, (0.025, 0.975)), atol=0.004
    )
    assert interval([1.0, 0.0] * 50, 800) == interval([1.0, 0.0] * 50, 100)
    low, high = interval([0.5] * 10, 80)
    assert low == pytest.approx(0.3932, abs=1e-3)
    assert high == pytest.approx(1 - low)


@given(st.lists(st.sampled_from([0, 0.25, 0.5, 1]), min_size=1, max_size=40))
def test_an_interval_holds_its_mean(values):
    low, high = interval(values, 4 * len(values))
    assert 0 <= low <= sum(values) / len(values) + 1e-12
    assert sum(values) / len(values) - 1e-12 <= high <= 1
    assert low < high


def test_figures_of_made_up_groups():
    right, wrong, bad = (
        judged("<think>a</think><answer>7</answer>"),
        judged("<think>a</think><answer> 8 </answer>"),
        judged("7", tokens=50, truncated=True),
    )
    failed = replace(
        right,
        reward=float("nan"),
        parts={"accuracy": float("nan"), "format": 1.0},
        error="the verifier failed",
    )
    seen = figures(
        [
            [right, wrong, wrong, bad],
            [right, right, bad, wrong],
            [bad] * 4,
            [right, failed, right, right],
        ],
        think_in_prompt=False,
    )
    assert (seen["problems"], seen["samples"], seen["failed"]) == (3, 4, 1)
    assert seen["pass@1"][0] == pytest.approx((1 + 2 + 0) / 12, abs=1e-6)
    assert seen["pass@4"][0] == pytest.approx(2 / 3, abs=1e-6)
    assert seen["pass@2"][0] == pytest.approx((1 - 3 / 6 + 1 - 1 / 6) / 3, abs=1e-6)
    assert seen["cons@4"][0] == pytest.approx(1 / 3, abs=1e-6)
    assert seen["form"] == pytest.approx(6 / 12)
    assert seen["truncated"] == pytest.approx(6 / 12)
    assert "pass@4 66.7% (" in sentence(seen)
    assert "THE VERIFIER FAILED on 1 problems" in sentence(seen)


def test_problems_are_asked_once():
    """Ten held-out sums of two digits cannot be five hundred."""

    def side(index, count):
        return [Problem("addition", 1, f"{index % 6}+0=", str(index % 3))]

    assert [problem.key for problem in distinct(side, 500)] == ["0", "1", "2"]
    assert len(distinct(side, 2)) == 2


def test_what_is_kept():
    asked = Sample(None, None)
    short, long, wrong = (
        judged(wrap(*said)) for said in (("a", "7"), ("a longer one", "7"), ("a", "8"))
    )
    cut, named, broken = (
        judged(wrap("a", "7"), truncated=True),
        judged(wrap("<｜User｜>a", "7")),
        judged(wrap("a\ufffd", "7")),
    )
    group = [long, wrong, short, short, cut, named, broken]
    assert choose(group, False, asked) == [short, long]
    assert choose(group, False, replace(asked, per_problem=1)) == [short]
    assert choose(group, False, replace(asked, keep="all")) == [wrong, short, long]
    mixed = judged(wrap("7 是 seven", "7"))
    assert (
        chat_row(judged(wrap("a", "8"), reward=float("nan")))["reward"] is None
    )  # JSON has no NaN
    assert choose([mixed, long], False, replace(asked, language="en")) == [long]
    assert choose([mixed], False, asked) == [mixed]
    assert chat_row(judged("a</think><answer>7</answer>", right=True), "<think>\n")["messages"][
        1
    ] == {
        "role": "assistant",
        "content": "<think>\na</think><answer>7</answer>",
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_run(replace(CONFIG, grpo=GrpoConfig(max_new=12)), folder)
    compile_chat(BUILT_IN["r1"]).save(folder)
    return folder


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.mesh
def test_eval_of_a_task_is_the_same_for_any_batch_and_on_a_mesh(run, command):
    asked = ["eval", run, "--task", "countdown:1", "--problems", 6, "--samples", 2]
    status, out, _ = command(*asked, "--batch", 8)
    report = run / "eval-countdown-1.json"
    seen = json.loads(report.read_text())
    assert status == 0
    assert out.startswith("countdown:1: 6 held-out problems x 2: pass@1 0.0% (0.0% to ")
    assert str(report) in out
    assert seen["floor"]["pass@1"] < seen["floor"]["pass@2"]
    assert seen["max_new"] == 12
    assert seen["template"] == "auto"
    assert command(*asked, "--batch", 8, "--report", run / "again.json")[0] == 0
    assert json.loads((run / "again.json").read_text()) == seen
    with use_mesh(CONFIG.mesh):
        one = texts(run, rows=8)
        assert texts(run, rows=8, seed=1) != one
    with use_mesh(MeshConfig(data=2)):
        assert texts(run, rows=4) == one


def test_a_report_that_cannot_be_written_is_a_sentence_and_the_figures_are_told(tmp_path, capsys):
    seen = figures([[judged(wrap("a", "7"))]], think_in_prompt=False)
    with pytest.raises(DataError, match=r"cannot be written .* --report"):
        print_and_write(EvalConfig(task=("addition:1",)), seen, 0.0, tmp_path / "no" / "where.json")
    assert capsys.readouterr().out.startswith(
        "addition:1: 1 held-out problems x 1: pass@1 100.0% ("
    )


def texts(run, rows, seed=0):
    exam = Evaluator(
        open_model(run),
        EvalConfig(task=("countdown:1",), problems=6, samples=2, seed=seed),
        held_out=True,
        rows=rows,
    )
    return [sample.text for some in exam for group in some for sample in group]


def test_sample_writes_what_fine_tuning_reads(run, command, monkeypatch, tmp_path):
    """A model that is right once in three, put in the sampler's place."""

    def draw(rollouts, variables, problems, group, key, first, size):
        rows = []
        for problem in problems:
            thought, answer = find_task(problem.task).solve(problem, Random(0))
            rows += [
                wrap(thought, said, think_in_prompt=True) + "<｜end▁of▁sentence｜>" * ended
                for said, ended in ((answer, True), ("1", True), (answer, False))
            ]
        ids = [rollouts.grader.tokenizer.encode(text, special=True) for text in rows]
        tokens_BS, mask_BT = np.zeros((len(ids), 256), np.int32), np.zeros((len(ids), 255), bool)
        for b, one in enumerate(ids):
            tokens_BS[b, 1 : len(one) + 1], mask_BT[b, : len(one)] = one, True
        texts = {"tokens": tokens_BS, "mask": mask_BT}
        return texts, rollouts.grader(texts, problems, group)

    monkeypatch.setattr(Rollouts, "draw", draw)
    out = tmp_path / "kept.jsonl"
    asked = (
        "sample",
        run,
        "--task",
        "addition:3",
        "countdown:1",
        "--problems",
        10,
        "--samples",
        3,
        "--batch",
        12,
        "--out",
        out,
    )
    status, said, _ = command(*asked)
    assert status == 0
    assert said.startswith("kept 10 of 30 samples (33.3%), of 10 of 10 problems; ")
    assert f"--sft.chats {out}" in said
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert Counter(row["task"] for row in rows) == {"addition": 5, "countdown": 5}
    assert all(row["reward"] == 1 for row in rows)
    opened = open_model(run)
    exam = Evaluator(opened, EvalConfig(task=("addition:3",), problems=1), held_out=False)
    form = ChatFormat(exam.grader.chat, opened.tokenizer)
    [sample] = form.samples(
        rows[0]["messages"]
    )  # the very tokens that were drawn are those that are learnt
    prompt = exam.grader.prompt(exam.problems[0])
    np.testing.assert_array_equal(sample.tokens[: len(prompt)], prompt)
    assert opened.tokenizer.decode(sample.tokens[sample.trained]).startswith(
        rows[0]["messages"][1]["content"].removeprefix("<think>\n")
    )
    before = out.read_text()
    monkeypatch.setattr(keep, "is_right", lambda one: False)
    status, _, err = command(*asked)
    assert status == 2
    assert "none of 30 samples can be kept" in err
    assert out.read_text() == before
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("eval", "RUN"), "name one of --data"),
        (("eval", "RUN", "--data", "x.txt", "--task", "addition"), "name one of --data"),
        (("eval", "RUN", "--task", "countdon"), "did you mean 'countdown'?"),
        (("eval", "RUN", "--task", "countdown:9"), "has levels 1 to 3"),
        (("eval", "RUN", "--task", "countdown", "--samples", "0"), "samples is 0"),
        (("eval", "RUN", "--task", "countdown", "--temperature", "0"), "--samples 1"),
        (
            ("eval", "RUN", "--task", "countdown", "--problems", "4", "--max-new", "5000"),
            "do not fit the model's context of 4096",
        ),
        (("sample", "RUN", "--task", "addition", "--out", "kept.txt"), "reads .jsonl"),
        (("sample", "RUN", "--out", "kept.jsonl"), "there is no task"),
        (
            ("sample", "RUN", "--task", "addition", "--out", "no/where.jsonl"),
            "there is no folder no",
        ),
    ],
)
def test_bad_input_is_one_sentence(run, command, argv, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = command(*(run if word == "RUN" else word for word in argv))
    assert status == 2
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_run_is_asked_as_it_was_taught(run):
    with use_mesh(CONFIG.mesh):
        opened, asked = open_model(run), EvalConfig(task=("addition:1",), problems=4)
        own, other = (
            Evaluator(opened, replace(asked, template=name), held_out=True)
            for name in ("auto", "v2")
        )
        assert own.grader.think_in_prompt
        assert not other.grader.think_in_prompt
        assert own.rollouts.sampler.max_new == 12
        assert (
            Evaluator(opened, replace(asked, max_new=5), held_out=True).rollouts.sampler.max_new
            == 5
        )
        with pytest.raises(ConfigError):
            Evaluator(opened, replace(asked, problems=0), held_out=True)


def test_programs_that_differ_in_blanks_are_different_answers():
    one, other = (
        judged(wrap("so", said)) for said in ("def f(x):\n  return x", "def f(x):\n    return x")
    )
    assert answer_of(one, False) != answer_of(other, False)
    assert answer_of(judged(wrap("so", "3 +  4")), False) == answer_of(
        judged(wrap("so", "3 + 4")), False
    )
