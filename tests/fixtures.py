"""What many tests share: models and runs that are small enough for seconds."""

import json
import shutil
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from seekjax.checkpoint.config_json import to_json
from seekjax.checkpoint.write import Checkpoints
from seekjax.commands.cli import main
from seekjax.config import (
    Config,
    DataConfig,
    KernelConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from seekjax.data import load_tokenizer
from seekjax.placement import use_mesh
from seekjax.train.state import RunSpec, TrainState
from sharding.mesh import MeshConfig

# Two layers of width 32 with eight experts; compiles in seconds, and has every part of V3.
TINY = ModelConfig(
    vocab=320,
    embed=32,
    layers=2,
    heads=2,
    q_latent=16,
    kv_latent=16,
    nope=8,
    rotary=8,
    value=8,
    hidden=64,
    expert_hidden=16,
    experts=8,
    experts_per_token=2,
    init_std=0.1,
)

# The plain form of every kernel.
PLAIN = KernelConfig(attention="plain", experts="loop", remat="none")

# The figures of a row of metrics.jsonl that depend on the machine.
CLOCK = ("tokens_per_second", "share_of_peak", "start", "seconds", "step_seconds", "goodput")

# One layer that reinforcement and evaluation sample from: strong weights, so that answers differ.
ONE_LAYER = replace(
    TINY,
    vocab=272,
    layers=1,
    hidden=32,
    expert_hidden=32,
    init_std=0.3,
    dense_layers=0,
    mtp_depth=0,
)


def tiny_model(**fields) -> ModelConfig:
    """The tiny model with some fields replaced."""
    return replace(TINY, **fields)


def save_run(
    config: Config,
    folder: Path,
    change: Callable[[TrainState], TrainState] = lambda state: state,
) -> TrainState:
    """Write a run folder as training leaves it after one step; return the state that was saved.

    `change` maps the first state to the one to save.
    """
    load_tokenizer(config.data, config.model.vocab, None).save(folder)
    with use_mesh(config.mesh), closing(Checkpoints(folder, keep=1)) as checkpoints:
        state = change(RunSpec(config).start())
        checkpoints.save(1, state, data=None, config=to_json(config))
        checkpoints.wait()
    return state


def copy_as_of(step: int, run: Path, target: Path) -> None:
    """Copy a run folder as a kill after the checkpoint of `step` would have left it."""
    shutil.copytree(run, target)
    for saved in (target / "checkpoints").iterdir():
        if saved.name.isdigit() and int(saved.name) > step:
            shutil.rmtree(saved)


def write_rows(file: Path, rows: Iterable[object]) -> Path:
    """Write a .jsonl file of the rows; a row that is text already is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("".join(line + "\n" for line in lines))
    return file


@pytest.fixture
def command(monkeypatch, capsys):
    """A function that runs `seekjax` with some words, and returns its status, output and errors."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["seekjax", *map(str, words)])
        status = main()
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


@pytest.fixture(scope="session")
def tiny():
    """Config of post-training from random weights: tiny(out, sft=..., **train)."""
    model = tiny_model(hidden=512, expert_hidden=32, dense_layers=0, mtp_depth=0)
    few_steps = {
        "steps": 6,
        "batch": 4,
        "balance_rate": 0.0,
        "log_every": 1,
        "eval_every": 3,
        "eval_batches": 1,
        "save_every": 6,
    }

    def config(out, sft=None, dpo=None, distill=None, **train) -> Config:
        return Config(
            model=model,
            data=DataConfig(tokenizer="byte", sequence=64, held_out=0.2),
            optimizer=OptimizerConfig(warmup=2, learning_rate=1e-2),
            mesh=MeshConfig(data=1),
            kernel=PLAIN,
            sft=sft,
            dpo=dpo,
            distill=distill,
            out=out,
            train=TrainConfig(**(few_steps | train)),
        )

    return config


@pytest.fixture(scope="session")
def chats(tmp_path_factory):
    """A file of twelve short conversations."""

    def talk(n: int) -> dict:
        answer = f"<think>so</think>{n + 1}"
        return {
            "messages": [
                {"role": "user", "content": f"{n}+1"},
                {"role": "assistant", "content": answer},
            ]
        }

    file = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    return str(write_rows(file, map(talk, range(12))))
