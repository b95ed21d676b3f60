"""What a config must satisfy before anything expensive happens; every complaint is one sentence
that says what to change."""

import itertools
import math
from dataclasses import fields

import jax
from jax.sharding import AbstractMesh, Mesh

from seekjax.config import Config, ModelConfig, Schedule
from seekjax.errors import ConfigError, need
from seekjax.placement import use_mesh
from sharding.mesh import make_mesh
from sharding.place import check_divisible


def validate(config: Config, mesh_of=make_mesh) -> None:
    """Raise ConfigError for the first thing wrong with the model, the run, or their fit to the
    devices there are (or to another mesh)."""
    try:
        check_model(config.model)
        check_run(config)
        check_mesh(config, mesh_of(config.mesh))
    except ConfigError:
        raise
    except ValueError as error:  # the mesh speaks for itself and knows no config
        raise ConfigError(str(error)) from error


def check_model(model: ModelConfig) -> None:
    """Sizes that must be positive, divide or fit into each other."""
    for f in fields(model):
        value = getattr(model, f.name)
        if type(value) is int:
            least = (
                0
                if f.name
                in ("q_latent", "dense_layers", "shared_experts", "mtp_depth", "nope", "rotary")
                else 1
            )
            need(value >= least, f"model.{f.name} is {value}: it must be at least {least}.")
    open_experts = model.experts // model.expert_groups * model.groups_per_token
    need(
        model.dense_layers <= model.layers,
        f"model.dense_layers {model.dense_layers} exceeds model.layers {model.layers}.",
    )
    need(
        model.rotary % 2 == 0,
        f"model.rotary is {model.rotary}: rotary widths come in pairs, make it even.",
    )
    need(
        model.experts % model.expert_groups == 0,
        f"model.experts {model.experts} cannot be split into model.expert_groups "
        f"{model.expert_groups}.",
    )
    need(
        model.groups_per_token <= model.expert_groups,
        f"model.groups_per_token {model.groups_per_token} exceeds model.expert_groups "
        f"{model.expert_groups}.",
    )
    need(
        model.experts_per_token <= open_experts,
        f"model.experts_per_token {model.experts_per_token} exceeds the {open_experts} "
        f"experts of a token's {model.groups_per_token} groups.",
    )
    need(
        model.group_score == "max"
        or model.groups_per_token == model.expert_groups
        or model.experts > model.expert_groups,
        "model.group_score top2 needs at least two experts per group.",
    )
    need(
        model.attention == "mla" or model.nope == 0,
        "model.attention mha rotates the whole head: set model.nope to 0.",
    )
    need(
        model.nope + model.rotary > 0,
        "model.nope and model.rotary are both 0: a head needs some width.",
    )


def check_run(config: Config) -> None:
    """Batches, schedules and lengths."""
    train, data = config.train, config.data
    micro = train.rows
    for name in ("steps", "batch", "log_every", "eval_every", "eval_batches", "save_every", "keep"):
        need(
            getattr(train, name) > 0,
            f"train.{name} is {getattr(train, name)}: it must be at least 1.",
        )
    need(
        train.batch % micro == 0 and micro <= train.batch,
        f"train.batch {train.batch} is not a multiple of train.micro_batch {micro}.",
    )
    need(
        0 <= train.batch_start <= train.batch and train.batch_start % micro == 0,
        f"train.batch_start {train.batch_start} must be a multiple of train.micro_batch "
        f"{micro} and at most train.batch {train.batch}.",
    )
    need(
        0 <= train.batch_ramp < 1,
        f"train.batch_ramp is {train.batch_ramp}: it is a share of the run, from 0 to 1.",
    )
    need(
        not train.batch_start or train.batch_start == train.batch or train.batch_ramp > 0,
        "train.batch_start without train.batch_ramp: say over which share of the run the "
        "batch grows.",
    )
    need(
        data.sequence > config.model.mtp_depth,
        f"data.sequence {data.sequence} is too short for model.mtp_depth {config.model.mtp_depth}.",
    )
    need(
        data.sequence <= config.model.context,
        f"data.sequence {data.sequence} exceeds model.context {config.model.context}.",
    )
    need(
        config.kernel.dispatch != "few",
        "kernel.dispatch few is for decoding and has no gradient: choose auto, dense, "
        "static or ragged.",
    )
    need(
        config.kernel.weights == "float32",
        f"kernel.weights is {config.kernel.weights}: quantised weights cannot be trained, "
        "train the run they are from.",
    )
    need(
        config.lora.rank >= 0 and config.lora.alpha > 0,
        f"lora.rank is {config.lora.rank} and lora.alpha {config.lora.alpha}: a rank is 0 "
        "(off) or more, alpha above 0.",
    )
    need(0 <= train.ema < 1, f"train.ema is {train.ema}: a decay lies from 0 (none) to below 1.")
    for name, schedule in (
        ("optimizer.schedule", config.optimizer.schedule),
        ("train.balance_schedule", train.balance_schedule),
        ("train.mtp_schedule", train.mtp_schedule),
    ):
        check_schedule(name, schedule)


def check_schedule(name: str, schedule: Schedule) -> None:
    """Raise ConfigError unless the pieces end at rising shares of the run, the last at 1."""
    ends = [piece.until for piece in schedule]
    rising = all(before < after for before, after in itertools.pairwise([0.0, *ends]))
    need(
        bool(ends) and rising and math.isclose(ends[-1], 1),
        f"{name} has pieces that end at {ends}: they must end at rising shares of the run, "
        "the last at 1.",
    )


def check_mesh(config: Config, mesh: Mesh | AbstractMesh) -> None:
    """Every split axis divisible."""
    size = {"batch": config.train.rows, **split_sizes(config.model)}
    names = {"batch": "train.micro_batch (train.batch where that is 0)"}
    with use_mesh(mesh):
        check_divisible(size, {name: f"model.{name}" for name in size} | names, dict(mesh.shape))
    if config.data.workers and jax.process_count() > 1:
        need(
            size["batch"] % jax.process_count() == 0,
            f"{names['batch']} must be a multiple of the {jax.process_count()} processes.",
        )


def split_sizes(model: ModelConfig) -> dict[str, int]:
    """The size of each axis of the weights that a mesh may split, by the name of its field."""
    names = [
        "embed",
        "heads",
        "vocab",
        "hidden",
        "kv_latent",
        *(["q_latent"] if model.q_latent else []),
        *(["experts", "expert_hidden"] if model.layers > model.dense_layers else []),
    ]
    return {name: getattr(model, name) for name in names}
