"""config.json as published and as transformers 5 writes it, from both to the same ModelConfig, and
back."""

from dataclasses import replace

import pytest

from seekjax.commands.arguments import load_config
from seekjax.config import RopeConfig
from seekjax.errors import WeightsError
from seekjax.hf.config_reader import read_config
from seekjax.hf.config_writer import write_config
from tests.hf.small import LITE, V2, V3

COMMON = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "aux_loss_alpha": 0.001,
    "ep_size": 1,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_layer_freq": 1,
    "pretraining_tp": 1,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000,
    "seq_aux": True,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.33.1",
    "use_cache": True,
    "v_head_dim": 128,
    "auto_map": {"AutoConfig": "x.Y"},
}
YARN = {
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 40,
    "original_max_position_embeddings": 4096,
    "type": "yarn",
}
# the settings of each release (deepseek_facts, section 1.1), in the published dialect
PUBLISHED = {
    "v2_lite": COMMON
    | {
        "architectures": ["DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v2",
        "bos_token_id": 100000,
        "eos_token_id": 100001,
        "vocab_size": 102400,
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "q_lora_rank": None,
        "first_k_dense_replace": 1,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "greedy",
        "scoring_func": "softmax",
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.0,
        "rope_scaling": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
    },
    "v2": COMMON
    | {
        "architectures": ["DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v2",
        "bos_token_id": 100000,
        "eos_token_id": 100001,
        "vocab_size": 102400,
        "hidden_size": 5120,
        "intermediate_size": 12288,
        "moe_intermediate_size": 1536,
        "num_hidden_layers": 60,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "q_lora_rank": 1536,
        "first_k_dense_replace": 1,
        "n_routed_experts": 160,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "n_group": 8,
        "topk_group": 3,
        "topk_method": "group_limited_greedy",
        "scoring_func": "softmax",
        "norm_topk_prob": False,
        "routed_scaling_factor": 16.0,
        "rope_scaling": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
    },
    "v3": COMMON
    | {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "bos_token_id": 0,
        "eos_token_id": 1,
        "vocab_size": 129280,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "q_lora_rank": 1536,
        "first_k_dense_replace": 3,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "n_group": 8,
        "topk_group": 4,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "num_nextn_predict_layers": 1,
        "rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
        "quantization_config": {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "scale_fmt": "ue8m0",
            "weight_block_size": [128, 128],
        },
    },
}


def newer(config):
    """The same settings as transformers 5 writes them."""
    gone = {
        "rope_theta",
        "rope_scaling",
        "scoring_func",
        "seq_aux",
        "aux_loss_alpha",
        "moe_layer_freq",
        "ep_size",
        "auto_map",
    }
    gone |= {"topk_method"} if config["model_type"] == "deepseek_v3" else set()
    rope = {"rope_type": "yarn", "rope_theta": 10000.0} | {
        name: value for name, value in config["rope_scaling"].items() if name != "type"
    }
    return {name: value for name, value in config.items() if name not in gone} | {
        "rope_parameters": rope,
        "head_dim": 64,
        "qk_head_dim": 192,
        "pad_token_id": None,
        "output_router_logits": False,
        "dtype": "bfloat16",
    }


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("dialect", [dict, newer])
def test_published_settings_are_our_configs(name, dialect):
    published = read_config(dialect(PUBLISHED[name]))
    # nothing in the file says that V2 was trained with balance losses of groups
    trained = replace(load_config(name).model, group_balance=0.0, send_balance=0.0)
    assert published.model == replace(trained, context=163840)
    assert published.fp8 == (name == "v3")
    assert published.interleaved


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_written_says_what_was_read(name):
    written = write_config(
        read_config(PUBLISHED[name]).model, "bfloat16", fp8=name == "v3", ue8m0=True
    )
    for key in written.keys() & PUBLISHED[name].keys() - {"initializer_range"}:
        assert written[key] == PUBLISHED[name][key], key
    assert (
        not PUBLISHED[name].keys()
        - written.keys()
        - {
            "aux_loss_alpha",
            "ep_size",
            "pretraining_tp",
            "seq_aux",
            "transformers_version",
            "auto_map",
            "bos_token_id",
            "eos_token_id",
        }
    )


@pytest.mark.parametrize(
    "model",
    [
        V3,
        V2,
        LITE,
        replace(V3, context=16),
        replace(V3, rope=RopeConfig(base=500.0)),
        replace(V3, mtp_depth=0, dense_layers=2),
        replace(V3, shared_experts=0),
        replace(V3, rope=replace(V3.rope, mscale=1.0, mscale_all=0.0)),
    ],
)
def test_round_trip(model):
    found = read_config(write_config(model, "float32")).model
    yarn = model.context > model.rope.original_context and model.rope.factor > 1
    assert found == (model if yarn else replace(model, rope=RopeConfig(base=model.rope.base)))


def test_choosing_among_all_groups_is_written_as_one_group():
    written = write_config(replace(V3, groups_per_token=2, group_score="max"), "float32")
    assert (written["n_group"], written["topk_group"]) == (1, 1)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (replace(V3, attention="mha", nope=0), "latent attention only"),
        (replace(V3, norm_eps=1e-5), "norm_eps"),
        (
            replace(V3, scoring="tests.scripts.own_score:sqrt_softplus"),
            "it has softmax and sigmoid",
        ),
        (replace(V3, group_score="max"), "no place"),
        (replace(V2, renormalise=True), "renormalise"),
        (replace(V3, dense_layers=2), "no prediction module"),
        (replace(V3, experts=5), "cannot be split"),
        (replace(V3, rope=replace(V3.rope, mscale_all=0.0, mscale=0.7)), "one of mscale"),
    ],
)
def test_a_model_without_a_place_in_the_layout_is_refused(model, said):
    with pytest.raises(WeightsError, match=said):
        write_config(model, "float32")
