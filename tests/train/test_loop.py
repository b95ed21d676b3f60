"""The loop as a user meets it: files, resuming, signals, and that it learns."""

import json
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from seekjax.config import (
    Config,
    DataConfig,
    OptimizerConfig,
    TrainConfig,
)
from seekjax.errors import CheckpointError
from seekjax.model.routing import max_violation
from seekjax.placement import use_mesh
from seekjax.train import metrics, pretrain
from seekjax.train.clock import Clock, Spent
from seekjax.train.loop import Progress, fit
from sharding.mesh import MeshConfig
from tests.fixtures import CLOCK, PLAIN, copy_as_of, tiny_model


def small(out, **train) -> Config:
    """Seconds to compile, milliseconds a step."""
    return Config(
        model=tiny_model(layers=1, expert_hidden=32, init_std=0.006, dense_layers=0, mtp_depth=0),
        data=DataConfig(sources=("stories",), tokenizer="byte", sequence=48),
        optimizer=OptimizerConfig(warmup=2),
        mesh=MeshConfig(data=1),
        kernel=PLAIN,
        train=TrainConfig(
            **{
                "steps": 6,
                "batch": 4,
                "log_every": 1,
                "eval_every": 3,
                "eval_batches": 1,
                "save_every": 2,
                **train,
            }
        ),
        out=out,
    )


def dense(config: Config) -> Config:
    """One dense layer, for what the loop does with any model."""
    return replace(config, model=replace(config.model, dense_layers=1))


def leaves(state):
    raw = state.replace(key=jax.random.key_data(state.key))
    return [np.asarray(x) for x in jax.tree.leaves(raw)]


def without_clock(record: dict) -> dict:
    return {name: value for name, value in record.items() if name not in CLOCK}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return fit(small(tmp_path_factory.mktemp("unbroken"), ema=0.9, micro_batch=2))


@pytest.mark.slow
def test_a_run_leaves_config_metrics_checkpoints_and_pictures(unbroken, monkeypatch):
    monkeypatch.setattr(pretrain, "TEXT_BYTES", 5_000)
    lines = unbroken.parts.report.finish(unbroken.state, unbroken.folder)
    records = metrics.read(unbroken.folder)
    train = [r for r in records if r["split"] == "train"]
    held_out = [r for r in records if r["split"] == "held_out"]
    assert [r["step"] for r in train] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in held_out] == [
        3,
        6,
    ]
    assert {
        "step",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens_per_second",
        "max_violation",
    } <= train[0].keys()
    assert all(r["bits_per_byte"] > 0 for r in records)
    assert len(train[0]["layer_max_violation"]) == 1
    assert json.loads((unbroken.folder / "config.json").read_text())["train"]["steps"] == 6
    assert {path.name for path in unbroken.folder.glob("*.png")} == {
        "loss.png",
        "load.png",
        "max_violation.png",
    }
    assert "xz -6" in lines[0]
    assert lines[-2] == f"checkpoint: {unbroken.folder / 'checkpoints' / '6'}"
    assert (unbroken.folder / "checkpoints" / "6").is_dir()


@pytest.mark.slow
def test_a_stopped_run_saves_and_the_same_line_continues_bit_for_bit(
    unbroken, tmp_path, monkeypatch
):
    write, config = metrics.Recorder.write, small(tmp_path, ema=0.9, micro_batch=2)
    signals = {1: signal.SIGINT, 4: signal.SIGTERM}

    def stopping(self, record):
        write(self, record)
        if record["split"] == "train" and record["step"] in signals:
            os.kill(os.getpid(), signals.pop(record["step"]))

    with monkeypatch.context() as patch:
        patch.setattr(metrics.Recorder, "write", stopping)
        for after in (1, 4):
            stopped = fit(config)
            assert not stopped.finished
            assert after <= int(stopped.state.step) < after + 2
    resumed = fit(config)
    assert resumed.finished
    assert all(
        np.array_equal(a, b)
        for a, b in zip(leaves(resumed.state), leaves(unbroken.state), strict=True)
    )
    assert list(map(without_clock, metrics.read(tmp_path))) == list(
        map(without_clock, metrics.read(unbroken.folder))
    )


@pytest.mark.slow
def test_a_finished_run_started_again_does_nothing_but_report(unbroken):
    before = metrics.read(unbroken.folder)
    again = fit(unbroken.config)
    assert again.finished
    assert metrics.read(unbroken.folder) == before
    assert all(
        np.array_equal(a, b)
        for a, b in zip(leaves(again.state), leaves(unbroken.state), strict=True)
    )


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.mesh
def test_a_run_continues_on_other_meshes_and_says_what_differs(tmp_path, capsys):
    """Eight devices, from step 2 on arranged otherwise, from step 4 on with split sequences."""
    config = dense(small(tmp_path / "eight", batch=8, keep=3))
    config = replace(config, mesh=MeshConfig(data=8))
    expected = leaves(fit(config).state)

    moves = [
        (2, MeshConfig(data=2, node=2, expert=2), "mesh.data: 8 -> 2"),
        (
            4,
            MeshConfig(data=2, context=4),
            "mesh.context: 1 -> 4",
        ),
    ]
    before = config.out
    for step, mesh, difference in moves:
        folder = tmp_path / f"from {step}"
        copy_as_of(step, before, folder)
        capsys.readouterr()
        resumed = fit(replace(config, mesh=mesh, out=folder))
        assert f"unlike the run so far: {difference}" in capsys.readouterr().out

        rows = [row for row in metrics.read(folder) if row["split"] == "train"]
        assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
        for ours, theirs in zip(leaves(resumed.state), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
        before = folder


@pytest.mark.mesh
@pytest.mark.parametrize(("mesh", "devices"), [(MeshConfig(data=4), 1), (MeshConfig(expert=4), 4)])
def test_the_load_of_devices_is_reported_where_they_split_the_experts(mesh, devices, tmp_path):
    load = np.array([[9.0, 1, 4, 6, 5, 5, 5, 5], [40.0, 0, 0, 0, 0, 0, 0, 0]])
    parts = SimpleNamespace(report=SimpleNamespace(extra_metrics=lambda scalars: {}))
    with use_mesh(mesh, devices=jax.devices()[:4]):
        clock = Clock(Spent(), 0.0)
        progress = Progress(small(tmp_path), parts, None, None, clock)
        experts = {"load": load, "max_violation": max_violation(load)}
        record = progress.record(6, {"loss": 1.0, "experts": experts}, rate=1.0)

    np.testing.assert_allclose(record["layer_max_violation"], [0.8, 7])
    if devices == 1:
        assert not any(name.startswith(("device", "layer_device")) for name in record)
    else:
        np.testing.assert_array_equal(record["device_load"], [[10, 10, 10, 10], [40, 0, 0, 0]])
        np.testing.assert_allclose(record["layer_device_max_violation"], [0, 3])
        assert record["device_max_violation"] == 1.5


@pytest.mark.slow
def test_a_run_refused_by_its_checkpoint_keeps_its_config(unbroken):
    before = (unbroken.folder / "config.json").read_text()
    message = r"arrays of other settings \(model.embed: 32 -> 64\): restore these"
    with pytest.raises(CheckpointError, match=message):
        fit(replace(unbroken.config, model=replace(unbroken.config.model, embed=64)))
    assert (unbroken.folder / "config.json").read_text() == before


@pytest.mark.long
@pytest.mark.slow
def test_a_growing_batch_accumulates_more_micro_batches(tmp_path):
    config = small(tmp_path, batch_start=2, batch_ramp=0.6, micro_batch=2)
    rows = metrics.read(fit(dense(config)).folder)
    tokens = [row["tokens"] for row in rows if row["split"] == "train"]
    assert tokens[0] == 2 * 48
    assert tokens[-1] == 4 * 48
    assert tokens == sorted(tokens)


@pytest.mark.long
@pytest.mark.slow
def test_muon_learns(tmp_path):
    config = dense(small(tmp_path, steps=20, batch=8))
    optimizer = replace(config.optimizer, name="muon")
    records = metrics.read(fit(replace(config, optimizer=optimizer)).folder)
    assert records[-1]["loss"] < records[0]["loss"] - 0.5
