"""The keys of a published config.json: how each is read, or why seekjax may ignore it.

Two dialects exist: the published one (rope_theta, rope_scaling) and that of transformers 5
(rope_parameters).
"""

from typing import Any, Literal, NamedTuple

from seekjax.config import ModelConfig
from seekjax.errors import ConfigError, WeightsError, need
from seekjax.hf.quote import quoted
from seekjax.model.check import check_model

# DeepSeek's name -> ours, for fields that are the same non-negative integer.
INTEGERS = {
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

# DeepSeek's name -> ours, for fields that are the same positive number.
NUMBERS = {"routed_scaling_factor": "route_scale", "rms_norm_eps": "norm_eps"}

# Keys that read_config reads one by one.
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
    "num_local_experts",
}

REQUIRED = (*INTEGERS, *NUMBERS, "q_lora_rank")

# The values that all published models have and that seekjax implements.
FIXED = {
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
    "tie_encoder_decoder": (False,),
    "cross_attention_hidden_size": (None,),
    "use_sliding_window": (False, None),
}

SAMPLING = {
    "bad_words_ids",
    "begin_suppress_tokens",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
}

# Training, token ids, and settings of one library: they do not change what the weights compute.
# (initializer_range is 0.02 in the files; the papers' initialisation is not.)
IGNORED = {
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
    "use_bfloat16",
    "tf_legacy_loss",
    "finetuning_task",
    "model_max_length",
    # of sliding windows, which FIXED refuses
    "max_window_layers",
    # which kernels run
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "_experts_implementation",
    "_flash_attn_2_enabled",
    "gradient_checkpointing",
    # training
    "router_aux_loss_coef",
    "router_jitter_noise",
    # marks of tools
    "unsloth_fixed",
    "unsloth_version",
    "transformers.js_config",
    # how to sample, which earlier versions of transformers wrote here
    *SAMPLING,
}

KNOWN = {*INTEGERS, *NUMBERS, *OTHER, *FIXED, *IGNORED}

# The keys of rope_scaling and rope_parameters.
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

# The keys of quantization_config: FP8 in blocks of 128 x 128, and nothing else.
QUANTISATION = {
    "quant_method": ("fp8",),
    "fmt": ("e4m3", None),
    "weight_block_size": ([128, 128],),
    "activation_scheme": ("dynamic", None),
    "scale_fmt": ("ue8m0", "float", None),
    "dequantize": (False, True, None),
}
QUANTISATION_IGNORED = {"modules_to_not_convert", "ignored_layers"}

NORM_EPS = 1e-6  # of the latents' norms in every reader, whatever rms_norm_eps is


class Family(NamedTuple):
    """What a model_type stands for."""

    name: str
    architecture: str
    scoring: str
    group_score: Literal["max", "top2"]
    balance_choice: Literal["bare", "routed"]  # of its paper's balance loss
    methods: tuple[str, ...]  # values of topk_method, the default first


V2 = Family(
    name="deepseek_v2",
    architecture="DeepseekV2ForCausalLM",
    scoring="softmax",
    group_score="max",
    balance_choice="routed",
    methods=("greedy", "group_limited_greedy"),
)
V3 = Family(
    name="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
    scoring="sigmoid",
    group_score="top2",
    balance_choice="bare",
    methods=("noaux_tc",),
)
# V3's architecture under another name, so that servers can choose settings for it (2507.20534).
KIMI_K2 = V3._replace(name="kimi_k2")
FAMILIES = (V2, V3, KIMI_K2)


def integer(value: Any, key: str) -> int:
    """Return a value that must be a non-negative integer of at most 31 bits."""
    need(
        type(value) is int and 0 <= value < 2**31,
        f"config.json has {key} {quoted(value)}: it must be a whole number.",
        WeightsError,
    )
    return value


def number(
    value: Any,
    key: str,
    least: float = 1e-30,
) -> float:
    """Return a value that must be a number of at least `least`."""
    need(
        type(value) in (int, float) and least <= value < 1e30,
        f"config.json has {key} {quoted(value)}: it must be a positive number.",
        WeightsError,
    )
    return float(value)


def boolean(value: Any, key: str) -> bool:
    """Return a value that must be true or false."""
    need(
        type(value) is bool,
        f"config.json has {key} {quoted(value)}: it must be true or false.",
        WeightsError,
    )
    return value


def check_sizes(model: ModelConfig) -> None:
    """Raise WeightsError if the sizes of a model do not fit each other."""
    try:
        check_model(model)
    except ConfigError as error:
        raise WeightsError(f"config.json does not describe a model: {error}") from error


def check_prediction(model: ModelConfig) -> None:
    """Raise WeightsError for prediction modules without experts, which the layout lacks."""
    need(
        not model.mtp_depth or model.layers > model.dense_layers,
        "the published layout has no prediction module for a model whose layers are all dense.",
        WeightsError,
    )
