"""What many tests share: models and runs that are small enough for seconds."""

import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from seekjax.checkpoint.config_json import to_json
from seekjax.checkpoint.write import Checkpoints
from seekjax.commands.cli import main
from seekjax.config import Config, KernelConfig, ModelConfig
from seekjax.data import load_tokenizer
from seekjax.placement import use_mesh
from seekjax.train.state import RunSpec

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


def tiny_model(**fields) -> ModelConfig:
    """The tiny model with some fields replaced."""
    return replace(TINY, **fields)


def save_run(config: Config, folder: Path, change=lambda state: state):
    """Write a run folder as training leaves it after one step; return the state that was saved.

    `change` maps the first state to the one to save.
    """
    load_tokenizer(config.data, config.model.vocab, None).save(folder)
    with use_mesh(config.mesh), closing(Checkpoints(folder, keep=1)) as checkpoints:
        state = change(RunSpec(config).start())
        checkpoints.save(1, state, data=None, config=to_json(config))
        checkpoints.wait()
    return state


@pytest.fixture
def command(monkeypatch, capsys):
    """A function that runs `seekjax` with some words, and returns its status, output and errors."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["seekjax", *map(str, words)])
        status = main()
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call
