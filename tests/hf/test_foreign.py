"""What other programs and other makers write into a folder, and seekjax reads."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from seekjax.config import RopeConfig
from seekjax.errors import WeightsError
from seekjax.hf.config_reader import read_config
from seekjax.hf.config_writer import write_config
from seekjax.hf.gguf import check
from seekjax.hf.load import load
from seekjax.hf.save import save
from tests.hf.small import LITE, V3, drawn, pack, raw_tensors, unpack
from tests.hf.test_config import COMMON, PUBLISHED

FILE = "model.safetensors"

# https://huggingface.co/moonshotai/Moonlight-16B-A3B
MOONLIGHT = COMMON | {
    "model_type": "deepseek_v3",
    "architectures": ["DeepseekV3ForCausalLM"],
    "vocab_size": 163840,
    "hidden_size": 2048,
    "intermediate_size": 11264,
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
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.446,
    "num_nextn_predict_layers": 0,
    "rms_norm_eps": 1e-05,
    "rope_theta": 50000.0,
    "rope_scaling": None,
    "max_position_embeddings": 8192,
}
# https://huggingface.co/moonshotai/Kimi-K2-Instruct
KIMI_K2 = PUBLISHED["v3"] | {
    "model_type": "kimi_k2",
    "vocab_size": 163840,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "first_k_dense_replace": 1,
    "n_routed_experts": 384,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 2.827,
    "num_nextn_predict_layers": 0,
    "rope_theta": 50000.0,
    "rope_scaling": PUBLISHED["v3"]["rope_scaling"]
    | {"beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0},
    "max_position_embeddings": 131072,
}
# no query latent, no groups, sigmoid scores, another epsilon than the latents'
SMALL_MOONLIGHT = replace(
    LITE,
    scoring="sigmoid",
    group_score="top2",
    renormalise=True,
    route_scale=2.446,
    norm_eps=1e-5,
    latent_norm_eps=1e-6,
    balance_choice="bare",
    rope=RopeConfig(base=50000.0),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkpoint with a prediction module, and its variables."""
    folder = tmp_path_factory.mktemp("foreign") / "whole"
    variables = drawn(V3)
    save(folder, V3, variables, "f32")
    return folder, variables


def copied(whole, to, **fields):
    """A copy of the checkpoint with other fields in config.json."""
    shutil.copytree(whole[0], to)
    described = json.loads((to / "config.json").read_text()) | fields
    (to / "config.json").write_text(json.dumps(described))
    return to


def with_tensors(folder, tensors):
    """Add tensors {name: (type, array)} to the file of a folder, or replace them."""
    table, data = unpack(folder / FILE)
    header, filled = {}, b""
    for name in (table.keys() | tensors.keys()) - {"__metadata__"}:
        if name in tensors:
            dtype, x = tensors[name]
            shape, piece = list(x.shape), x.tobytes()
        else:
            dtype, shape = table[name]["dtype"], table[name]["shape"]
            start, end = table[name]["data_offsets"]
            piece = data[start:end]
        offsets = [len(filled), len(filled) + len(piece)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        filled += piece
    pack(folder / FILE, header, filled)


def test_models_of_the_same_architecture():
    moonlight, kimi = read_config(MOONLIGHT), read_config(KIMI_K2)
    assert (moonlight.model.norm_eps, moonlight.model.latent_eps) == (1e-5, 1e-6)
    assert (moonlight.model.q_latent, moonlight.model.expert_groups) == (0, 1)
    assert (kimi.model.experts, kimi.model.scoring, kimi.fp8) == (384, "sigmoid", True)
    assert kimi.model.norm_eps == kimi.model.latent_eps == 1e-6

    # Written as the architecture that both have, and read back as the same model.
    for model in (moonlight.model, kimi.model, SMALL_MOONLIGHT):
        written = write_config(model, "bfloat16")
        assert written["model_type"] == "deepseek_v3"
        assert read_config(written).model == model
    with pytest.raises(WeightsError, match=r"latent_norm_eps 1e-06 unlike model.norm_eps"):
        check(replace(moonlight.model, layers=27))


@pytest.mark.parametrize(
    "added",
    [
        {"attn_implementation": "flash_attention_2", "unsloth_fixed": True},
        {"use_sliding_window": False, "max_window_layers": 28, "sliding_window": None},
        {"eos_token_id": [1, 447], "pad_token_id": None},
        {"num_local_experts": 256, "router_aux_loss_coef": 0.001, "output_router_logits": False},
        {"temperature": 0.6, "top_p": 0.95, "do_sample": True, "model_max_length": 163840},
    ],
)
def test_harmless_additions_change_nothing(added):
    assert read_config(PUBLISHED["v3"] | added) == read_config(PUBLISHED["v3"])


@pytest.mark.parametrize(
    "added", [{"use_sliding_window": True}, {"num_local_experts": 8}, {"text_config": {}}]
)
def test_additions_that_change_the_model_are_named(added):
    with pytest.raises(WeightsError, match=next(iter(added))):
        read_config(PUBLISHED["v3"] | added)


def test_prediction_modules_that_config_denies_are_left_out(whole, tmp_path, capsys):
    folder = copied(whole, tmp_path / "a", num_nextn_predict_layers=0)
    model, variables = load(folder)
    assert model == replace(V3, mtp_depth=0)
    np.testing.assert_array_equal(variables["params"]["head"], whole[1]["params"]["head"])
    assert " tensors of prediction modules are not read: config.json" in capsys.readouterr().err


def test_a_layer_too_many_is_no_prediction_module(whole, tmp_path):
    with pytest.raises(WeightsError, match=r"unknown: model.layers.1"):
        load(copied(whole, tmp_path / "a", num_hidden_layers=1, num_nextn_predict_layers=0))


def test_rotary_buffers_are_left_out(whole, tmp_path, capsys):
    folder = copied(whole, tmp_path / "a")
    buffer = np.ones(V3.rotary // 2, np.float32)
    name = "model.layers.{}.self_attn.rotary_emb.inv_freq"
    with_tensors(folder, {name.format(layer): ("F32", buffer) for layer in (0, 1)})
    _, variables = load(folder)
    jax.tree.map(np.testing.assert_array_equal, variables, whole[1])
    assert "note: 2 tensors *rotary_emb.inv_freq are not read" in capsys.readouterr().err


def test_a_shared_embedding_in_another_dtype(whole, tmp_path):
    """What the wide one becomes in the narrow dtype is compared, and nothing but that."""
    folder = copied(whole, tmp_path / "a")
    half = np.asarray(whole[1]["params"]["embed"]).astype(np.float16)
    with_tensors(folder, {"model.layers.2.embed_tokens.weight": ("F16", half)})
    _, variables = load(folder)
    jax.tree.map(np.testing.assert_array_equal, variables, whole[1])

    with_tensors(folder, {"model.layers.2.embed_tokens.weight": ("F16", half + half)})
    with pytest.raises(WeightsError, match=r"differs from model.embed_tokens.weight"):
        load(folder)


def test_the_balance_bias_is_float32_in_every_file(whole, tmp_path):
    """Its steps of 0.001 are lost in bfloat16 once it has grown to 0.5."""
    bias = whole[1]["balance"]["expert_layers"]["ffn"]["bias"]
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    for dtype in ("bf16", "fp8", "f32"):
        save(tmp_path / dtype, V3, whole[1], dtype)
        stored, shape, data = raw_tensors(tmp_path / dtype)[name]
        assert (stored, shape) == ("F32", (V3.experts,))
        np.testing.assert_array_equal(np.frombuffer(data, np.float32), bias[0])


def test_an_own_score_has_no_place_in_the_layout():
    model = replace(V3, scoring="tests.scripts.own_score:sqrt_softplus")
    with pytest.raises(WeightsError, match="has no place in the published layout"):
        write_config(model, "bfloat16")
