"""config.json -> ModelConfig, from both dialects.

Every key is read, must have the one value that seekjax implements, does not matter for what the
weights compute, or is refused by name.
"""

from dataclasses import replace
from typing import Any, NamedTuple

from seekjax.config import ModelConfig, RopeConfig
from seekjax.errors import WeightsError, need
from seekjax.hf.config_keys import (
    FAMILIES,
    FIXED,
    INTEGERS,
    KNOWN,
    NORM_EPS,
    NUMBERS,
    QUANTISATION,
    QUANTISATION_IGNORED,
    REQUIRED,
    ROPE,
    Family,
    boolean,
    check_sizes,
    integer,
    number,
)
from seekjax.hf.quote import MOST_NAMES, quoted


class PublishedConfig(NamedTuple):
    """What a config.json describes."""

    model: ModelConfig
    fp8: bool = False  # some matrices are in FP8 blocks
    interleaved: bool = True  # rotary pairs are neighbours; False: first halves, then second halves


def read_config(config: dict[str, Any]) -> PublishedConfig:
    """Return what a config.json describes.

    Raises WeightsError, naming every key that seekjax cannot honour.
    """
    family = _family(config)
    _check_keys(config)
    _check_consistent(config, family)

    by_softmax = family.scoring == "softmax"
    renormalise = boolean(config.get("norm_topk_prob", not by_softmax), "norm_topk_prob")
    need(
        not (renormalise and by_softmax),
        "config.json has norm_topk_prob true: DeepSeek's own code and transformers differ "
        "on it in deepseek_v2.",
        WeightsError,
    )

    model = ModelConfig(
        rope=read_rope(config),
        scoring=family.scoring,
        group_score=family.group_score,
        balance_choice=family.balance_choice,
        renormalise=renormalise,
        **_sizes(config, family),
    )
    model = replace(model, dense_layers=min(model.dense_layers, model.layers))
    check_sizes(model)

    interleaved = boolean(config.get("rope_interleave", True), "rope_interleave")
    return PublishedConfig(model, uses_fp8(config.get("quantization_config")), interleaved)


def _family(config: dict[str, Any]) -> Family:
    """The family that model_type names."""
    model_type = config.get("model_type")
    for family in FAMILIES:
        if family.name == model_type:
            return family

    names = ", ".join(family.name for family in FAMILIES)
    raise WeightsError(f"config.json has model_type {quoted(model_type)}: seekjax reads {names}.")


def _check_keys(config: dict[str, Any]) -> None:
    """Raise WeightsError for unknown keys, values that seekjax lacks, and missing keys."""
    unknown = sorted(set(config) - KNOWN)
    need(
        not unknown,
        f"config.json has keys that seekjax does not know: {_names(unknown)}.",
        WeightsError,
    )

    unsupported = []
    for key, allowed in FIXED.items():
        if key in config and config[key] not in allowed:
            unsupported.append(f"{key} {quoted(config[key])}")
    need(
        not unsupported,
        f"config.json has values that seekjax does not support: {', '.join(unsupported)}.",
        WeightsError,
    )

    missing = [key for key in REQUIRED if key not in config]
    need(not missing, f"config.json lacks {', '.join(missing)}.", WeightsError)


def _check_consistent(config: dict[str, Any], family: Family) -> None:
    """Raise WeightsError for a key that contradicts the others."""
    heads = integer(config["num_attention_heads"], "num_attention_heads")
    nope = integer(config["qk_nope_head_dim"], "qk_nope_head_dim")
    rotary = integer(config["qk_rope_head_dim"], "qk_rope_head_dim")
    experts = integer(config["n_routed_experts"], "n_routed_experts")
    methods = " or ".join(family.methods)

    # Each row: a key, its values that agree with the other keys (the first if the key is absent),
    # and the end of the sentence.
    agreements = (
        ("scoring_func", (family.scoring,), f"{family.name} has {family.scoring}"),
        ("topk_method", family.methods, f"{family.name} has {methods}"),
        (
            "num_key_value_heads",
            (None, heads),
            "latent attention has as many of them as num_attention_heads",
        ),
        ("num_local_experts", (None, experts), f"n_routed_experts is {experts}"),
        ("qk_head_dim", (None, nope + rotary), f"its parts sum to {nope + rotary}"),
        ("head_dim", (None, rotary, nope + rotary), "no part of a head has this width"),
    )
    for key, allowed, reason in agreements:
        value = config.get(key, allowed[0])
        need(
            value in allowed,
            f"config.json has {key} {quoted(value)}: {reason}.",
            WeightsError,
        )


def _sizes(config: dict[str, Any], family: Family) -> dict[str, Any]:
    """The numeric fields of ModelConfig."""
    sizes: dict[str, Any] = {}
    for key, ours in INTEGERS.items():
        sizes[ours] = integer(config[key], key)
    for key, ours in NUMBERS.items():
        sizes[ours] = number(config[key], key)

    # The latents' norms have one epsilon in every reader.
    if sizes["norm_eps"] != NORM_EPS:
        sizes["latent_norm_eps"] = NORM_EPS

    # None stands for absent in these keys.
    sizes["q_latent"] = integer(config.get("q_lora_rank") or 0, "q_lora_rank")
    sizes["shared_experts"] = integer(config.get("n_shared_experts") or 0, "n_shared_experts")
    depth = config.get("num_nextn_predict_layers", config.get("num_mtp_layers"))
    sizes["mtp_depth"] = integer(depth or 0, "num_nextn_predict_layers")

    # The greedy method ignores the groups.
    sizes["expert_groups"] = 1
    sizes["groups_per_token"] = 1
    if config.get("topk_method", family.methods[0]) != "greedy":
        sizes["expert_groups"] = integer(config.get("n_group") or 1, "n_group")
        sizes["groups_per_token"] = integer(config.get("topk_group") or 1, "topk_group")
    return sizes


def read_rope(config: dict[str, Any]) -> RopeConfig:
    """Return the rotary positions, from either dialect. Raises WeightsError."""
    rope = _rope_table(config)
    kind = _rope_kind(rope)

    base = rope.get("rope_theta", config.get("rope_theta"))
    need(base is not None, "config.json lacks rope_theta.", WeightsError)
    base = number(base, "rope_theta")

    if kind == "yarn":
        return _yarn(rope, base, config["max_position_embeddings"])
    need(
        rope.get("factor") in (None, 1),
        "config.json has a rotary factor without yarn.",
        WeightsError,
    )
    return RopeConfig(base=base)


def _rope_table(config: dict[str, Any]) -> dict[str, Any]:
    """The rotary settings of either dialect, all of them keys and values that seekjax has."""
    new, old = config.get("rope_parameters"), config.get("rope_scaling")
    need(
        not (new and old),
        "config.json has both rope_scaling and rope_parameters: keep the valid one.",
        WeightsError,
    )
    rope = new or old or {}
    need(
        isinstance(rope, dict),
        "config.json has a rope_scaling or rope_parameters that is not an object.",
        WeightsError,
    )

    unknown = sorted(set(rope) - ROPE)
    need(
        not unknown,
        f"config.json has rotary settings that seekjax does not know: {_names(unknown)}.",
        WeightsError,
    )
    need(
        rope.get("truncate") in (None, True),
        "config.json has truncate false: seekjax rounds YaRN's range as DeepSeek does.",
        WeightsError,
    )
    need(
        rope.get("partial_rotary_factor") in (None, 1),
        "config.json has a partial_rotary_factor: seekjax has only 1.",
        WeightsError,
    )
    return rope


def _rope_kind(rope: dict[str, Any]) -> str:
    """The kind of rotary positions, "yarn" or "default": the dialects name the key differently."""
    kinds = {rope[key] for key in ("type", "rope_type") if isinstance(rope.get(key), str)}
    if kinds == {"yarn"}:
        return "yarn"
    need(
        kinds <= {"default"},
        f"config.json has rotary positions of type {_names(sorted(kinds))}: seekjax has yarn and "
        "default.",
        WeightsError,
    )
    return "default"


def _yarn(
    rope: dict[str, Any],
    base: float,
    context: Any,
) -> RopeConfig:
    """YaRN's settings. Raises WeightsError if some are missing or do not fit."""
    for key in ("factor", "original_max_position_embeddings"):
        need(rope.get(key) is not None, f"config.json has yarn without {key}.", WeightsError)

    # Both scales, none, or DeepSeek's default of 1 for the first alone.
    mscale = _scale(rope, "mscale")
    mscale_all = _scale(rope, "mscale_all_dim")
    both = mscale > 0 and mscale_all > 0
    need(
        both or (mscale in (0, 1) and mscale_all == 0),
        "config.json has one of mscale and mscale_all_dim: DeepSeek's own code and "
        "transformers differ on it.",
        WeightsError,
    )
    need(
        rope.get("attention_factor") is None,
        "config.json sets attention_factor: seekjax derives it from mscale and mscale_all_dim.",
        WeightsError,
    )

    factor = number(rope["factor"], "factor")
    need(
        factor > 1,
        f"config.json has yarn with factor {factor}: it must exceed 1.",
        WeightsError,
    )
    original_context = integer(
        rope["original_max_position_embeddings"], "original_max_position_embeddings"
    )
    need(
        integer(context, "max_position_embeddings") > original_context,
        "config.json has yarn, but max_position_embeddings does not exceed "
        "original_max_position_embeddings.",
        WeightsError,
    )

    return RopeConfig(
        base=base,
        factor=factor,
        original_context=original_context,
        beta_fast=number(rope.get("beta_fast") or 32, "beta_fast"),
        beta_slow=number(rope.get("beta_slow") or 1, "beta_slow"),
        mscale=mscale or 1.0,
        mscale_all=mscale_all,
    )


def _scale(rope: dict[str, Any], key: str) -> float:
    """One of YaRN's attention scales; 0 if it is absent."""
    value = rope.get(key)
    return 0.0 if value is None else number(value, key, least=0)


def uses_fp8(config: Any) -> bool:
    """Return whether a quantization_config describes FP8 blocks of 128 x 128.

    Raises WeightsError for any other quantisation.
    """
    if config is None:
        return False
    need(
        isinstance(config, dict),
        "config.json has a quantization_config that is not an object.",
        WeightsError,
    )

    unsupported = []
    for key, allowed in QUANTISATION.items():
        if config.get(key) not in allowed:
            unsupported.append(f"{key} {quoted(config.get(key))}")
    for key in sorted(set(config) - set(QUANTISATION) - QUANTISATION_IGNORED):
        unsupported.append(quoted(key))
    need(
        not unsupported,
        f"config.json has a quantisation that seekjax does not support: {', '.join(unsupported)} "
        "(supported: fp8 e4m3 in blocks of 128 x 128).",
        WeightsError,
    )
    return True


def _names(keys: list[str]) -> str:
    """Names chosen by a stranger, for a sentence."""
    return ", ".join(map(quoted, keys[:MOST_NAMES]))
