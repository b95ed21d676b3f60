"""config.json <-> ModelConfig, in two dialects: the published one (rope_theta, rope_scaling) and
that of transformers 5 (rope_parameters).

Every key is used, must have the one value that this project implements, says nothing about what the
weights compute, or is refused by name.
"""

from dataclasses import replace
from typing import Any, NamedTuple

from seekjax.config import ModelConfig, RopeConfig
from seekjax.config.validate import check_model
from seekjax.errors import ConfigError, WeightsError, need
from seekjax.hf.quote import quoted
from seekjax.model.rope import extended

NUMBERS = {  # DeepSeek's name -> ours, where both are the same positive number
    "vocab_size": "vocab",
    "hidden_size": "embed",
    "num_hidden_layers": "layers",
    "max_position_embeddings": "context",
    "num_attention_heads": "heads",
    "kv_lora_rank": "kv_latent",
    "qk_nope_head_dim": "nope",
    "qk_rope_head_dim": "rotary",
    "v_head_dim": "value",
    "intermediate_size": "hidden",
    "moe_intermediate_size": "expert_hidden",
    "n_routed_experts": "experts",
    "num_experts_per_tok": "experts_per_token",
    "first_k_dense_replace": "dense_layers",
}
FACTORS = {"routed_scaling_factor": "route_scale", "rms_norm_eps": "norm_eps"}
OTHER = {
    "model_type",
    "q_lora_rank",
    "n_shared_experts",
    "n_group",
    "topk_group",
    "topk_method",
    "scoring_func",
    "norm_topk_prob",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "rope_interleave",
    "num_nextn_predict_layers",
    "num_mtp_layers",
    "num_key_value_heads",
    "quantization_config",
    "qk_head_dim",
    "head_dim",
}
ONLY = {  # what all published models have and this project therefore takes as given
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "tie_word_embeddings": (False,),
    "moe_layer_freq": (1,),
    "pretraining_tp": (1,),
    "partial_rotary_factor": (1, None),
    "is_encoder_decoder": (False,),
    "mtp_hidden_states_first": (False,),
    "sliding_window": (None,),
    "layer_types": (None,),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({}, None),
}
# training, token ids, and habits of one library: nothing that changes what the weights compute. The
# papers' init_std is not 0.02.
SILENT = {
    "architectures",
    "auto_map",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "initializer_range",
    "attention_dropout",
    "aux_loss_alpha",
    "seq_aux",
    "ep_size",
    "output_router_logits",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "chunk_size_feed_forward",
    "problem_type",
    "id2label",
    "label2id",
    "_name_or_path",
    "name_or_path",
    "tokenizer_class",
    "task_specific_params",
    "_attn_implementation_autoset",
    "use_return_dict",
    "torchscript",
    "prefix",
}
ROPE = {
    "type",
    "rope_type",
    "rope_theta",
    "factor",
    "original_max_position_embeddings",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "attention_factor",
    "truncate",
    "partial_rotary_factor",
}
KINDS = {  # what model_type stands for: scoring, group score, topk_method values
    "deepseek_v2": ("softmax", "max", ("greedy", "group_limited_greedy")),
    "deepseek_v3": ("sigmoid", "top2", ("noaux_tc",)),
}


class Published(NamedTuple):
    """What a config.json says."""

    model: ModelConfig
    fp8: bool = False  # some matrices are in FP8 blocks
    interleaved: bool = (
        True  # rotary pairs lie side by side; False: all first halves, then all second ones
    )


def read_config(config: dict[str, Any]) -> Published:
    """Raises WeightsError, naming every key that cannot be honoured."""
    kind = config.get("model_type")
    need(
        kind in KINDS,
        f"config.json has model_type {quoted(kind)}: seekjax reads {' and '.join(KINDS)}.",
        WeightsError,
    )
    unknown = sorted(set(config) - set(NUMBERS) - set(FACTORS) - OTHER - set(ONLY) - SILENT)
    need(
        not unknown,
        f"config.json asks for what seekjax does not know: {', '.join(map(quoted, unknown[:40]))}.",
        WeightsError,
    )
    wrong = [
        f"{name} {quoted(config[name])}"
        for name, allowed in ONLY.items()
        if name in config and config[name] not in allowed
    ]
    need(
        not wrong,
        f"config.json asks for what seekjax does not have: {', '.join(wrong)}.",
        WeightsError,
    )
    missing = [name for name in (*NUMBERS, *FACTORS, "q_lora_rank") if name not in config]
    need(not missing, f"config.json lacks {', '.join(missing)}.", WeightsError)

    heads, scoring, group_score, methods = config["num_attention_heads"], *KINDS[kind]
    fields = {ours: whole(config[name], name) for name, ours in NUMBERS.items()} | {
        ours: real(config[name], name) for name, ours in FACTORS.items()
    }
    need(
        config.get("scoring_func", scoring) == scoring,
        f"config.json has scoring_func {quoted(config.get('scoring_func'))}: {kind} has {scoring}.",
        WeightsError,
    )
    method = config.get("topk_method", methods[0])
    need(
        method in methods,
        f"config.json has topk_method {quoted(method)}: {kind} has {' or '.join(methods)}.",
        WeightsError,
    )
    renormalise = config.get("norm_topk_prob", kind == "deepseek_v3")
    need(
        type(renormalise) is bool,
        f"config.json has norm_topk_prob {quoted(renormalise)}: it must be true or false.",
        WeightsError,
    )
    need(
        not (renormalise and kind == "deepseek_v2"),
        "config.json has norm_topk_prob true: DeepSeek's own code and transformers differ "
        "on it in deepseek_v2.",
        WeightsError,
    )
    need(
        config.get("num_key_value_heads") in (None, heads),
        "config.json has num_key_value_heads unlike num_attention_heads: latent attention "
        "has one number.",
        WeightsError,
    )
    need(
        fields["norm_eps"] == 1e-6,
        f"config.json has rms_norm_eps {fields['norm_eps']}: the latents' norms are "
        "published with 1e-6 whatever it says, "
        "and seekjax has one epsilon.",
        WeightsError,
    )
    head = fields["nope"] + fields["rotary"]
    need(
        config.get("qk_head_dim") in (None, head),
        f"config.json has qk_head_dim {quoted(config.get('qk_head_dim'))}: its parts sum to {head}.",
        WeightsError,
    )
    need(
        config.get("head_dim") in (None, fields["rotary"], head),
        f"config.json has head_dim {quoted(config.get('head_dim'))}: no head is that wide.",
        WeightsError,
    )
    grouped = method != "greedy"
    groups = {"expert_groups": "n_group", "groups_per_token": "topk_group"}
    fields |= {
        ours: whole(config.get(name) or 1, name) if grouped else 1 for ours, name in groups.items()
    }
    fields |= {
        ours: whole(config.get(name) or 0, name)
        for ours, name in (("q_latent", "q_lora_rank"), ("shared_experts", "n_shared_experts"))
    }
    fields["mtp_depth"] = whole(
        config.get("num_nextn_predict_layers", config.get("num_mtp_layers")) or 0,
        "num_nextn_predict_layers",
    )
    model = ModelConfig(
        rope=read_rope(config),
        scoring=scoring,
        group_score=group_score,
        renormalise=renormalise,
        **fields,
    )
    model = replace(model, dense_layers=min(model.dense_layers, model.layers))
    check(model)
    interleaved = config.get("rope_interleave", True)
    need(
        type(interleaved) is bool,
        f"config.json has rope_interleave {quoted(interleaved)}: it must be true or false.",
        WeightsError,
    )
    return Published(model, quantised(config.get("quantization_config")), interleaved)


def read_rope(config: dict[str, Any]) -> RopeConfig:
    """Rotary positions in either dialect."""
    new, old = config.get("rope_parameters"), config.get("rope_scaling")
    need(
        not (new and old),
        "config.json has both rope_scaling and rope_parameters: keep the one that holds.",
        WeightsError,
    )
    rope = new or old or {}
    need(
        isinstance(rope, dict),
        "config.json has rope_scaling or rope_parameters that is no table.",
        WeightsError,
    )
    unknown = sorted(set(rope) - ROPE)
    need(
        not unknown,
        "config.json asks for rotary settings that seekjax does not know: "
        f"{', '.join(map(quoted, unknown[:40]))}.",
        WeightsError,
    )
    kinds = {rope[name] for name in ("type", "rope_type") if isinstance(rope.get(name), str)} or {
        "default"
    }
    need(
        kinds <= {"yarn"} or kinds <= {"default"},
        f"config.json asks for rotary positions of type {quoted(sorted(kinds)[-1])}: "
        "seekjax has yarn and default.",
        WeightsError,
    )
    need(
        rope.get("truncate") in (None, True),
        "config.json asks for truncate false: seekjax rounds YaRN's range as DeepSeek does.",
        WeightsError,
    )
    need(
        rope.get("partial_rotary_factor") in (None, 1),
        "config.json asks for partial_rotary_factor: only 1 is there.",
        WeightsError,
    )
    base = rope.get("rope_theta", config.get("rope_theta"))
    need(base is not None, "config.json lacks rope_theta.", WeightsError)
    base = real(base, "rope_theta")
    if kinds == {"default"}:
        need(
            rope.get("factor") in (None, 1),
            "config.json has a rotary factor without yarn.",
            WeightsError,
        )
        return RopeConfig(base=base)
    for name in ("factor", "original_max_position_embeddings"):
        need(rope.get(name) is not None, f"config.json asks for yarn without {name}.", WeightsError)
    scales = [
        real(rope[name], name, 0) if rope.get(name) is not None else 0.0
        for name in ("mscale", "mscale_all_dim")
    ]
    need(
        all(scales) or scales in ([0, 0], [1, 0]),
        "config.json has one of mscale and mscale_all_dim: DeepSeek's own code and "
        "transformers differ on it.",
        WeightsError,
    )
    found = RopeConfig(
        base=base,
        factor=real(rope["factor"], "factor"),
        original_context=whole(
            rope["original_max_position_embeddings"], "original_max_position_embeddings"
        ),
        beta_fast=real(rope.get("beta_fast") or 32, "beta_fast"),
        beta_slow=real(rope.get("beta_slow") or 1, "beta_slow"),
        mscale=scales[0] or 1.0,
        mscale_all=scales[1],
    )
    need(
        rope.get("attention_factor") is None,
        "config.json sets attention_factor: seekjax derives it from mscale and mscale_all_dim.",
        WeightsError,
    )
    need(
        found.factor > 1,
        f"config.json asks for yarn with factor {found.factor}: it must exceed 1.",
        WeightsError,
    )
    need(
        whole(config["max_position_embeddings"], "max_position_embeddings")
        > found.original_context,
        "config.json asks for yarn, but max_position_embeddings does not exceed "
        "original_max_position_embeddings.",
        WeightsError,
    )
    return found


def quantised(config: Any) -> bool:
    """Whether a quantization_config stands for FP8 blocks of 128 x 128. Raises WeightsError for any
    other."""
    if config is None:
        return False
    need(
        isinstance(config, dict),
        "config.json has a quantization_config that is no table.",
        WeightsError,
    )
    allowed = {
        "quant_method": ("fp8",),
        "fmt": ("e4m3", None),
        "weight_block_size": ([128, 128],),
        "activation_scheme": ("dynamic", None),
        "scale_fmt": ("ue8m0", "float", None),
        "dequantize": (False, True, None),
    }
    wrong = [
        f"{name} {quoted(config.get(name))}"
        for name, values in allowed.items()
        if config.get(name) not in values
    ]
    wrong += [
        quoted(name)
        for name in sorted(
            set(config) - set(allowed) - {"modules_to_not_convert", "ignored_layers"}
        )
    ]
    need(
        not wrong,
        "config.json asks for a quantisation that seekjax does not know: "
        f"{', '.join(wrong)} (known: fp8 e4m3 in blocks of 128 x 128).",
        WeightsError,
    )
    return True


def write_config(
    model: ModelConfig, dtype: str, fp8: bool = False, ue8m0: bool = False
) -> dict[str, Any]:
    """config.json in the published dialect. Raises WeightsError for a model that has no place in
    it."""
    check(model)
    check_prediction(model)
    need(
        model.attention == "mla",
        f"model.attention {model.attention} has no place in the published layout: it "
        "knows latent attention only.",
        WeightsError,
    )
    kind = next(
        (name for name, (scoring, score, _) in KINDS.items() if scoring == model.scoring), ""
    )
    ungrouped = model.groups_per_token == model.expert_groups
    need(
        ungrouped or KINDS[kind][1] == model.group_score,
        f"model.scoring {model.scoring} with model.group_score {model.group_score} has no "
        "place in the published layout.",
        WeightsError,
    )
    need(
        model.norm_eps == 1e-6,
        f"model.norm_eps is {model.norm_eps}: readers of the published layout use 1e-6 "
        "for the latents' norms.",
        WeightsError,
    )
    need(
        not (model.renormalise and kind == "deepseek_v2"),
        "model.renormalise with model.scoring softmax: readers of the published layout "
        "differ on it.",
        WeightsError,
    )
    groups = (
        (1, 1) if ungrouped else (model.expert_groups, model.groups_per_token)
    )  # choosing among all groups is choosing among all experts
    method = (
        "noaux_tc" if kind == "deepseek_v3" else "greedy" if ungrouped else "group_limited_greedy"
    )
    config = {name: getattr(model, ours) for name, ours in (NUMBERS | FACTORS).items()}
    config |= {
        "architectures": [
            "DeepseekV3ForCausalLM" if kind == "deepseek_v3" else "DeepseekV2ForCausalLM"
        ],
        "model_type": kind,
        "num_key_value_heads": model.heads,
        "q_lora_rank": model.q_latent or None,
        "n_shared_experts": model.shared_experts,
        "n_group": groups[0],
        "topk_group": groups[1],
        "topk_method": method,
        "scoring_func": model.scoring,
        "norm_topk_prob": model.renormalise,
        "num_nextn_predict_layers": model.mtp_depth,
        "rope_theta": model.rope.base,
        "rope_scaling": None,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "moe_layer_freq": 1,
        "tie_word_embeddings": False,
        "use_cache": True,
        "initializer_range": model.init_std,
        "torch_dtype": dtype,
    }
    if extended(model):
        config["rope_scaling"] = {
            "type": "yarn",
            "factor": model.rope.factor,
            "original_max_position_embeddings": model.rope.original_context,
            "beta_fast": model.rope.beta_fast,
            "beta_slow": model.rope.beta_slow,
            "mscale": model.rope.mscale,
            "mscale_all_dim": model.rope.mscale_all,
        }
    if fp8:
        config["quantization_config"] = {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [128, 128],
        }
        config["quantization_config"] |= {"scale_fmt": "ue8m0"} if ue8m0 else {}
    read_config(config)  # what cannot be read back is not written
    return dict(sorted(config.items()))


def check(model: ModelConfig) -> None:
    """Sizes that do not fit each other."""
    try:
        check_model(model)
    except ConfigError as error:
        raise WeightsError(f"config.json does not describe a model: {error}") from error


def check_prediction(model: ModelConfig) -> None:
    """Prediction modules are mixtures in the published layout."""
    need(
        not model.mtp_depth or model.layers > model.dense_layers,
        "the published layout has no prediction module behind a model whose layers are all dense.",
        WeightsError,
    )


def whole(value: Any, name: str) -> int:
    need(
        type(value) is int and 0 <= value < 2**31,
        f"config.json has {name} {quoted(value)}: it must be a whole number.",
        WeightsError,
    )
    return value


def real(value: Any, name: str, least: float = 1e-30) -> float:
    need(
        type(value) in (int, float) and least <= value < 1e30,
        f"config.json has {name} {quoted(value)}: it must be a positive number.",
        WeightsError,
    )
    return float(value)
