"""A run folder from a stranger imports nothing that its config.json names without --trust."""

import json
import re
import shutil
import sys
from dataclasses import replace

import pytest

from seekjax.checkpoint.manifest import write_manifest
from seekjax.commands.arguments import parse
from seekjax.config import Config, DataConfig, TrainConfig
from sharding.mesh import MeshConfig
from tests.fixtures import save_run, tiny_model

CONFIG = Config(
    model=tiny_model(layers=1, dense_layers=0, mtp_depth=0),
    data=DataConfig(sources=("arithmetic",), tokenizer="byte", sequence=32),
    train=TrainConfig(steps=2, batch=8),
    mesh=MeshConfig(data=1),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small run folder."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    save_run(replace(CONFIG, out=folder), folder)
    return folder


@pytest.fixture
def stranger(saved, tmp_path, monkeypatch):
    """A run folder whose config names a module that leaves a mark when it is imported."""
    module = tmp_path / "stranger_module.py"
    module.write_text(f"open({str(tmp_path / 'mark')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "stranger_module", raising=False)
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def name_in_config(folder, part, field, value="stranger_module:thing"):
    """Let both config.json of a run folder name something."""
    step = folder / "checkpoints" / "1"
    config = json.loads((step / "config.json").read_text())
    config[part] = (config[part] or {}) | {field: value}
    for path in (folder / "config.json", step / "config.json"):
        path.write_text(json.dumps(config))
    (step / "manifest.json").unlink()
    write_manifest(step)


COMMANDS = [
    "generate {run} --prompt a --max-new 1",
    "chat {run}",
    "eval {run} --data arithmetic --documents 1",
    "eval {run} --task addition:1 --problems 1",
    "sample {run} --task addition:1 --out {out}.jsonl",
    "convert --from {run} --to {out}",
    "convert --from {run} --to-gguf {out}.gguf",
    "quantize {run} --to int8 --out {out}",
    "show {run}",
    "plan {run}",
    "train {run}",
    "train tiny --init {run} --out {out}",
    "train distill --distill.teacher {run} --distill.tasks addition:1 --out {out}",
]


@pytest.mark.parametrize("line", COMMANDS)
@pytest.mark.parametrize("field", ["model.scoring", "model.attention", "kernel.dispatch"])
def test_nothing_is_imported(line, field, stranger, tmp_path, command):
    name_in_config(stranger, *field.split("."))
    words = line.format(run=stranger, out=tmp_path / "out").split()
    status, _, error = command(*words)
    assert status == 2
    assert str(stranger) in error
    assert f"names code from outside seekjax: {field} is stranger_module:thing" in error
    assert "--trust" in error
    assert "stranger_module" not in sys.modules
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("line", ["train {run}", "show {run}"])
@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("optimizer", "name", "stranger_module:thing"),
        ("data", "sources", ["stranger_module:thing"]),
        ("grpo", "tasks", ["stranger_module:thing"]),
        ("grpo", "tasks", ["countdown:1", "stranger_module:thing:2"]),
        ("grpo", "rewards", [["accuracy", 1.0], ["stranger_module:thing", 1.0]]),
        ("grpo", "recipe", "stranger_module:thing"),
        ("grpo", "objective", {"advantage": "stranger_module:thing"}),
    ],
)
def test_a_run_is_not_continued_with_code_of_its_folder(
    line, part, field, value, stranger, tmp_path, command
):
    name_in_config(stranger, part, field, value)
    status, _, error = command(*line.format(run=stranger).split())
    assert status == 2
    assert re.search(rf"{part}.{field}[a-z.]* is stranger_module:thing", error)
    assert not (tmp_path / "mark").exists()


def test_with_trust_the_module_is_imported(stranger, tmp_path, command):
    name_in_config(stranger, "model", "scoring")
    status, _, error = command("generate", stranger, "--prompt", "a", "--trust")
    assert status == 2
    assert "stranger_module does not define thing" in error
    assert (tmp_path / "mark").exists()


def test_trust_is_for_training_too(stranger, tmp_path, command):
    name_in_config(stranger, "model", "scoring")
    out = tmp_path / "out"
    status, _, error = command("train", "tiny", "--trust", "--init", stranger, "--out", out)
    assert status == 2
    assert "stranger_module does not define thing" in error


def test_levels_of_tasks_are_not_imports(stranger):
    """A config that trained on countdown:1 or gym:sum names no code from outside."""
    tasks = ["countdown:1", "gym:chain_sum", "gym:chain_sum:2", "jsonl:a/b.jsonl"]
    saved = json.loads((stranger / "checkpoints" / "1" / "config.json").read_text())
    saved["grpo"] = {"tasks": tasks}
    (stranger / "config.json").write_text(json.dumps(saved))
    assert parse([str(stranger)], "seekjax show").grpo.tasks == tuple(tasks)
