"""A kind of attention from outside the package, with a size of its own: it trains, is saved and
restored, and generates, on one device and on eight."""

import math
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seekjax.commands.arguments import parse
from seekjax.config import (
    Config,
    DataConfig,
    LoraConfig,
    OptimizerConfig,
    TrainConfig,
)
from seekjax.errors import ConfigError
from seekjax.generate.generator import Generator
from seekjax.generate.sampling import Sampling
from seekjax.model.abstract import abstract_variables, named_variables
from seekjax.model.cache import empty_cache
from seekjax.model.check import check_model
from seekjax.model.count import cache_elements, parameters
from seekjax.model.init import init_params
from seekjax.model.lora import adapter_axes
from seekjax.model.transformer import Transformer, logits
from seekjax.open import open_model
from seekjax.placement import use_mesh
from seekjax.train.loop import fit
from sharding.mesh import MeshConfig
from sharding.place import axes_of
from tests.fixtures import PLAIN, copy_as_of, tiny_model

GQA = tiny_model(
    layers=1,
    heads=4,
    q_latent=64,
    kv_latent=32,
    nope=0,
    init_std=0.2,
    attention="tests.scripts.own_attention:GQA",
    sizes=(("kv_heads", 2),),
    dense_layers=1,
    mtp_depth=0,
)
MHA = replace(GQA, attention="mha", sizes=())
MESHES = {"one": MeshConfig(data=1), "eight": MeshConfig(data=1, fsdp=2, expert=2, tensor=2)}


def variables_of(model):
    named, shapes = named_variables(model), abstract_variables(model, PLAIN)
    params = init_params(model, shapes["params"], axes_of(named)["params"], 0)
    return {
        "params": params,
        "balance": jax.tree.map(lambda x: jnp.zeros(x.shape), shapes["balance"]),
    }


def size(tree) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


@cache
def full_logits(model):
    """A compiled function (variables, tokens) -> logits of the whole sequence."""
    transformer = Transformer(model, PLAIN)
    return jax.jit(lambda variables, tokens: logits(transformer.apply(variables, tokens)))


@pytest.fixture(scope="module")
def variables():
    return variables_of(GQA)


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(1).integers(0, GQA.vocab, (2, 9), np.int32)


def test_it_is_multi_head_attention_with_repeated_keys_and_values(variables, tokens):
    repeated = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.repeat(x, 2, -2) if path[-1].key in ("w_k", "w_v") else x,
        variables,
    )
    ours = full_logits(GQA)(variables, tokens)
    theirs = full_logits(MHA)(repeated, tokens)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * float(jnp.abs(theirs).max()))


def test_prefill_and_steps_equal_the_full_forward(variables, tokens):
    transformer = Transformer(GQA, PLAIN)
    run = jax.jit(
        lambda tokens, cache, start: transformer.apply(variables, tokens, cache=cache, start=start)
    )
    full = full_logits(GQA)(variables, tokens)
    output = run(tokens[:, :5], empty_cache(GQA, 2, 12), 0)
    parts = [logits(output)]
    for i in range(5, 9):
        output = run(tokens[:, i : i + 1], output.cache, i)
        parts.append(logits(output))
    np.testing.assert_allclose(
        np.concatenate(parts, 1), full, rtol=0, atol=2e-5 * float(jnp.abs(full).max())
    )


def test_its_counts_are_what_it_declares(variables):
    count = parameters(GQA)
    assert size(variables["params"]) == count.total + count.mtp - count.router_bias
    assert size(empty_cache(GQA, 1, 1)) == cache_elements(GQA)
    assert cache_elements(GQA) == cache_elements(MHA) // 2


def test_its_axis_is_placed_like_the_known_one():
    axes = axes_of(named_variables(GQA))["params"]["dense_layers"]["attention"]
    assert axes["w_k"] == "layers embed kv_heads rotary"
    with use_mesh(MESHES["eight"]):
        places = abstract_variables(GQA, PLAIN)["params"]["dense_layers"]["attention"]
        assert places["w_k"].sharding.shard_shape(places["w_k"].shape) == (1, 8, 1, 8)
    pair = adapter_axes(axes, LoraConfig(rank=2))["w_k"]
    assert pair == {"a": "layers embed -", "b": "layers - kv_heads rotary"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sizes": ()}, "has the axis kv_heads: give its size as --model.sizes kv_heads NUMBER"),
        ({"sizes": (("kv_heads", 3),)}, "cannot share 3 kv_heads"),
        ({"sizes": (("kv_heads", 2), ("window", 4))}, "model.sizes has window"),
        ({"attention": "tests.scripts.own_attention:GQB"}, "does not define GQB"),
        ({"attention": "gqa"}, "there is no attention kind 'gqa'"),
    ],
)
def test_wrong_settings_are_one_sentence(fields, message):
    with pytest.raises(ConfigError, match=message):
        check_model(replace(GQA, **fields))


def test_the_command_line_names_it_and_its_size():
    words = ["--model.attention", GQA.attention, "--model.sizes", "kv_heads", "2"]
    model = parse(words, "train.py").model
    assert model.attention == GQA.attention
    assert model.size("kv_heads") == 2


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.mesh
def test_it_trains_is_restored_and_generates_alike_on_one_device_and_on_eight(tmp_path, tokens):
    """It is resumed half-way on eight devices and becomes the same model."""
    config = Config(
        model=GQA,
        data=DataConfig(sources=("stories",), tokenizer="byte", sequence=32),
        optimizer=OptimizerConfig(warmup=2),
        mesh=MESHES["one"],
        kernel=PLAIN,
        train=TrainConfig(
            steps=4, batch=4, log_every=1, eval_every=4, eval_batches=1, save_every=2
        ),
        out=tmp_path / "one",
    )
    fitted = {"one": fit(config)}
    copy_as_of(2, config.out, tmp_path / "eight")
    fitted["eight"] = fit(replace(config, mesh=MESHES["eight"], out=tmp_path / "eight"))

    trained, texts = {}, {}
    for mesh, run in fitted.items():
        assert int(run.state.step) == 4
        with use_mesh(MESHES[mesh]):
            opened = open_model(run.folder, trust=True)
            generator = Generator(opened.model, opened.variables, PLAIN)
            rows = generator(tokens[:, :5].tolist(), Sampling(max_new=6, temperature=0))
        assert opened.model == GQA
        trained[mesh] = jax.tree.leaves(jax.device_get(opened.variables["params"]))
        texts[mesh] = [row.ids for row in rows]
        for saved, last in zip(trained[mesh], jax.tree.leaves(run.state.params), strict=True):
            np.testing.assert_array_equal(saved, last)

    for one, eight in zip(trained["one"], trained["eight"], strict=True):
        np.testing.assert_allclose(one, eight, rtol=0, atol=2e-3)
    assert texts["one"] == texts["eight"]
