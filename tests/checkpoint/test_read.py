"""A run's weights read back without optimizer or data: the same numbers on any mesh, and one
sentence for each folder that is no run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seekjax.checkpoint.config_json import read_config, to_json
from seekjax.checkpoint.manifest import write_manifest
from seekjax.checkpoint.read import check_finite, read_run
from seekjax.config import Config, DataConfig, KernelConfig, TrainConfig
from seekjax.errors import CheckpointError, RunError
from seekjax.placement import use_mesh
from sharding.mesh import MeshConfig
from tests.fixtures import PLAIN, save_run, tiny_model

SMALL = Config(
    model=tiny_model(layers=1, dense_layers=0, mtp_depth=0),
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
    with use_mesh(MeshConfig(node=2, expert=2, context=2)):
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
    with pytest.raises(RunError, match="has not saved a checkpoint yet"):
        read_run(tmp_path)
    (tmp_path / "config.json").write_text('{"model": {"flavour": 3}}')
    with pytest.raises(RunError, match=r"model.flavour, which this version"):
        read_config(tmp_path / "config.json", trust=False)


def test_weights_that_belong_to_another_config(run, tmp_path):
    other = replace(
        SMALL, model=replace(SMALL.model, embed=64), train=replace(SMALL.train, ema=0.0)
    )
    folder, _ = run
    shutil.copytree(folder, tmp_path / "a")
    step = tmp_path / "a" / "checkpoints" / "1"
    (step / "config.json").write_text(json.dumps(to_json(other)))
    (step / "manifest.json").unlink()
    write_manifest(step)
    with pytest.raises(RunError, match=r"holds (ema|params)/.* as float32.*and \d+ more"):
        read_run(tmp_path / "a")


def with_value(table, path, value):
    """The same JSON with another value at "model.rope.base"."""
    name, _, rest = path.partition(".")
    return table | {name: with_value(table[name], rest, value) if rest else value}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", []),
        ("model.vocab", "320"),
        ("model.vocab", None),
        ("model.embed", 10**18),
        ("model.mtp_depth", 10**6),
        ("model.layers", 1.5),
        ("model.heads", True),
        ("model.hidden", [[[[]]]]),
        ("model.norm_eps", -1),
        ("model.norm_eps", float("nan")),
        ("model.group_score", "most"),
        ("model.rope.base", "x" * 10_000),
        ("model.sizes", [["a"]]),
        ("kernel.dtype", 16),
        ("data", 3),
        ("data.sources", "stdlib"),
        ("optimizer.schedule", [{"until": 1}]),
        ("train.balance_schedule", {"until": 1}),
        ("out", 3),
    ],
)
def test_a_config_is_read_by_the_rules_of_the_command_line(field, value, tmp_path):
    described = with_value(to_json(SMALL), field, value)
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(RunError, match="cannot be read as a config: ") as refused:
        read_config(tmp_path / "config.json", trust=False)
    assert len(str(refused.value)) < 400
    assert "\n" not in str(refused.value)


def test_a_config_of_another_shape_is_one_sentence(tmp_path):
    for text in ("", "[]", "null", "[" * 100_000, '{"optimizer": null}', '{"a": 1' + "0" * 5000):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(RunError, match="cannot be read as a config: "):
            read_config(tmp_path / "config.json", trust=False)


def test_weights_that_diverged_are_refused():
    params = {"final_norm": jnp.ones(3), "layers": {"ffn_norm": jnp.array([1.0, jnp.nan])}}
    with pytest.raises(
        RunError, match=r"not numbers \(layers/ffn_norm\): the training had diverged"
    ):
        check_finite(Path("runs/a/checkpoints/7"), params)
    check_finite(Path("runs/a/checkpoints/7"), {"final_norm": jnp.ones(3)})


def test_what_contradicts_the_arrays_is_refused_before_it_is_described(run, tmp_path):
    folder, _ = run
    shutil.copytree(folder, tmp_path / "a")
    step = tmp_path / "a" / "checkpoints" / "1"

    def replaced(name, text):
        (step / name).write_text(text)
        (step / "manifest.json").unlink()
        write_manifest(step)

    deep = replace(SMALL, model=replace(SMALL.model, layers=10_000))
    replaced("config.json", json.dumps(to_json(deep)))
    with pytest.raises(RunError, match=r"a model of [\d,]+ parameters, but the checkpoint holds"):
        read_run(tmp_path / "a")

    replaced("config.json", json.dumps(with_value(to_json(SMALL), "model.scoring", "sigmoidal")))
    with pytest.raises(RunError, match="does not describe a model: there is no router score"):
        read_run(tmp_path / "a")

    replaced("config.json", json.dumps(to_json(SMALL)))
    for damaged in ("{}", "[]", ""):
        replaced("state/_METADATA", damaged)
        with pytest.raises(CheckpointError, match="has a damaged _METADATA"):
            read_run(tmp_path / "a")
