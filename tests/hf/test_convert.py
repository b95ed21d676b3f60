"""`seekjax convert` in both directions: weights, scales and tokenizer survive, runs open as runs,
and nothing is overwritten."""

import json
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from seekjax.checkpoint.read import read_run
from seekjax.checkpoint.write import Checkpoints
from seekjax.commands.arguments import load_config
from seekjax.commands.cli import main
from seekjax.commands.convert import config_source
from seekjax.config import Config, DataConfig
from seekjax.data import load_tokenizer
from seekjax.hf.load import load
from seekjax.hf.save import save
from seekjax.placement import use_mesh
from seekjax.train.state import RunSpec
from sharding.mesh import MeshConfig
from tests.hf.small import V2, V3, drawn, raw_tensors


def convert(monkeypatch, **flags):
    words = [word for name, value in flags.items() for word in (f"--{name.strip('_')}", str(value))]
    monkeypatch.setattr(sys, "argv", ["seekjax", "convert", *words])
    return main()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "dtype"), [(V3, "bf16"), (V2, "f32"), (V3, "fp8"), (V3, "fp8-ue8m0")]
)
def test_there_and_back(model, dtype, tmp_path, monkeypatch, capsys):
    save(tmp_path / "a", model, drawn(model), dtype)
    assert convert(monkeypatch, from_=tmp_path / "a", to=tmp_path / "run") == 0
    assert f"seekjax generate {tmp_path / 'run'}" in capsys.readouterr().out
    config, variables = read_run(tmp_path / "run")
    assert config.model == model
    jax.tree.map(np.testing.assert_array_equal, variables, load(tmp_path / "a")[1])
    assert convert(monkeypatch, from_=tmp_path / "run", to=tmp_path / "b", dtype=dtype) == 0
    assert raw_tensors(tmp_path / "a") == raw_tensors(tmp_path / "b")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "run", "b"}


def test_the_tokenizer_travels_along(tmp_path, monkeypatch):
    model = replace(V3, vocab=300)
    tokenizer = load_tokenizer(DataConfig(tokenizer="byte"), model.vocab, None)
    save(tmp_path / "a", model, drawn(model))
    tokenizer.save(tmp_path / "a")
    (tmp_path / "a" / "tokenizer_config.json").write_text('{"chat_template": "{{ x }}"}')
    (tmp_path / "a" / "tokenizer.py").write_text("raise SystemExit")  # code is left where it is
    convert(monkeypatch, from_=tmp_path / "a", to=tmp_path / "run")
    assert read_run(tmp_path / "run")[0].data.tokenizer == str(tmp_path / "run" / "tokenizer.json")
    convert(monkeypatch, from_=tmp_path / "run", to=tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert not list(tmp_path.glob("[rb]*/tokenizer.py"))
    assert json.loads((tmp_path / "b/config.json").read_text())["eos_token_id"] == tokenizer.eos

    # As in a run of our own, where a text follows the end of another.
    (tmp_path / "run" / "tokenizer_config.json").unlink()
    (tmp_path / "run" / "generation_config.json").unlink()
    convert(monkeypatch, from_=tmp_path / "run", to=tmp_path / "c")
    assert json.loads((tmp_path / "c/config.json").read_text())["bos_token_id"] == tokenizer.eos
    named = json.loads((tmp_path / "c/tokenizer_config.json").read_text())
    assert named["bos_token"] == named["eos_token"]


@pytest.mark.slow
def test_a_trainable_run_is_one_that_training_resumes(tmp_path, monkeypatch, capsys):
    save(tmp_path / "a", V3, drawn(V3))
    convert(monkeypatch, from_=tmp_path / "a", to=tmp_path / "run", trainable=True)
    assert (
        f"python train.py {tmp_path / 'run' / 'config.py'} --out {tmp_path / 'run'}"
        in capsys.readouterr().out
    )
    config = load_config(str(tmp_path / "run" / "config.py"))
    with (
        use_mesh(MeshConfig(data=1)),
        closing(Checkpoints(tmp_path / "run", 1)) as checkpoints,
    ):
        step, state, position = checkpoints.restore(RunSpec(config).abstract_state())
    assert (step, int(state.step), position) == (0, 0, None)
    jax.tree.map(
        np.testing.assert_array_equal,
        {"params": state.params, "balance": state.balance},
        load(tmp_path / "a")[1],
    )


@pytest.mark.parametrize(
    ("source", "to", "said"),
    [
        ("nowhere", "new", "there is no folder"),
        ("a", "a", "is already there"),
        ("a", "taken", "is already there"),
        ("a", "file/new", "cannot be written"),
    ],
)
def test_refused(source, to, said, tmp_path, monkeypatch, capsys):
    save(tmp_path / "a", V3, drawn(V3))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("ten years")
    (tmp_path / "file").write_text("in the way")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert convert(monkeypatch, from_=tmp_path / source, to=tmp_path / to) == 2
    assert said in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    "flags",
    [{"from_": "run", "to": "b"}, {"from_": "a", "to": "b"}, {"from_": "a", "to-gguf": "b.gguf"}],
    ids=str,
)
def test_several_processes_are_refused_before_anything_is_read_or_written(
    flags, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(jax, "process_count", lambda *_: 2)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert convert(monkeypatch, **{flag: tmp_path / name for flag, name in flags.items()}) == 2
    assert "started on 2 processes" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_softmax_routing_with_a_moved_bias_has_no_place(tmp_path):
    variables = drawn(V2)
    variables["balance"] = jax.tree.map(lambda x: x + 1, variables["balance"])
    with pytest.raises(ValueError, match="balance bias that has moved"):
        save(tmp_path / "a", V2, variables)
    assert not list(Path(tmp_path).iterdir())


def test_a_config_file_defines_the_config_it_was_written_from(tmp_path):
    config = Config(model=V3, data=DataConfig(tokenizer="a/b"), mesh=MeshConfig(data=1))
    (tmp_path / "config.py").write_text(config_source(config))
    assert load_config(str(tmp_path / "config.py")) == config
    assert "kernel" not in config_source(config)
