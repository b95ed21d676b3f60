"""`seekjax compare`: groups of seeds, settings that differ, figures and curves."""

from pathlib import Path

import pytest
from matplotlib.image import imread

from seekjax.commands.cli import main
from seekjax.config import GrpoConfig, OptimizerConfig
from seekjax.train import comparison
from seekjax.train.comparison import draw_curves, groups_of, table_of
from tests.commands.made_runs import config_of, write_run


def rate(value: float) -> OptimizerConfig:
    return OptimizerConfig(learning_rate=value)


@pytest.fixture
def sweep(tmp_path) -> list[Path]:
    """Two learning rates with two seeds each."""
    folders = []
    for value in (0.001, 0.003):
        for seed in (0, 1):
            config = config_of("tiny", seed=seed, optimizer=rate(value))
            losses = [5.0, 4.0 + seed]
            folder = tmp_path / f"rate={value:g},seed={seed}"
            folders.append(write_run(folder, config, losses, bits_per_byte=2.0 + seed))
    return folders


def test_runs_that_differ_only_in_the_seed_are_one_row(sweep):
    first, second = groups_of(sweep)
    assert (first.label, len(first.runs)) == ("rate=0.001,seed=*", 2)
    assert second.label == "rate=0.003,seed=*"

    header, row, *_ = table_of([first, second])
    assert header.split() == [
        *("run", "optimizer.learning_rate", "n", "steps", "tokens", "loss", "bits/byte")
    ]
    # 4 and 5: a mean of 4.5 and a standard deviation of sqrt(1/2)
    assert "4.500 ± 0.707" in row
    assert "2.500 ± 0.707" in row
    assert " 163,840 " in row  # 20 steps of 32 sequences of 256


def test_many_settings_that_differ_are_a_table_before(tmp_path):
    changes = {"beta1": 0.8, "beta2": 0.9, "clip": 2.0, "eps": 1e-6, "warmup": 3}
    write_run(tmp_path / "a", config_of(), [3.0])
    write_run(tmp_path / "b", config_of(optimizer=OptimizerConfig(**changes)), [3.0])

    lines = table_of(groups_of([tmp_path / "a", tmp_path / "b"]))
    settings = lines[: lines.index("")]
    assert [line.split() for line in settings[1:3]] == [
        ["optimizer.warmup", "20", "3"],
        ["optimizer.beta1", "0.9", "0.8"],
    ]
    assert len(settings) == 1 + len(changes)


def test_curves_are_over_tokens_and_their_legend_beside_them(sweep, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(comparison, "save", lambda figure, path: figures.append(figure))
    draw_curves(groups_of(sweep), tmp_path / "curves.png")

    [figure] = figures
    loss, held_out = figure.axes
    assert list(loss.lines[0].get_xdata()) == [81_920, 163_840]
    assert list(loss.lines[0].get_ydata()) == [5.0, 4.5]
    assert held_out.get_xlabel() == "tokens"
    figure.draw_without_rendering()
    [legend] = figure.legends
    for axis in figure.axes:
        assert not legend.get_window_extent().overlaps(axis.get_window_extent())


def test_the_loss_of_reinforcement_is_not_compared(tmp_path):
    config = config_of(grpo=GrpoConfig(tasks=("addition",)))
    write_run(tmp_path / "a", config_of(), [3.0])
    write_run(tmp_path / "b", config, [0.1], accuracy=0.5, reward=0.6)

    groups = groups_of([tmp_path / "a", tmp_path / "b"])
    assert groups[1].figure("train", "loss") == ""
    assert groups[1].figure("held_out", "accuracy") == "0.500"


def test_the_command_prints_and_draws(sweep, tmp_path, capsys):
    picture = tmp_path / "curves.png"
    assert main(["compare", str(tmp_path), "--out", str(picture)]) == 0
    assert f"curves: {picture}" in capsys.readouterr().out
    assert imread(picture).shape[1] > 500


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["rate=0.001,seed=0"], "needs two runs or more"),
        (["rate=0.001,seed=0", "nowhere"], "there is no run"),
        (["rate=0.001,seed=0", "broken"], "cannot be read as a config"),
    ],
)
def test_bad_input_is_one_sentence(sweep, names, said, tmp_path, capsys):
    write_run(tmp_path / "broken", config_of(), [3.0])
    (tmp_path / "broken" / "config.json").write_text("{}]")
    assert main(["compare", *[str(tmp_path / name) for name in names]]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error


def test_a_folder_without_runs_is_left_out(sweep, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    picture = str(tmp_path / "curves.png")
    assert main(["compare", str(tmp_path / "empty"), *map(str, sweep), "--out", picture]) == 0
    assert "empty has no run with figures" in capsys.readouterr().err
