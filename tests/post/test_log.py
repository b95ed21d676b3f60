"""What one sees: the viewer on files as a run leaves them, as a model may spoil them and as a crash
may, and pictures from records alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seekjax.commands.rollouts import choose, colour, page, ranges
from seekjax.post.plots import plot_rollouts
from seekjax.post.rollout.grader import GradedSample
from seekjax.post.rollout.log import (
    RolloutLog,
    closing_lines,
    group_record,
    held_out_figures,
    summary,
)
from seekjax.tasks import Problem
from seekjax.terminal import visible
from tests.fixtures import write_rows

SUM = Problem("addition", 1, "3+4=", "3+4", {"numbers": [3, 4]})
ATTACK = (
    "\x1b]0;owned\x07\x1b[2J\x9b31m[red]not markup[/red] :smile: \u202eright to left\u2066 \r\b "
    "gone\u2028end\ud800"
)


def judged(text, accuracy, reward=None, **rest):
    return GradedSample(
        SUM,
        text,
        accuracy + 0.1 if reward is None else reward,
        {"accuracy": accuracy, "format": 1.0},
        **(
            {"reason": "right" if accuracy else "8 is not 7", "tokens": 9, "truncated": False}
            | rest
        ),
    )


def group(*texts):
    samples = [judged(text, float(i == 1), truncated=i == 0) for i, text in enumerate(texts)]
    return group_record(samples, [-0.5, 0.5, 0.0][: len(samples)])


@pytest.fixture
def run(tmp_path):
    rows = []
    for step in (1, 2, 3, 4, 9):
        groups = [group("first", f"second\nof {step}", ATTACK), group("only")]
        rows.append({"step": step, "groups": groups})
    write_rows(tmp_path / "rollouts.jsonl", rows)
    return tmp_path


def test_the_newest_rollout_is_shown_best_samples_first(run, command):
    status, out, _ = command("rollouts", run)
    shown = out.splitlines()
    assert status == 0
    assert shown[0] == "step 9; 2 of the 2 groups kept; rollouts of steps 1 to 4, 9"
    assert "addition:1   1 of 3 right" in shown
    assert "      3+4=" in shown
    at = shown.index("  +0.500  reward 1.1 (accuracy 1, format 1); right; 9 tokens")
    assert shown[at + 1 : at + 3] == ["      second", "      of 9"]
    assert (
        shown.index("  -0.500  reward 0.1 (accuracy 0, format 1); 8 is not 7; 9 tokens CUT OFF")
        > at
    )
    status, out, _ = command("rollouts", run, "--step", 2, "--groups", 1)
    assert status == 0
    assert out.startswith("step 2; 1 of the 2 groups kept")
    assert "of 2" in out
    assert "only" not in out


def test_a_terminal_is_shown_what_the_model_wrote_and_obeys_none_of_it(run, command):
    _, out, _ = command("rollouts", run)
    assert (
        r"\x1b]0;owned\x07\x1b[2J\x9b31m[red]not markup[/red] :smile: \u202eright to "
        r"left\u2066 \r\x08 gone\u2028end\ud800" in out
    )
    assert not set("\x1b\x07\x9b\u202e\u2066\r\b\u2028") & set(out)


@given(st.text() | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Co", "Zl", "Zp"])))
def test_nothing_hidden_is_left(text):
    shown = visible(text)
    assert all(one.isspace() or one.isprintable() for one in shown)
    assert not any(ord(one) < 32 or 127 <= ord(one) < 160 for one in shown)
    shown.encode()


def test_plain_text_stays_as_it_is():
    assert visible("3*5+9=24 对 é [bold]") == "3*5+9=24 对 é [bold]"


def test_colours_tell_better_from_worse(monkeypatch):
    assert colour(0.0, 1.0) == colour(0.0, 0.0) == "dim"
    assert colour(1.0, 1.0) == "rgb(60,240,60)"
    assert colour(-1.0, 1.0) == "rgb(240,60,60)"
    assert colour(0.1, 1.0) == "rgb(132,150,132)"


def test_on_a_terminal_it_is_coloured(run):
    from io import StringIO

    from rich.console import Console

    console = Console(
        file=StringIO(),
        force_terminal=True,
        color_system="truecolor",
        highlight=False,
        soft_wrap=True,
    )
    for piece in page(*choose(run / "rollouts.jsonl", None), 4):
        console.print(piece)
    out = console.file.getvalue()
    assert "38;2;60;240;60m" in out
    assert "38;2;240;60;60m" in out
    assert "\x1b[2J" not in out
    assert "\x1b]0" not in out


def test_held_out_accuracy_comes_with_its_interval():
    figures, said = held_out_figures(
        [judged("a", 1.0)] * 15 + [judged("b", 0.0)] * 133 + [judged("c", 1.0, reward=float("nan"))]
    )
    assert said.startswith("10.1% right (6.2% to 16.0%, 148 distinct problems)")
    assert figures["accuracy_low"] == pytest.approx(0.0624, abs=1e-4)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([1], "1"),
        ([1, 2], "1 and 2"),
        ([1, 2, 3, 4, 9], "1 to 4, 9"),
        ([1, 3, 5, 7, 10], "1 to 7 by 2, 10"),
    ],
)
def test_steps_are_told_shortly(steps, said):
    assert ranges(steps) == said


@pytest.mark.parametrize(
    ("content", "argv", "said"),
    [
        (
            None,
            (),
            "rollouts.jsonl does not exist: name the folder of a reinforcement-learning run",
        ),
        ("", (), "holds no rollout yet"),
        ('{"step": 1, "gro', (), "holds no rollout yet"),
        ("nonsense\n", (), "line 1 is not a rollout"),
        ("[]\n", (), "line 1 is not a rollout"),
        (
            '{"step": 3, "groups": []}\n',
            ("--step", "7"),
            "has no rollout of step 7: it has 3, the nearest being 3",
        ),
        ('{"step": 3}\n', (), "does not hold rollouts at step 3"),
        ('{"step": 3, "groups": [{"samples": 5}]}\n', (), "does not hold rollouts at step 3"),
    ],
)
def test_bad_input_is_one_sentence(command, tmp_path, content, argv, said):
    if content is not None:
        (tmp_path / "rollouts.jsonl").write_text(content)
    status, _, err = command("rollouts", tmp_path, *argv)
    assert status == 2
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_reward_that_failed_is_named(command, tmp_path):
    failed = group_record([judged("x", 0.0, reward=float("nan")), judged("y", 1.0)], [0.0, 0.0])
    write_rows(tmp_path / "rollouts.jsonl", [{"step": 1, "groups": [failed]}])
    assert "REWARD FAILED" in command("rollouts", tmp_path)[1]


def test_means_leave_out_what_has_no_reward():
    seen = summary(
        [judged("a", 1.0), judged("b", 0.0), judged("c", 1.0, reward=float("nan"), tokens=30)]
    )
    assert seen["accuracy"] == 0.5
    assert seen["reward"] == pytest.approx(0.6)
    assert seen["failed"] == 1
    assert seen["length"] == 9


@pytest.mark.slow
def test_pictures_are_drawn_of_what_is_there(tmp_path):
    figures = {
        "reward": 0.3,
        "reward/language": 0.5,
        "accuracy": 0.2,
        "parsed": 0.9,
        "length": 20.0,
        "truncated": 0.1,
        "signal": 0.5,
        "entropy": 1.0,
        "kl": 0.01,
    }
    records = [
        {"step": step, "split": "train", **figures, "max_violation": 0.0} for step in range(1, 4)
    ]
    write_rows(tmp_path / "metrics.jsonl", records)
    assert [path.name for path in plot_rollouts(tmp_path)] == [
        "accuracy.png",
        "rewards.png",
    ]  # nothing was evaluated yet, and there are no experts
    held_out = {
        "step": 3,
        "split": "held_out",
        "accuracy": 0.2,
        "accuracy_low": 0.1,
        "accuracy_high": 0.3,
        "parsed": 1.0,
        "length": 19.0,
    }
    load = {"load": [[1, 3], [2, 2]], "layer_max_violation": [0.5, 0.0]}
    loaded = [{**record, **load} for record in records]
    write_rows(tmp_path / "metrics.jsonl", [*loaded, held_out])
    assert [path.name for path in plot_rollouts(tmp_path)] == [
        "accuracy.png",
        "rewards.png",
        "load.png",
        "max_violation.png",
    ]
    assert all(path.stat().st_size > 5000 for path in tmp_path.glob("*.png"))
    pictures, checkpoint, *following = closing_lines(3, tmp_path, ("addition:1", "countdown"))
    assert pictures.count(".png") == 4
    assert checkpoint.endswith("checkpoints/3")
    assert [line.partition(" seekjax ")[2] for line in following] == [
        f"rollouts {tmp_path}",
        f"eval {tmp_path} --task addition:1 countdown",
    ]


def test_rollouts_that_cannot_be_written_do_not_end_the_run(tmp_path, capsys):
    log = RolloutLog(tmp_path / "vanished" / "rollouts.jsonl", group=2)
    for step in (1, 2):
        log.write(step, [judged("7", 1.0), judged("8", 0.0)], np.array([0.5, -0.5]))
    assert capsys.readouterr().err.count("training goes on without") == 1
