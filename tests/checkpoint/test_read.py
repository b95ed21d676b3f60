"""A run's weights read back without optimizer or data: the same numbers on any mesh, and one
sentence for each folder that is no run."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from seekjax.checkpoint.config_json import read_config, to_json
from seekjax.checkpoint.manifest import write_manifest
from seekjax.checkpoint.read import read_run
from seekjax.config import Config, DataConfig, KernelConfig, TrainConfig
from seekjax.errors import RunError
from seekjax.placement import use_mesh
from sharding.mesh import MeshConfig
from tests.fixtures import PLAIN, save_run, tiny_model

SMALL = Config(
    model=tiny_model(),
    data=DataConfig(tokenizer="byte"),
    kernel=PLAIN,
    mesh=MeshConfig(data=1),
    train=TrainConfig(steps=3, batch=8, ema=0.9),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, save_run(
        SMALL, folder, lambda state: state.replace(ema=jax.tree.map(lambda x: x + 1, state.params))
    )


def equal(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


@pytest.mark.mesh
def test_the_moving_average_comes_back_on_any_mesh(run):
    folder, state = run
    config, variables = read_run(folder)
    assert config == replace(SMALL, out=folder)
    equal(variables, {"params": state.ema, "balance": state.balance})
    with use_mesh(MeshConfig(data=2, expert=4)):
        _, variables = read_run(folder, KernelConfig(experts="block"))
    equal(variables, {"params": state.ema, "balance": state.balance})
    split = variables["params"]["expert_layers"]["ffn"]["w_gate"]
    assert split.addressable_shards[0].data.shape[1] == SMALL.model.experts // 4


def test_a_run_is_found_by_a_relative_path(run, monkeypatch):
    folder, state = run
    monkeypatch.chdir(folder.parent)
    equal(read_run(Path(folder.name))[1]["params"], state.ema)


def test_every_published_config_survives_json(tmp_path):
    from seekjax.commands.arguments import config_names, load_config

    for config in (
        replace(found, out=Path("runs") / name)
        for name in config_names()
        if isinstance(found := load_config(name), Config)
    ):
        (tmp_path / "config.json").write_text(json.dumps(to_json(config)))
        assert read_config(tmp_path / "config.json", trust=False) == config


def test_what_is_no_run_is_one_sentence(run, tmp_path):
    with pytest.raises(RunError, match="there is no run folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(RunError, match="is not a run folder"):
        read_run(tmp_path)
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    with pytest.raises(RunError, match=r"is whole \(7: manifest.json is missing\)"):
        read_run(tmp_path)
    (tmp_path / "checkpoints" / "7").rmdir()
    with pytest.raises(RunError, match="no checkpoint yet"):
        read_run(tmp_path)
    (tmp_path / "config.json").write_text('{"model": {"flavour": 3}}')
    with pytest.raises(RunError, match=r"model.flavour, which this version"):
        read_config(tmp_path / "config.json", trust=False)


def test_weights_that_belong_to_another_config(run, tmp_path):
    other = replace(
        SMALL, model=replace(SMALL.model, embed=64), train=replace(SMALL.train, ema=0.0)
    )
    save_run(SMALL, tmp_path / "a")
    step = tmp_path / "a" / "checkpoints" / "1"
    (step / "config.json").write_text(json.dumps(to_json(other)))
    (step / "manifest.json").unlink()
    write_manifest(step)
    with pytest.raises(RunError, match=r"holds (ema|params)/.* as float32.*and \d+ more"):
        read_run(tmp_path / "a")
