"""Adapters in PEFT's files: added by its formula to the published weights, they are the merged
weights."""

import importlib.util
import json
import re
from dataclasses import replace

import jax
import numpy as np
import pytest

from seekjax.config import KernelConfig, LoraConfig
from seekjax.errors import WeightsError
from seekjax.hf.load import load
from seekjax.hf.peft import has_halves, save_adapters
from seekjax.hf.save import save
from seekjax.model.abstract import named_variables
from seekjax.model.lora import adapters, merge
from sharding.place import axes_of
from tests.hf.small import LITE, V3, drawn, raw_tensors

LORA = LoraConfig(rank=2, alpha=3.0)


def drawn_adapters(model, base, lora=LORA):
    """Adapters that do something on the weights `base`, and the logical axes of these."""
    axes = axes_of(named_variables(model))["params"]
    rng = np.random.default_rng(0)
    first = jax.eval_shape(lambda base: adapters(base, axes, lora, 0), base)
    return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype("f4"), first), axes


def made(model, base):
    """Such adapters, and the weights with them."""
    params, axes = drawn_adapters(model, base)
    return params, jax.jit(lambda base, params: merge(base, params, axes, LORA))(base, params)


def by_peft(folder):
    """What the files of an adapter add to each weight, by PEFT's documentation: lora_alpha / r
    times B A, where rank_pattern and alpha_pattern replace r and lora_alpha by module. Every
    target that is named like a matrix of experts is a parameter: PEFT takes modules of these names
    for the fused experts of transformers 5."""
    config = json.loads((folder / "adapter_config.json").read_text())
    targets = {name.removesuffix(".weight") for name in config["target_parameters"]}
    assert {name.split(".")[0] for name in targets} == {"mlp"}
    assert {name.split(".")[0] for name in config["target_modules"]} == {"self_attn"}
    targets.update(config["target_modules"])
    halves = {}
    for name, (kind, shape, raw) in raw_tensors(folder).items():
        assert kind == "F32"
        halves[name.removeprefix("base_model.model.")] = np.frombuffer(raw, "f4").reshape(shape)

    def pattern(table, default, module):
        keys = [key for key in table if re.fullmatch(rf"(.*\.)?{key}", module)]
        return table[keys[0]] if keys else default

    changes = {}
    for name, a in halves.items():
        if not name.endswith(".lora_A.weight"):
            continue
        module = name.removesuffix(".lora_A.weight")
        assert any(module.endswith("." + target) for target in targets)
        rank = pattern(config["rank_pattern"], config["r"], module)
        assert len(a) == rank
        scale = pattern(config["alpha_pattern"], config["lora_alpha"], module) / rank
        changes[f"{module}.weight"] = scale * halves[f"{module}.lora_B.weight"] @ a
    assert len(halves) == 2 * len(changes)
    return changes


@pytest.mark.parametrize("model", [V3, LITE], ids=["query latent", "shared experts alone"])
def test_base_and_adapters_are_the_merged_weights(model, tmp_path):
    variables = drawn(model)
    params, whole = made(model, variables["params"])
    save_adapters(tmp_path / "peft", model, LORA, params, "of/a")
    save(tmp_path / "a", model, variables, "f32")
    save(tmp_path / "b", model, variables | {"params": whole}, "f32")

    a, b = raw_tensors(tmp_path / "a"), raw_tensors(tmp_path / "b")
    changes = by_peft(tmp_path / "peft")
    for name, (_, shape, raw) in a.items():
        if f"layers.{model.layers}." in name:  # a prediction module
            assert name not in changes
            continue
        before, after = (np.frombuffer(x, "f4").reshape(shape) for x in (raw, b[name][2]))
        np.testing.assert_allclose(after, before + changes.pop(name, 0.0), atol=1e-5, err_msg=name)
    assert not changes


def test_what_peft_cannot_hold_is_said(tmp_path):
    lora = replace(LORA, experts=True)
    params, _ = drawn_adapters(V3, drawn(V3)["params"], lora)
    with pytest.raises(WeightsError, match=r"also on routed experts .*: write whole weights"):
        save_adapters(tmp_path / "peft", V3, lora, params, "a")
    assert not list(tmp_path.iterdir())

    params, _ = drawn_adapters(V3, drawn(V3)["params"])
    [note] = save_adapters(tmp_path / "peft", V3, LORA, params, "a")
    assert note.startswith("the adapters of prediction modules are left out")


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.filterwarnings("default")  # theirs are not ours
def test_transformers_with_adapters_computes_what_the_merged_export_does(peers, tmp_path):
    """On a base with rotary halves, which seekjax reads as pairs; by PEFT itself if it is
    installed, else by its formula."""
    torch = peers.torch

    rng = np.random.default_rng(3)
    config = peers.drawn_config(rng, "v3") | {
        "num_hidden_layers": 2,
        "first_k_dense_replace": 1,
        "q_lora_rank": 7,
        "rope_interleave": False,
    }
    theirs = peers.made("v3", config, 0)
    theirs.save_pretrained(tmp_path / "theirs")
    model, variables = load(tmp_path / "theirs", KernelConfig())
    params, whole = made(model, variables["params"])
    halves = has_halves(tmp_path / "theirs")
    assert halves
    save_adapters(tmp_path / "peft", model, LORA, params, str(tmp_path / "theirs"), halves)
    save(tmp_path / "merged", model, variables | {"params": whole}, "f32")

    tokens = rng.integers(0, model.vocab, (2, 9))
    before = peers.expected(theirs, tokens)["logits"]
    after = adapted_logits(theirs, tmp_path / "peft", torch.tensor(tokens))
    merged = peers.expected(peers.reread("v3", tmp_path / "merged")[0], tokens)["logits"]
    assert np.abs(after - before).max() > 0.1
    np.testing.assert_allclose(merged, after, rtol=0, atol=1e-4)


def adapted_logits(model, folder, tokens):
    """The logits of a model of transformers with adapters."""
    import torch

    with torch.no_grad():
        if importlib.util.find_spec("peft"):
            from peft import PeftModel

            return np.asarray(PeftModel.from_pretrained(model, folder)(tokens).logits)
        weights = dict(model.named_parameters())
        for name, change in by_peft(folder).items():
            weights[name] += torch.tensor(change)
        return np.asarray(model(tokens).logits)
