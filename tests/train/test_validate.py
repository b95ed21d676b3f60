"""What a run needs is there before anything is made."""

import re
import types
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import pytest

from seekjax.config import (
    Config,
    DataConfig,
    ExtendConfig,
    GrpoConfig,
    KernelConfig,
    ModelConfig,
    OptimizerConfig,
)
from seekjax.config.validate import check_extension
from seekjax.errors import ConfigError, GenerateError, RunError
from seekjax.model.attention.kind import AttentionKind
from seekjax.model.check import check_context
from seekjax.open import extended, on_mesh
from seekjax.train.optimizer import make_optimizer
from seekjax.train.validate import check_mesh, check_writers, validate
from sharding.mesh import MeshConfig, abstract_mesh


@pytest.fixture
def no_key(monkeypatch, tmp_path):
    """Weights & Biases is installed, and has no key."""
    monkeypatch.setattr("seekjax.train.validate.import_extra", lambda *_: types.ModuleType("any"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_key_of_wandb_is_asked_for_first(no_key, monkeypatch):
    config = Config(wandb="project")
    with pytest.raises(RunError, match="--wandb has no key: run `wandb login`"):
        validate(config)

    (no_key / ".netrc").write_text("machine other.host login user password x\n")
    with pytest.raises(RunError, match="has no key"):
        check_writers(config)
    (no_key / ".netrc").write_text("machine api.wandb.ai login user password x\n")
    check_writers(config)

    monkeypatch.setenv("WANDB_BASE_URL", "https://own.host:8080")
    with pytest.raises(RunError, match="has no key"):
        check_writers(config)
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_writers(config)


@pytest.mark.parametrize(("option", "value"), [("tensorboard", True), ("wandb", "project")])
def test_a_missing_package_is_named_first(option, value, monkeypatch):
    def absent(module):
        raise ImportError(module)

    monkeypatch.setattr("seekjax.extras.importlib.import_module", absent)
    with pytest.raises(RunError, match=rf"--{option} needs the package .*pip install"):
        validate(Config(**{option: value}))


@pytest.mark.slow
def test_a_clip_of_zero_is_no_limit():
    weights = {"params": jnp.full(3, 2.0)}
    gradients = {"params": jnp.full(3, 1e6)}

    def update(clip):
        settings = OptimizerConfig(clip=clip, weight_decay=0.0, warmup=0, eps=1.0, beta2=0.0)
        optimizer = make_optimizer(Config(optimizer=settings), {"params": "embed"})
        return optimizer.update(gradients, optimizer.init(weights), weights)[0]["params"]

    assert abs(update(0.0)[0]) > 1.5 * abs(update(1.0)[0]) > 0


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            Config(data=DataConfig(sequence=100)),
            "data.sequence is 100, which mesh.context 4 cannot cut into 8 equal chunks, two for "
            "each device: make it a multiple of 8.",
        ),
        (
            Config(kernel=KernelConfig(attention="splash")),
            "mesh.context is 4, and kernel.attention splash needs whole sequences: choose auto, "
            "block, dot or plain.",
        ),
        (
            Config(model=ModelConfig(attention="tests.train.test_validate:Whole")),
            "mesh.context is 4, and model.attention tests.train.test_validate:Whole needs whole "
            "sequences (AttentionKind.splits_sequences): set mesh.context to 1.",
        ),
        (
            Config(grpo=GrpoConfig()),
            "mesh.context is 4, and grpo needs whole sequences: set mesh.context to 1 "
            "(pre-training and sft can split them).",
        ),
    ],
    ids=["length", "kernel", "attention", "kind"],
)
def test_a_run_that_cannot_split_sequences_is_refused(config, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        check_context(config, parts=4)
    check_context(config, parts=1)


class Whole(AttentionKind):
    """An attention from outside that says nothing of parts of a sequence."""


def test_processes_do_not_share_a_sequence(monkeypatch):
    """Each would read other rows, and they would disagree."""
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(ConfigError, match="splits a batch into 1 parts, which 2 processes cannot"):
        check_mesh(Config(), abstract_mesh(MeshConfig(data=1, context=4), 4))
    check_mesh(Config(), abstract_mesh(MeshConfig(data=2, context=2), 4))


def test_generating_does_not_split_sequences():
    with (
        pytest.raises(GenerateError, match=r"mesh\.context is 2: it splits sequences in training"),
        on_mesh(MeshConfig(context=2)),
    ):
        pass


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (Config(extend=ExtendConfig(context=8192)), "extend is for a model that is trained"),
        (
            Config(init=Path("run"), extend=ExtendConfig(context=8192)),
            "extend.context 8192 stretches nothing, because model.rope.factor is 1: set "
            "--extend.factor above 1.",
        ),
    ],
)
def test_an_extension_of_nothing_is_refused(config, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        check_extension(config)


def test_an_extension_changes_context_and_rope_alone():
    model = ModelConfig()
    longer = extended(model, ExtendConfig(context=8192, factor=20, original_context=256))
    rope = replace(model.rope, factor=20, original_context=256)
    assert longer == replace(model, context=8192, rope=rope)
    assert extended(model, ExtendConfig()) == model
