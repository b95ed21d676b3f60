"""A checkpoint of adapters names its base: it is read again from where it is, by its fingerprint,
and refused if it is gone or has become another."""

import json
import shutil
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from seekjax.checkpoint.arrays import saved_arrays
from seekjax.checkpoint.base import fingerprint, read_base_record
from seekjax.checkpoint.config_json import to_json
from seekjax.checkpoint.write import Checkpoints
from seekjax.config import Config, DataConfig, LoraConfig, TrainConfig
from seekjax.errors import RunError
from seekjax.open import is_of_adapters, open_model
from seekjax.placement import use_mesh
from seekjax.train.clock import Clock, Spent
from seekjax.train.loop import begin
from seekjax.train.lora import make_spec
from seekjax.train.saving import Saving
from sharding.mesh import MeshConfig
from sharding.rules import sharding
from tests.fixtures import ONE_LAYER, PLAIN, save_run

pytestmark = pytest.mark.slow

CONFIG = Config(
    model=ONE_LAYER,
    data=DataConfig(tokenizer="byte"),
    kernel=PLAIN,
    mesh=MeshConfig(data=1),
    train=TrainConfig(steps=9, ema=0.9),
)


def host(state):
    """All arrays of a state by their names, as they are bit for bit."""
    leaves = jax.tree_util.tree_leaves_with_path(state.replace(key=jax.random.key_data(state.key)))
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}


def session(config, step=None):
    """The state with which a run begins or resumes, saved as that step with adapters that do
    something."""
    training = SimpleNamespace(config=config, shared_position=False)
    parts = SimpleNamespace(spec=make_spec(config))
    with use_mesh(config.mesh), closing(Checkpoints(config.out, keep=2)) as checkpoints:
        state, _ = begin(training, parts, checkpoints)
        if step is not None:
            busy = jax.tree.map(lambda x: x + step / 100, state.params)
            state = state.replace(params=busy, ema=busy, step=jnp.int32(step))
            Saving(config, checkpoints, Clock(Spent(), 0.0), print, parts.spec).finish(state, None)
    return parts.spec, state


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a run and adapters on its first step, and the state that these were saved
    with; the run went on afterwards."""
    home = tmp_path_factory.mktemp("made")
    base = save_run(CONFIG, home / "base")
    config = replace(CONFIG, lora=LoraConfig(rank=2), init=home / "base", out=home / "lora")
    adapted = session(config, 5)
    with closing(Checkpoints(home / "base", keep=2)) as checkpoints:
        later = jax.tree.map(lambda x: x + 1, base.params)
        later = base.replace(params=later, ema=later)
        checkpoints.save(2, later, data=None, config=to_json(CONFIG))
    return home, config, *adapted


@pytest.fixture
def copy(made, tmp_path):
    """A copy of it, and the config of its run of adapters."""
    home, config, _, _ = made
    shutil.copytree(home, tmp_path / "home")
    new = tmp_path / "home"
    return new, replace(config, init=new / "base", out=new / "lora")


def merged(spec, state):
    """The weights that the adapters make of the base."""
    with use_mesh(CONFIG.mesh):
        return jax.jit(spec.weights)(state.params, state.frozen)


def assert_equal(tree, other, atol=0.0):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol), tree, other)


def test_a_checkpoint_holds_adapters_alone(made):
    home, _, spec, _ = made
    step = home / "lora" / "checkpoints" / "5"
    assert spec.base == read_base_record(step)
    named = json.loads((step / "base.json").read_text())
    assert (named["folder"], named["beside"], named["step"]) == (str(home / "base"), "../base", 1)

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        saved = saved_arrays(reader, step)
    assert not saved.get("frozen")
    assert saved["params"].keys() == {"expert_layers"}


def test_a_resumed_run_has_every_bit_of_its_state(made, copy):
    _, _, _, state = made
    _, config = copy
    _, resumed = session(config)
    wanted = host(state)
    assert any("base" in name for name in wanted)
    found = host(resumed)
    assert found.keys() == wanted.keys()
    assert all(found[name].tobytes() == x.tobytes() for name, x in wanted.items())


def test_it_opens_with_a_base_that_moved(made, copy):
    _, _, spec, state = made
    home, _ = copy
    (home / "base").rename(home / "elsewhere")
    change_record(home / "lora", folder=str(home / "base"))
    with pytest.raises(RunError, match=r"step 1 of .*base, and .* is not there any more.*--base"):
        open_model(home / "lora")
    opened = open_model(home / "lora", base=home / "elsewhere")
    assert_equal(opened.variables["params"], merged(spec, state), atol=1e-6)


def change_record(run, **fields):
    """Change the record of a run's only step, as if it had been written so."""
    path = run / "checkpoints" / "5" / "base.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    manifest = path.with_name("manifest.json")
    entries = json.loads(manifest.read_text())
    del entries["base.json"]
    manifest.write_text(json.dumps(entries))


def test_another_step_is_not_the_base(copy):
    home, config = copy
    shutil.rmtree(home / "base" / "checkpoints" / "1")
    change_record(home / "lora", folder=str(home / "base"))
    words = r"belong to step 1 of .*, and step 2 of .*/base has other weights: name .* with "
    with pytest.raises(RunError, match=words + "--base"):
        open_model(home / "lora")
    with pytest.raises(RunError, match=words + "--init"):
        session(config)


def test_random_weights_are_saved_whole(made, tmp_path):
    home, config, _, _ = made
    run = replace(config, init=None, out=tmp_path / "run")
    spec, state = session(run, 7)
    assert spec.base is None
    assert not (run.out / "checkpoints" / "7" / "base.json").exists()
    assert_equal(open_model(run.out).variables["params"], merged(spec, state), atol=1e-6)
    # as a run from a folder that an earlier version wrote
    resumed = host(session(replace(run, init=home / "base"))[1])
    assert all(resumed[name].tobytes() == x.tobytes() for name, x in host(state).items())
    with pytest.raises(RunError, match="holds all of its weights: leave --base out"):
        open_model(run.out, base=home / "base")


def test_weights_that_are_a_sum_are_known_as_such(made):
    """They are in no folder, so that a run of adapters on them saves them whole."""
    home, _, _, _ = made
    for name, step, answer in (("lora", "5", True), ("base", "1", False)):
        opened = SimpleNamespace(step=home / name / "checkpoints" / step)
        assert is_of_adapters(opened) == answer


def test_adapters_are_exported_without_their_base(made, tmp_path, command):
    """Its weights are not read; a folder that is gone may have had rotary halves."""
    home, _, _, _ = made
    status, out, _ = command("convert", "--from", home / "lora", "--to-peft", tmp_path / "peft")
    assert status == 0
    assert f"adapters of rank 2 of {home / 'base'}" in out
    assert "note: the balance biases moved as well (train.balance_rate 0.001)" in out
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(home / "base")

    words = ("convert", "--from", home / "lora", "--to-peft", tmp_path / "new")
    status, _, err = command(*words, "--base", tmp_path / "nowhere")
    assert (status, "nowhere, which is not there any more" in err) == (2, True)
    status, _, err = command("convert", "--from", home / "base", "--to-peft", tmp_path / "new")
    assert (status, "base trained all weights, not adapters" in err) == (2, True)
    assert not (tmp_path / "new").exists()


@pytest.mark.mesh
def test_every_bit_and_place_is_in_the_fingerprint():
    x = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)
    tree = {"a": {"w": x, "v": x[0]}}
    original = fingerprint(tree)

    others = [{"a": {"w": -x, "v": x[0]}}, {"a": {"w": x.T, "v": x[0]}}, {"b": tree["a"]}]
    others.append({"a": {"w": x.reshape(4, 16), "v": x[0]}})
    for bit in (0, 31):
        changed = x.copy()
        changed.view(np.uint32)[3, 5] ^= 1 << bit
        others.append({"a": {"w": changed, "v": x[0]}})
    assert len({original, *map(fingerprint, others)}) == len(others) + 1

    for mesh in (MeshConfig(data=2, fsdp=4), MeshConfig(data=8)):
        with use_mesh(mesh):
            places = {"a": {"w": sharding("embed hidden"), "v": sharding("embed")}}
            assert fingerprint(jax.device_put(tree, places)) == original
