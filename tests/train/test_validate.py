"""What a run needs is there before anything is made."""

import types

import jax.numpy as jnp
import pytest

from seekjax.config import Config, OptimizerConfig
from seekjax.errors import RunError
from seekjax.train.optimizer import make_optimizer
from seekjax.train.validate import check_writers, validate


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


def test_a_clip_of_zero_is_no_limit():
    weights = {"params": jnp.full(3, 2.0)}
    gradients = {"params": jnp.full(3, 1e6)}

    def update(clip):
        settings = OptimizerConfig(clip=clip, weight_decay=0.0, warmup=0, eps=1.0, beta2=0.0)
        optimizer = make_optimizer(Config(optimizer=settings), {"params": "embed"})
        return optimizer.update(gradients, optimizer.init(weights), weights)[0]["params"]

    assert abs(update(0.0)[0]) > 1.5 * abs(update(1.0)[0]) > 0
