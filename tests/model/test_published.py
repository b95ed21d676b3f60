"""The published models have their published numbers. Papers: DeepSeekMoE 2401.06066, V2 2405.04434,
V3 2412.19437, hardware 2505.09343."""

import importlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.v3_long import workflow as long_context
from seekjax.commands.arguments import parse
from seekjax.config import ModelConfig
from seekjax.model.count import cache_bytes, cache_elements, flops_per_token, parameters
from seekjax.model.rope import mscale, rope_frequencies, softmax_scale
from seekjax.model.routing import max_violation, sequence_balance, update_bias
from seekjax.open import extended
from seekjax.plan.chips import CHIPS
from seekjax.plan.layout import lay_out
from seekjax.plan.memory import memory
from seekjax.plan.meshes import USABLE
from seekjax.train.schedule import learning_rate, tokens_at
from seekjax.train.validate import check_mesh
from sharding.mesh import abstract_mesh

MOE_16B, V2_LITE, V2, V3 = (
    importlib.import_module(f"configs.{name}").config for name in ("moe_16b", "v2_lite", "v2", "v3")
)


def billions(number: int) -> float:
    return number / 1e9


def test_moe_16b_has_16_4b_parameters_2_8b_active():
    """DeepSeekMoE section 5.1: 16.4B and 2.8B, the embedding counted."""
    count = parameters(MOE_16B.model)
    assert (count.total, count.active) == (16_375_728_128, 2_828_650_496)


def test_v2_lite_has_15_7b_parameters_2_4b_active():
    """V2 appendix B: 15.7B and 2.4B, the embedding not counted."""
    count = parameters(V2_LITE.model)
    assert (count.total, count.active_without_embedding, count.active) == (
        15_706_484_224,
        2_451_435_008,
        2_661_150_208,
    )
    assert count.attention == 13_763_072


def test_v2_has_236b_parameters_21b_active():
    """V2 abstract: 236B and 21B."""
    count = parameters(V2.model)
    assert (count.total, count.active_without_embedding, count.active) == (
        235_741_434_880,
        20_851_512_320,
        21_375_800_320,
    )
    assert count.attention == 149_227_520


def test_v3_has_671b_parameters_37b_active():
    """V3 abstract: 671B and 37B; README_WEIGHTS: 36.7B with an embedding of 0.9B counted once."""
    count = parameters(V3.model)
    assert count.total == 671_026_419_200
    assert (count.active, count.active_without_embedding, count.active_without_both) == (
        37_552_297_472,
        36_625_618_432,
        35_698_939_392,
    )
    assert billions(count.active_without_embedding) == pytest.approx(36.7, abs=0.1)
    assert (count.attention, count.dense, count.expert, count.embedding) == (
        187_107_328,
        396_361_728,
        44_040_192,
        926_679_040,
    )
    assert (count.experts, count.experts_active, count.router_bias) == (
        11_320_164_608,
        398_196_992,
        14_848,
    )


def test_v3_prediction_module_has_11_5b_parameters():
    """README_WEIGHTS: 11.5B unique parameters, which leaves out the 102,760,448 of eh_proj."""
    mtp = parameters(V3.model).mtp
    assert mtp == 11_610_068_224
    assert billions(mtp - 102_760_448) == pytest.approx(11.507, abs=1e-3)


def test_mha_in_place_of_mla_has_15_8b_parameters_2_5b_active():
    """V2 appendix D, table 9: with MHA 15.8B, 2.5B active and 110.6K numbers of cache per token,
    against 15.7B, 2.4B and 15.6K (14 %)."""
    mha = replace(V2_LITE.model, attention="mha", nope=0, rotary=128)
    count = parameters(mha)
    assert (billions(count.total), billions(count.active_without_embedding)) == (
        pytest.approx(15.788, abs=1e-3),
        pytest.approx(2.532, abs=1e-3),
    )
    assert cache_elements(mha) == 110_592
    assert cache_elements(V2_LITE.model) / cache_elements(mha) == pytest.approx(0.14, abs=0.005)


@pytest.mark.parametrize(
    ("config", "elements"), [(MOE_16B, 114_688), (V2_LITE, 15_552), (V2, 34_560), (V3, 35_136)]
)
def test_cache_per_token(config, elements):
    """V2 tables 1 and 9 (15.6K, 34.6K); hardware paper table 1: V3 keeps 70.272 KB."""
    assert (cache_elements(config.model), cache_bytes(config.model)) == (elements, 2 * elements)
    if config is V3:
        assert cache_bytes(config.model) == 70_272


def test_mla_caches_as_much_as_2_25_groups():
    """V2 table 1: MLA equals grouped-query attention with 2.25 groups."""
    assert cache_elements(V2.model) / V2.model.layers / (2 * V2.model.nope) == 2.25


def test_v2_saves_93_3_percent_of_the_67b_models_cache():
    """V2 abstract: 93.3 %, of DeepSeek 67B's 95 layers with 8 key-value groups in 16 bits; V2
    serves with 6 bits on average (section 3.2.3)."""
    assert 1 - cache_elements(V2.model) * 6 / (95 * 2 * 8 * 128 * 16) == pytest.approx(
        0.9334, abs=1e-4
    )


@pytest.mark.parametrize(("weight", "value"), [(0.707, 1.2608037774), (1.0, 1.3688879454)])
def test_yarn_temperature(weight, value):
    """V2 section 3.1.4: 0.0707 ln 40 + 1; V3 section 4.3: 0.1 ln 40 + 1."""
    assert mscale(40, weight) == pytest.approx(value, abs=1e-10)
    assert mscale(40, weight) == pytest.approx(0.1 * weight * math.log(40) + 1)


@pytest.mark.parametrize(
    ("config", "scale"), [(V2_LITE, 0.1147213868), (V2, 0.1147213868), (V3, 0.1352337789)]
)
def test_softmax_scale_of_the_released_models(config, scale):
    """DeepSeek's inference/model.py: 192^-0.5 x temperature^2 where the context exceeds 4096, else
    192^-0.5."""
    extended = replace(config.model, context=163840)
    width = config.model.nope + config.model.rotary
    assert softmax_scale(extended, width) == pytest.approx(scale, abs=1e-10)
    assert softmax_scale(config.model, width) == pytest.approx(0.0721687836, abs=1e-10)


@pytest.mark.parametrize("config", [V2_LITE, V2, V3])
def test_yarn_frequencies_of_the_released_models(config):
    """DeepSeek's inference/model.py: pairs up to 10 stay, from 23 on are divided by 40, and pair 16
    is 0.0055 to the last digit."""
    plain, yarn = (
        rope_frequencies(replace(config.model, context=context)) for context in (4096, 163840)
    )
    np.testing.assert_allclose(plain, 10000.0 ** (-np.arange(32) / 32))
    np.testing.assert_array_equal(yarn[:11], plain[:11])
    assert yarn[11] < plain[11]
    assert yarn[22] > plain[22] / 40
    np.testing.assert_allclose(yarn[23:], plain[23:] / 40)
    golden = {
        10: 0.0562341325,
        11: 0.0390069266,
        15: 0.00833450895,
        16: 0.0055,
        20: 7.90569415e-4,
        22: 1.77827941e-4,
        31: 3.33380358e-6,
    }
    np.testing.assert_allclose(yarn[list(golden)], list(golden.values()), rtol=1e-8)


def test_balanced_loads_have_balance_one_and_no_violation():
    """V3 equations 17-20: sum of f_i P_i = 1 in each sequence when balanced; arXiv 2408.15664:
    MaxVio 0 when uniform, the bias moves by u = 0.001."""
    choice_BTK = np.arange(2 * 32).reshape(2, 16, 2) % 8
    np.testing.assert_allclose(
        sequence_balance(np.full((2, 16, 8), 0.3, np.float32), choice_BTK), 1, rtol=1e-6
    )
    assert max_violation(np.full(8, 5.0)) == 0
    assert max_violation(np.array([9.0, 5, 5, 1])) == pytest.approx(0.8)
    np.testing.assert_allclose(
        update_bias(np.zeros(4), np.array([9.0, 5, 5, 1]), V3.train.balance_rate),
        [-0.001, 0, 0, 0.001],
        rtol=1e-6,
    )


def quarter_experts(model: ModelConfig) -> ModelConfig:
    """The paper's idealised sizes: an FFN is 8 embed^2, an expert a quarter of it, every layer has
    experts."""
    return replace(model, dense_layers=0, expert_hidden=round(model.embed * 2 / 3))


def dense(layers: int, embed: int, vocab: int) -> ModelConfig:
    return replace(
        MOE_16B.model,
        layers=layers,
        dense_layers=layers,
        embed=embed,
        heads=embed // 128,
        vocab=vocab,
        hidden=round(embed * 8 / 3),
    )


@pytest.mark.parametrize(
    ("model", "published"),
    [
        (quarter_experts(MOE_16B.model), 74.4),
        (dense(30, 4096, 102400), 183.5),
        (dense(32, 4096, 32000), 187.9),
    ],
)
def test_training_flops_per_4k_tokens(model, published):
    """DeepSeekMoE tables 3 and 4: 74.4T (MoE-16B), 183.5T (DeepSeek 7B), 187.9T (LLaMA2-7B); they
    leave out router and norms."""
    assert flops_per_token(model, 4096, causal=False) * 4096 / 1e12 == pytest.approx(
        published, rel=2e-3
    )


ABLATION = dense(9, 1280, 8000)


@pytest.mark.parametrize(
    ("model", "published"),
    [
        (
            quarter_experts(replace(ABLATION, experts=63, shared_experts=1, experts_per_token=7)),
            4.3,
        ),
        (ABLATION, 2.9),
    ],
)
def test_training_flops_of_the_2b_ablation(model, published):
    """DeepSeekMoE table 1: 4.3T with 1 + 63 experts of which 1 + 7 are active, 2.9T dense, per 2K
    tokens."""
    assert flops_per_token(model, 2048, causal=False) * 2048 / 1e12 == pytest.approx(
        published, abs=0.05
    )


@pytest.mark.parametrize(("config", "gigaflops"), [(V2, 155.3), (V3, 250.5)])
def test_training_gigaflops_per_token(config, gigaflops):
    """Hardware paper table 2: 155 and 250 GFLOPs per token at 4K, causal."""
    assert billions(flops_per_token(config.model, 4096)) == pytest.approx(gigaflops, abs=0.05)
    assert 3 * flops_per_token(config.model, 4096, training=False) == flops_per_token(
        config.model, 4096
    )


@pytest.mark.parametrize(("causal", "published"), [(True, 385), (False, 432)])
def test_v3_trained_at_385_teraflops_per_accelerator(causal, published):
    """V3 section 1: 180K H800 hours per 1T tokens; hardware paper: 385 TFLOP/s causal, 432 counting
    the whole square."""
    assert flops_per_token(V3.model, 4096, causal=causal) * 1e12 / (
        180e3 * 3600
    ) / 1e12 == pytest.approx(published, rel=5e-3)


def test_v3_steps_have_62_914_560_tokens_in_every_phase():
    """V3 sections 4.2 and 4.3: 15360 x 4K = 1920 x 32K = 480 x 128K, and 14.8T tokens in all."""
    steps = V3.train.steps
    assert (
        tokens_at(V3, steps) - tokens_at(V3, steps - 1)
        == 1920 * 32768
        == 480 * 131072
        == 62_914_560
    )
    assert tokens_at(V3, steps) == pytest.approx(14.8e12, abs=62_914_560)


def test_v3_extends_its_context_in_two_phases():
    """V3 section 4.3: 1,000 steps of 1920 x 32K, then 1,000 of 480 x 128K, at 7.3e-6, YaRN by 40;
    on a mesh that fits each."""
    lines = long_context.lines(Path("runs"), seed=0)
    phases = []
    for name in ("32k", "128k"):
        config = parse(lines[name][1:], "train.py")
        config = replace(config, model=extended(V3.model, config.extend))
        mesh = abstract_mesh(config.mesh, 2048)
        check_mesh(config, mesh)
        assert mesh.size == 2048
        needed = memory(lay_out(config, dict(mesh.shape)))
        assert needed.total < USABLE * CHIPS["h800"].memory
        assert tokens_at(config, 1000) == 1000 * 62_914_560
        assert float(learning_rate(config)(0)) == pytest.approx(7.3e-6)
        assert float(learning_rate(config)(999)) == pytest.approx(7.3e-6)
        assert (config.model.rope.factor, config.model.rope.original_context) == (40, 4096)
        phases.append((config.train.steps, config.data.sequence, config.model.context))
    assert phases == [(1000, 32768, 32768), (1000, 131072, 131072)]


def test_v3_learning_rate_after_warm_up_and_at_the_end():
    """V3 section 4.2: 2.2e-4 after 2K steps, 7.3e-6 in the last 167B tokens; each phase is in
    tests/train/test_schedule.py."""
    rate = learning_rate(V3)
    assert float(rate(0)) == pytest.approx(2.2e-4 / 2000)
    assert float(rate(2000)) == pytest.approx(2.2e-4)
    assert float(rate(V3.train.steps - 1)) == pytest.approx(7.3e-6)
