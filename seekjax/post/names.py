"""Every choice that a config names, looked up in its registry before anything is read or made."""

from collections.abc import Callable
from typing import Any

from seekjax.config import Config
from seekjax.config.fields import named_choices
from seekjax.config.recipes import find_recipe, objective_of
from seekjax.data.corpus import is_named
from seekjax.data.sources import SOURCES
from seekjax.model.attention import ATTENTION
from seekjax.model.experts import EXCHANGES
from seekjax.model.routing import SCORES
from seekjax.post.rl.objective import ADVANTAGES, AVERAGES, RATIOS, SURROGATES
from seekjax.post.rollout.reward import REWARDS
from seekjax.tasks.catalogue import GYM, JSONL, parse_task
from seekjax.train.optimizer import OPTIMIZERS


def check_names(config: Config) -> None:
    """Raise ConfigError or DataError for the first name that no registry has.

    A name as module:name is imported. Files are not read, nor the processes of a task started.
    """
    for field, name in named_choices(config):
        FIND[field.removeprefix(f"{config.kind}.")](name)
    if config.grpo is not None:
        objective = objective_of(config.grpo)
        for field, name in named_choices(objective, "objective."):
            FIND[field](name)


def _find_exchange(name: str) -> None:
    """Raise ConfigError unless the name is auto, or an exchange of tokens."""
    if name != "auto":
        EXCHANGES.find(name)


def _find_source(name: str) -> None:
    """Raise ConfigError if the name is that of a function that is not there; paths come later."""
    if is_named(name):
        SOURCES.find(name)


def _find_task(name: str) -> None:
    """Raise DataError unless the name is a task's, whose file or process come later."""
    if not name.startswith((GYM, JSONL)):
        parse_task(name)


# How the name in each field is found; fields of a kind of post-training without the kind.
FIND: dict[str, Callable[[str], Any]] = {
    "model.attention": ATTENTION.find,
    "model.scoring": SCORES.find,
    "data.sources": _find_source,
    "optimizer.name": OPTIMIZERS.find,
    "kernel.dispatch": _find_exchange,
    "tasks": _find_task,
    "rewards": REWARDS.find,
    "recipe": find_recipe,
    "objective.advantage": ADVANTAGES.find,
    "objective.ratio": RATIOS.find,
    "objective.surrogate": SURROGATES.find,
    "objective.average": AVERAGES.find,
}
