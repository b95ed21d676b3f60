"""Every field explains itself: its comment, and the names of its registry in it."""

import re
from dataclasses import fields, is_dataclass

import pytest

from seekjax.config import (
    Config,
    DistillConfig,
    DpoConfig,
    GrpoConfig,
    KernelConfig,
    ModelConfig,
    Objective,
    OptimizerConfig,
    Piece,
    SftConfig,
)
from seekjax.config.fields import field_comments, named_choices, switches
from seekjax.config.recipes import RECIPES
from seekjax.config.run import DataConfig
from seekjax.data.sources import SOURCES
from seekjax.model.attention import ATTENTION
from seekjax.model.experts import EXCHANGES
from seekjax.model.routing import SCORES
from seekjax.post.rl.objective import ADVANTAGES, AVERAGES, RATIOS, SURROGATES
from seekjax.post.rollout.reward import REWARDS
from seekjax.tasks import TASKS
from seekjax.train.optimizer import OPTIMIZERS

# Every kind of training at once, so that all fields are there.
EVERYTHING = Config(
    sft=SftConfig(tasks=("countdown:1",)),
    dpo=DpoConfig(),
    distill=DistillConfig(tasks=("countdown:1",)),
    grpo=GrpoConfig(objective=Objective()),
)

# The registry of each field that names a choice.
REGISTRIES = {
    "model.attention": (ModelConfig, ATTENTION),
    "model.scoring": (ModelConfig, SCORES),
    "data.sources": (DataConfig, SOURCES),
    "optimizer.name": (OptimizerConfig, OPTIMIZERS),
    "kernel.dispatch": (KernelConfig, EXCHANGES),
    "sft.tasks": (SftConfig, TASKS),
    "distill.tasks": (DistillConfig, TASKS),
    "grpo.tasks": (GrpoConfig, TASKS),
    "grpo.rewards": (GrpoConfig, REWARDS),
    "grpo.recipe": (GrpoConfig, RECIPES),
    "grpo.objective.advantage": (Objective, ADVANTAGES),
    "grpo.objective.ratio": (Objective, RATIOS),
    "grpo.objective.surrogate": (Objective, SURROGATES),
    "grpo.objective.average": (Objective, AVERAGES),
}
# Words before a colon that are not names of a registry.
OTHER_LABELS = {"module", "gym", "jsonl", "tasks", "solve", "weight", "paper"}


def parts_of(config):
    """The dataclasses of a config, itself included."""
    yield config
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from parts_of(value)


@pytest.mark.parametrize(
    "kind", [*dict.fromkeys(map(type, parts_of(EVERYTHING))), Piece], ids=lambda kind: kind.__name__
)
def test_every_field_has_a_comment_of_its_own(kind):
    comments = field_comments(kind)
    names = [field.name for field in fields(kind)]
    assert [name for name in names if not comments.get(name)] == []


def test_every_choice_is_found():
    assert {path for path, _ in named_choices(EVERYTHING)} == set(REGISTRIES)
    assert ("grpo.rewards", "format") in set(named_choices(EVERYTHING))
    assert ("kernel.dispatch", "auto") in set(named_choices(Config()))


@pytest.mark.parametrize("path", REGISTRIES)
def test_the_comment_of_a_choice_lists_the_names_of_its_registry(path):
    kind, registry = REGISTRIES[path]
    comment = field_comments(kind)[path.rpartition(".")[2]]
    words = set(re.findall(r"\w+", comment))
    assert set(registry) <= words
    assert "module:name" in comment
    labels = set(re.findall(r"(?<!-)\b([a-z]\w+):", comment))
    assert labels - set(registry) <= OTHER_LABELS


def test_switches_are_the_boolean_fields():
    assert {"lora.experts", "grpo.preflight", "grpo.objective.resample"} < set(switches(EVERYTHING))
    assert "train.steps" not in set(switches(EVERYTHING))
