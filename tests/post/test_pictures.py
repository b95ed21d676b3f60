"""Every kind of run has its pictures, drawn from its figures alone, whole or stopped early."""

import json

import pytest

from seekjax.errors import RunError
from seekjax.post import plots as post_plots
from seekjax.post.pictures import draw_pictures, picture_line
from seekjax.train import plots as train_plots
from seekjax.train.metrics import METRICS

TRAIN = {"step": 1, "split": "train", "loss": 2.0}
KINDS = {
    "pre-training": (
        {**TRAIN, "mtp_loss": None, "max_violation": 0.5, "layer_max_violation": [0.5, None]},
        {"step": 1, "split": "held_out", "loss": 2.0, "bits_per_byte": 3.0},
        ["loss.png"],
    ),
    "experts": (
        {
            **TRAIN,
            "mtp_loss": 1.0,
            "load": [[1.0, 3.0]],
            "max_violation": 0.5,
            "layer_max_violation": [0.5],
        },
        {"step": 1, "split": "held_out"},
        ["loss.png", "load.png", "max_violation.png"],
    ),
    "experts on devices": (
        {
            **TRAIN,
            "mtp_loss": 1.0,
            "load": [[1.0, 3.0, 2.0, 2.0]],
            "device_load": [[4.0, 4.0]],
            "max_violation": 0.5,
            "layer_max_violation": [0.5],
            "device_max_violation": 0.0,
        },
        {"step": 1, "split": "held_out"},
        ["loss.png", "load.png", "max_violation.png"],
    ),
    "preferences": (
        {**TRAIN, "accuracy": 0.5, "margin": 0.1},
        {"step": 1, "split": "held_out"},
        ["preference.png"],
    ),
    "distillation": (
        {**TRAIN, "mtp_loss": 0.0, "kl": None},
        {"step": 1, "split": "held_out", "kl": 0.5},
        ["kl.png", "loss.png"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_each_kind(tmp_path, kind):
    train, held_out, names = KINDS[kind]
    lines = [json.dumps(row) + "\n" for row in (train, held_out)]
    (tmp_path / METRICS).write_text("".join(lines) + '{"step": 2, "spl')
    paths = draw_pictures(tmp_path)
    assert [path.name for path in paths] == names
    assert all(path.stat().st_size for path in paths)


REINFORCEMENT = {
    **TRAIN,
    "accuracy": 0.5,
    "parsed": 0.9,
    "length": 20.0,
    "truncated": 0.1,
    "signal": 0.5,
    "entropy": 1.0,
    "reward": 0.6,
    "kl": 0.1,
}


@pytest.mark.slow
@pytest.mark.parametrize("record", [*[kind[0] for kind in KINDS.values()], REINFORCEMENT])
def test_legends_lie_beside_the_curves(record, tmp_path, monkeypatch):
    figures = []
    for module in (train_plots, post_plots):
        monkeypatch.setattr(module, "save", lambda figure, path: figures.append(figure) or path)
    held_out = {"step": 1, "split": "held_out", "loss": 2.0, "bits_per_byte": 3.0}
    held_out |= {name: record[name] for name in ("accuracy",) if name in record}
    (tmp_path / METRICS).write_text(json.dumps(record) + "\n" + json.dumps(held_out) + "\n")
    draw_pictures(tmp_path)

    assert any(figure.legends for figure in figures)
    for figure in figures:
        figure.draw_without_rendering()
        for axis in figure.axes:
            assert axis.get_legend() is None
            for legend in figure.legends:
                assert not legend.get_window_extent().overlaps(axis.get_window_extent())


def test_a_run_without_figures_has_none(tmp_path):
    assert picture_line(tmp_path) == []
    with pytest.raises(RunError, match=r"metrics.jsonl cannot be read"):
        draw_pictures(tmp_path)
    (tmp_path / METRICS).write_text("")
    assert draw_pictures(tmp_path) == []
