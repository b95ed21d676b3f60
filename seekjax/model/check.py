"""What a model must satisfy before anything expensive happens.

The attention kind checks its own sizes, and the registries check the names.
"""

from seekjax.config import Config, ModelConfig
from seekjax.config.values import check_values
from seekjax.errors import need
from seekjax.model.attention import ATTENTION
from seekjax.model.attention.kind import AttentionKind
from seekjax.model.routing import SCORES


def check_model(model: ModelConfig) -> None:
    """Raise ConfigError unless every size is possible, and divides or fits into the others."""
    check_values(model, "model.")
    need(
        model.dense_layers <= model.layers,
        f"model.dense_layers {model.dense_layers} exceeds model.layers {model.layers}.",
    )
    _check_routing(model)
    _check_attention(model)


def split_sizes(model: ModelConfig) -> dict[str, int]:
    """Return the size of each logical axis of the weights that a mesh may split."""
    kind = ATTENTION.find(model.attention)
    names = ["embed", "vocab", "hidden", *kind.split_axes(model)]
    if model.layers > model.dense_layers:
        names += ["experts", "expert_hidden"]
    return {name: model.size(name) for name in names}


def check_context(config: Config, parts: int) -> None:
    """Raise ConfigError unless the sequences can be split between this many devices."""
    if parts == 1:
        return
    attention, sequence = config.model.attention, config.data.sequence
    need(
        ATTENTION.find(attention).splits_sequences,
        f"mesh.context is {parts}, and model.attention {attention} needs whole sequences "
        "(AttentionKind.splits_sequences): set mesh.context to 1.",
    )
    need(
        config.kernel.attention != "splash",
        f"mesh.context is {parts}, and kernel.attention splash needs whole sequences: choose auto, "
        "block, dot or plain.",
    )
    need(
        config.kernel.dtype != "fp8",
        f"mesh.context is {parts}, and kernel.dtype fp8 needs whole sequences: set mesh.context "
        "to 1, or kernel.dtype to bfloat16.",
    )
    need(
        sequence % (2 * parts) == 0,
        f"data.sequence is {sequence}, which mesh.context {parts} cannot cut into {2 * parts} "
        f"equal chunks, two for each device: make it a multiple of {2 * parts}.",
    )
    for kind in ("grpo", "dpo", "distill"):
        need(
            getattr(config, kind) is None,
            f"mesh.context is {parts}, and {kind} needs whole sequences: set mesh.context to 1 "
            "(pre-training and sft can split them).",
        )


def field_of(model: ModelConfig, axis: str) -> str:
    """Return the setting that has the size of a logical axis, for messages."""
    return f"model.sizes {axis}" if axis in dict(model.sizes) else f"model.{axis}"


def _check_routing(model: ModelConfig) -> None:
    SCORES.find(model.scoring)
    groups, limit = model.expert_groups, model.groups_per_token
    need(
        model.experts % groups == 0,
        f"model.experts {model.experts} cannot be split into model.expert_groups {groups}.",
    )
    need(
        limit <= groups,
        f"model.groups_per_token {limit} exceeds model.expert_groups {groups}.",
    )

    open_experts = model.experts // groups * limit
    need(
        model.experts_per_token <= open_experts,
        f"model.experts_per_token {model.experts_per_token} exceeds the {open_experts} "
        f"experts of a token's {limit} groups.",
    )
    need(
        model.bias_update == "sign" or model.experts_per_token < model.experts,
        f"model.bias_update quantile needs experts that are not chosen, but a token visits all "
        f"{model.experts}: choose sign, or fewer model.experts_per_token.",
    )
    need(
        model.group_score == "max" or limit == groups or model.experts > groups,
        "model.group_score top2 needs at least two experts per group.",
    )


def _check_attention(model: ModelConfig) -> None:
    kind = ATTENTION.find(model.attention)
    need(
        issubclass(kind, AttentionKind),
        f"model.attention {model.attention} is not a subclass of AttentionKind "
        "(seekjax/model/attention/kind.py).",
    )
    need(
        model.rotary % 2 == 0,
        f"model.rotary is {model.rotary}: rotary widths come in pairs, make it even.",
    )
    need(
        model.nope + model.rotary > 0,
        "model.nope and model.rotary are both 0: a head needs some width.",
    )

    own = dict(model.sizes)
    for axis in kind.own_axes:
        need(
            axis in own,
            f"model.attention {model.attention} has the axis {axis}: give its size as "
            f"--model.sizes {axis} NUMBER.",
        )
    for axis in own:
        need(
            axis in kind.own_axes,
            f"model.sizes has {axis}, which model.attention {model.attention} does not: remove it.",
        )
    kind.check(model)
