"""The kinds of training, by the section of the config that asks for them."""

import importlib

from seekjax.config import Config
from seekjax.post.names import check_names
from seekjax.train.loop import Fitted
from seekjax.train.loop import fit as fit_training
from seekjax.train.signals import Signals
from seekjax.train.training import Training

PATHS = {
    "": "seekjax.train.pretrain:Pretraining",
    "sft": "seekjax.post.tune.sft:FineTuning",
    "dpo": "seekjax.post.tune.dpo:Preference",
    "distill": "seekjax.post.distill.distillation:Distillation",
    "grpo": "seekjax.post.rl.grpo:Reinforcement",
}
ON_POLICY = "seekjax.post.distill.on_policy:OnPolicy"


def training_of(config: Config) -> type[Training]:
    """Return the kind of training that a config asks for; only its module is imported."""
    path = PATHS[config.kind]
    if config.distill is not None and config.distill.on_policy:
        path = ON_POLICY
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def fit(config: Config, signals: Signals | None = None) -> Fitted:
    """Train what a config asks for: pre-training, or the kind of post-training that it sets.

    Resumes from the newest checkpoint in config.out. `signals`: see train/loop.py. Raises a
    SeekjaxError for bad input, and Interrupted if a signal ends it before anything is trained.
    """
    check_names(config)
    return fit_training(config, training_of(config), signals)
