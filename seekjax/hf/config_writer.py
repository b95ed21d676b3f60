"""ModelConfig -> config.json, in the published dialect."""

from typing import Any

from seekjax.config import ModelConfig
from seekjax.errors import WeightsError, need
from seekjax.hf.config_keys import (
    FAMILIES,
    INTEGERS,
    NORM_EPS,
    NUMBERS,
    Family,
    check_prediction,
    check_sizes,
)
from seekjax.hf.config_reader import read_config
from seekjax.model.rope import extended


def write_config(
    model: ModelConfig, dtype: str, fp8: bool = False, ue8m0: bool = False
) -> dict[str, Any]:
    """Return the config.json of a model whose matrices have this dtype, or FP8 blocks.

    `ue8m0` means that the blocks' scales are powers of two. Raises WeightsError for a model that
    the published layout cannot express.
    """
    check_sizes(model)
    check_prediction(model)
    family = _family(model)
    _check_expressible(model, family)

    # Choosing among all groups is choosing among all experts.
    expert_groups, groups_per_token = model.expert_groups, model.groups_per_token
    if _ungrouped(model):
        expert_groups, groups_per_token = 1, 1

    config: dict[str, Any] = {}
    for key, ours in (INTEGERS | NUMBERS).items():
        config[key] = getattr(model, ours)
    config |= {
        "architectures": [family.architecture],
        "model_type": family.name,
        "num_key_value_heads": model.heads,
        "q_lora_rank": model.q_latent or None,
        "n_shared_experts": model.shared_experts,
        "n_group": expert_groups,
        "topk_group": groups_per_token,
        "topk_method": _method(model, family),
        "scoring_func": model.scoring,
        "norm_topk_prob": model.renormalise,
        "num_nextn_predict_layers": model.mtp_depth,
        "rope_theta": model.rope.base,
        "rope_scaling": _yarn(model),
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "moe_layer_freq": 1,
        "tie_word_embeddings": False,
        "use_cache": True,
        "initializer_range": model.init_std,
        "torch_dtype": dtype,
    }
    if fp8:
        config["quantization_config"] = _quantisation(ue8m0)

    read_config(config)  # refuse to write what cannot be read back
    return dict(sorted(config.items()))


def _family(model: ModelConfig) -> Family:
    """The family that has the model's router score."""
    for family in FAMILIES:
        if family.scoring == model.scoring:
            return family
    raise WeightsError(
        f"model.scoring {model.scoring} has no place in the published layout: it has "
        "softmax and sigmoid."
    )


def _check_expressible(model: ModelConfig, family: Family) -> None:
    """Raise WeightsError for what no key of the published layout can express."""
    need(
        model.attention == "mla",
        f"model.attention {model.attention} has no place in the published layout: it has "
        "latent attention only.",
        WeightsError,
    )
    need(
        _ungrouped(model) or family.group_score == model.group_score,
        f"model.scoring {model.scoring} with model.group_score {model.group_score} has no "
        "place in the published layout.",
        WeightsError,
    )
    need(
        model.latent_eps == NORM_EPS,
        f"model.norm_eps {model.norm_eps} and model.latent_norm_eps {model.latent_norm_eps}: "
        f"readers of the published layout use {NORM_EPS} in the latents' norms.",
        WeightsError,
    )
    need(
        not (model.renormalise and family.scoring == "softmax"),
        "model.renormalise with model.scoring softmax: readers of the published layout "
        "differ on it.",
        WeightsError,
    )


def _ungrouped(model: ModelConfig) -> bool:
    return model.groups_per_token == model.expert_groups


def _method(model: ModelConfig, family: Family) -> str:
    """The value of topk_method."""
    if family.group_score == "top2":
        return "noaux_tc"
    return "greedy" if _ungrouped(model) else "group_limited_greedy"


def _yarn(model: ModelConfig) -> dict[str, Any] | None:
    """The value of rope_scaling; None if the context is not extended."""
    if not extended(model):
        return None
    rope = model.rope
    return {
        "type": "yarn",
        "factor": rope.factor,
        "original_max_position_embeddings": rope.original_context,
        "beta_fast": rope.beta_fast,
        "beta_slow": rope.beta_slow,
        "mscale": rope.mscale,
        "mscale_all_dim": rope.mscale_all,
    }


def _quantisation(ue8m0: bool) -> dict[str, Any]:
    """The value of quantization_config: FP8 blocks."""
    quantisation: dict[str, Any] = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    }
    if ue8m0:
        quantisation["scale_fmt"] = "ue8m0"
    return quantisation
