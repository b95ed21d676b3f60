"""FLOPs per token by part of the model, from its config alone."""

from seekjax.config import ModelConfig
from seekjax.model.attention import ATTENTION
from seekjax.model.count import parameters

TRAINING = 3  # a training step costs three forward passes: forward, and two products backward


def forward_flops(model: ModelConfig, sequence: int, causal: bool = True) -> dict[str, float]:
    """Return the FLOPs of one token's forward pass by part, averaged over a sequence.

    Two per weight that the token visits, and attention over the tokens before it (V3's convention
    of 2505.09343). Without "prediction" the sum is `seekjax.model.count.flops_per_token`.
    """
    count = parameters(model)
    expert_layers = model.layers - model.dense_layers
    pair = ATTENTION.find(model.attention).pair_flops(model) * sequence
    if causal:
        pair /= 2

    chosen = model.experts_per_token * count.expert
    shared = model.shared_experts * count.expert
    router = count.experts_active - chosen - shared
    norms = model.layers * 2 * model.embed + model.embed
    flops: dict[str, float] = {
        "attention, projections": 2 * (model.layers * count.attention + norms),
        "attention, scores": model.layers * pair,
        "dense layers": 2 * model.dense_layers * count.dense,
        "routed experts": 2 * expert_layers * chosen,
        "shared experts": 2 * expert_layers * shared,
        "router": 2 * expert_layers * router,
        "head": 2 * count.embedding,
    }

    # A module is a layer of the last kind, the join of two widths, norms, and the head once more
    if model.mtp_depth:
        ffn = count.experts_active if expert_layers else count.dense
        layer = count.attention + ffn + 2 * model.embed**2 + 5 * model.embed
        module = 2 * (layer + count.embedding) + pair
        flops["prediction"] = model.mtp_depth * module
    return {name: value for name, value in flops.items() if value}


def published_flops(model: ModelConfig, sequence: int, causal: bool = True) -> float:
    """Return the FLOPs of training on one token as papers count them: without prediction."""
    parts = forward_flops(model, sequence, causal)
    return TRAINING * (sum(parts.values()) - parts.get("prediction", 0.0))


def training_flops(model: ModelConfig, sequence: int) -> float:
    """Return the FLOPs of training on one token, prediction modules included."""
    return TRAINING * sum(forward_flops(model, sequence).values())
