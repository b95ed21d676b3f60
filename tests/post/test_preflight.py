"""The pre-flight: every diagnosis on made-up samples, and runs that it stops or lets through."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from seekjax.config import Config, DataConfig, GrpoConfig, Objective, TrainConfig
from seekjax.errors import RunError
from seekjax.open import initial_variables, with_initial_model
from seekjax.placement import use_mesh
from seekjax.post.rl import preflight
from seekjax.post.rl.grpo import Reinforcement
from seekjax.post.rl.preflight import collect_findings, describe, diagnose, signal_at
from seekjax.post.rollout.grader import GradedSample
from seekjax.tasks import Problem
from seekjax.tasks.answer import wrap
from sharding.mesh import MeshConfig
from tests.fixtures import ONE_LAYER, PLAIN, save_run

SUM = Problem("addition", 1, "3+4=", "3+4", {"numbers": [3, 4]})
WEIGHTS = {"accuracy": 1.0, "format": 0.1}


SUM = wrap("a", "8")


def sample(text=SUM, accuracy=0.0, formed=1.0, reason="", truncated=False, failed=False, **parts):
    parts = {"accuracy": accuracy, "format": formed} | parts
    total = (
        math.nan
        if failed
        else accuracy + 0.1 * formed + sum(parts.get(name, 0.0) for name in ("own",))
    )
    return GradedSample(
        SUM, text, total, parts, reason, 5, truncated, "own raised KeyError" if failed else ""
    )


RIGHT, WRONG = sample(wrap("a", "7"), 1.0), sample()
BARE = sample("def f():", formed=0.0, reason="<think> is missing")
CUT = sample("<think>a", formed=0.0, reason="cut off before its end", truncated=True)
TORN = sample(
    "<think>a</think> so <answer>7</answer>", formed=0.0, reason="text between the blocks"
)
GOES = ""


@pytest.mark.parametrize(
    ("judged", "weights", "said"),
    [
        ([RIGHT, WRONG, WRONG, WRONG], WEIGHTS, GOES),
        ([CUT] * 64, WEIGHTS, "100% of 64 samples were cut off at grpo.max_new 16"),
        ([CUT] * 63 + [TORN], WEIGHTS, "98% of 64 samples were cut off"),
        ([replace(BARE, truncated=True)] * 8, WEIGHTS, "may not have seen this form"),
        ([BARE] * 8, WEIGHTS, "has not seen this form of chat"),
        ([TORN] * 6 + [BARE] * 2, WEIGHTS, "the most common fault: text between the blocks"),
        ([WRONG] * 8, WEIGHTS, "none of 8 samples is right"),
        (
            [RIGHT, WRONG, WRONG, WRONG] + [WRONG] * 396,
            WEIGHTS,
            "0.2% of 400 samples are right, and below 1% reinforcement does not start",
        ),
        ([RIGHT] * 8, WEIGHTS, "every one of 8 samples is right"),
        (
            [RIGHT] * 4 + [WRONG] * 4,
            WEIGHTS,
            "50.0% of 8 samples are right, but every group of 4 is all right or all wrong",
        ),
        # rewards other than accuracy are signal too
        ([WRONG, TORN, TORN, TORN], WEIGHTS, GOES),
        ([RIGHT, WRONG, WRONG, WRONG] + ([WRONG] * 39 + [TORN]) * 3, WEIGHTS, GOES),
        # little signal is as bad as none
        (
            [WRONG] + [RIGHT] * 131,
            WEIGHTS,
            "99.2% of 132 samples are right and only 3.0% of the groups of 4 have samples that",
        ),
        (
            [WRONG] + [RIGHT] * 63 + [WRONG] * 64,
            WEIGHTS,
            "49.2% of 128 samples are right, but only 3.1% of the groups of 4",
        ),
        ([sample(own=0.2)] + [sample(own=0.1)] * 131, {"own": 1.0}, "only 3.0% of the groups"),
        ([sample(own=0.3), WRONG, WRONG, WRONG], {"accuracy": 1.0, "own": 1.0}, "KeyError"),
        (
            [sample(own=x, truncated=True, formed=0.0) for x in (0.1, 0.2, 0.3, 0.4)],
            {"own": 1.0},
            GOES,
        ),
        ([sample(own=0.1)] * 4, {"own": 1.0}, "all samples of a problem earn the same"),
        # a part without weight is none
        ([WRONG, TORN, TORN, TORN], {"accuracy": 1.0, "format": 0.0}, "none of 4 samples is right"),
        (
            [sample(failed=True)] * 3 + [RIGHT],
            WEIGHTS,
            "the reward failed for 75% of 4 samples (own raised KeyError)",
        ),
        ([sample(failed=True), RIGHT, WRONG, WRONG], WEIGHTS, GOES),
    ],
)
def test_diagnoses(judged, weights, said):
    if said == "KeyError":
        with pytest.raises(KeyError):  # made-up samples must have all parts of their reward
            collect_findings(judged, 4, weights)
        return
    found = collect_findings(judged, 4, weights)
    reason = diagnose(found, weights.get("accuracy", 0.0), 16)
    assert said in reason
    assert bool(reason) == bool(said)
    assert reason.count(". ") <= 1  # one sentence or two
    assert describe(found, 16)[0].startswith(f"pre-flight: {len(judged)} samples")


def test_warnings_stop_nothing():
    def warned(*judged):
        return "\n".join(describe(collect_findings(judged, 4, WEIGHTS), 16)[2:])

    assert not warned(RIGHT, WRONG, WRONG, WRONG)
    assert "25% are cut off at grpo.max_new 16" in warned(RIGHT, WRONG, WRONG, CUT)
    assert "accuracy seldom starts" in warned(WRONG, WRONG, WRONG, TORN)
    assert "A REWARD FAILED for 25%" in warned(RIGHT, WRONG, WRONG, sample(failed=True))


def test_findings_are_counted_by_group():
    found = collect_findings([RIGHT, WRONG, WRONG, TORN] + [WRONG] * 4 + [RIGHT] * 4, 4, WEIGHTS)
    assert (found.right, found.solved, found.signal, found.other) == (5 / 12, 2 / 3, 1 / 3, 1 / 3)
    assert found.form == 11 / 12
    assert found.reward == pytest.approx((5 * 1.1 + 6 * 0.1) / 12)
    assert (
        collect_findings([RIGHT, sample(failed=True), RIGHT, RIGHT], 4, WEIGHTS).signal == 0
    )  # a sample without a reward makes no difference


def test_a_filter_by_outcomes_finds_no_signal_in_other_rewards():
    judged = [replace(answer, outcome=0.0) for answer in (WRONG, TORN, TORN, TORN)]
    assert collect_findings(judged, 4, WEIGHTS).signal == 1
    found = collect_findings(judged, 4, WEIGHTS | {"length": 1.0}, resample=True)
    assert (found.signal, found.other) == (0, 0)
    assert "none of 4 samples is right" in diagnose(found, 1.0, 16)


@pytest.mark.parametrize(
    ("p", "share"), [(0.01, 0.15), (0.03, 0.39), (0.05, 0.56), (0.1, 0.81), (0.2, 0.97)]
)
def test_the_table_of_signal_in_groups_of_sixteen(p, share):
    assert signal_at(p, 16) == pytest.approx(share, abs=0.005)


BASE = Config(
    model=ONE_LAYER,
    data=DataConfig(tokenizer="byte", sequence=40),
    kernel=PLAIN,
    mesh=MeshConfig(data=1),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_run(BASE, folder)
    return folder


def first_batch(config, folder):
    """What a fresh run begins with."""
    training = Reinforcement(with_initial_model(config))
    folder.mkdir()
    with use_mesh(config.mesh):
        parts = training.build(folder)
        state = parts.spec.start(initial_variables(training.config))
        [batch] = parts.source.collect(0, state)
    return batch


@pytest.mark.slow
def test_a_run_that_cannot_learn_is_stopped_and_one_that_can_begins_as_it_would_have(
    base, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(preflight, "SAMPLES", 32)
    post = GrpoConfig(
        tasks=("addition:1",), prompts=4, group=4, max_new=16, objective=Objective(kl=0.0)
    )
    hopeless = replace(BASE, init=base, grpo=post, train=TrainConfig(steps=1, batch=16, seed=4))
    with pytest.raises(RunError, match=r"the pre-flight stops the run: .* of 32 samples"):
        first_batch(hopeless, tmp_path / "hopeless")
    seen = json.loads((tmp_path / "hopeless" / "preflight.json").read_text())
    assert seen["samples"] == 32
    assert seen["form"] == seen["right"] == 0
    assert "form" in seen["diagnosis"]
    assert not (tmp_path / "hopeless" / "rollouts.jsonl").exists()
    capsys.readouterr()

    # What random text differs in, another reward can tell.
    begun = {}
    for checked in (True, False):
        out = tmp_path / str(checked)
        begun[checked] = first_batch(
            replace(
                hopeless,
                grpo=replace(
                    post, rewards=(("tests.scripts.own_reward:vowels", 1.0),), preflight=checked
                ),
            ),
            out,
        )
        said = capsys.readouterr().out
        assert (
            ("pre-flight: 16 samples of training problems" in said)
            == checked
            == (out / "preflight.json").exists()
        )
    assert (tmp_path / "True" / "rollouts.jsonl").read_text() == (
        tmp_path / "False" / "rollouts.jsonl"
    ).read_text()
    for name in ("tokens", "advantage"):
        np.testing.assert_array_equal(begun[True][name], begun[False][name])
