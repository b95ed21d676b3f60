"""`seekjax quantize`: the run that comes out opens, has nearly the logits of the float weights, and
does so on any mesh."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seekjax.checkpoint.read import read_run
from seekjax.commands.quantize import write_quantised
from seekjax.commands.show import weight_bytes
from seekjax.config import Config, KernelConfig, ModelConfig
from seekjax.config.validate import check_run
from seekjax.errors import ConfigError
from seekjax.generate.generator import Generator
from seekjax.generate.sampling import Sampling
from seekjax.generate.state import Decoder, decoding_variables, output_logits
from seekjax.hf.save import save
from seekjax.model.abstract import abstract_variables, named_variables
from seekjax.model.init import init_params
from seekjax.model.transformer import Transformer, logits
from seekjax.open import on_mesh, open_model
from seekjax.placement import use_mesh
from seekjax.quant.formats import dense, rows
from seekjax.quant.tree import is_quantised, tree_bytes
from sharding.mesh import MeshConfig
from sharding.place import axes_of

pytestmark = pytest.mark.slow

MODEL = ModelConfig(
    vocab=64,
    embed=64,
    layers=1,
    dense_layers=0,
    heads=4,
    q_latent=32,
    kv_latent=32,
    nope=16,
    rotary=8,
    value=16,
    hidden=128,
    expert_hidden=64,
    experts=8,
    experts_per_token=2,
    init_std=0.1,
    context=64,
    mtp_depth=0,
)
KINDS = {
    "int8": 0.03,
    "int4": 0.25,
    "fp8": 0.08,
}  # and how far logits may move in the median, of their own spread
PLAIN = KernelConfig(attention="plain", experts="block", remat="none")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A published checkpoint of the model, and the same in every format.

    Rounded on a mesh of one device, as the command does, which then finds the same programs.
    """
    folder = tmp_path_factory.mktemp("quant")
    named, shapes = named_variables(MODEL), abstract_variables(MODEL, PLAIN)
    variables = {
        "params": init_params(MODEL, shapes["params"], axes_of(named)["params"], 0),
        "balance": jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes["balance"]),
    }
    save(folder / "whole", MODEL, variables, "f32")
    with on_mesh(MeshConfig(data=1)):
        for kind in KINDS:
            before, after = write_quantised(folder / "whole", kind, folder / kind)
            assert 0.1 < after / before < 0.5
    return folder


@jax.jit
def forward(variables, tokens):
    return logits(Transformer(MODEL, PLAIN).apply(variables, tokens))


def logits_of(opened):
    """The logits of an open model for some random tokens."""
    tokens = np.random.default_rng(0).integers(0, MODEL.vocab, (8, 24))
    return np.asarray(forward(opened.variables, tokens))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_near_those_of_the_float_weights(kind, folder):
    opened = open_model(folder / kind)
    float_logits = logits_of(open_model(folder / "whole"))
    assert opened.kernel.weights == kind
    assert replace(opened.model, init_std=MODEL.init_std) == MODEL
    planned = weight_bytes(
        abstract_variables(MODEL, PLAIN)["params"], axes_of(named_variables(MODEL))["params"]
    )
    assert planned[kind] == tree_bytes(opened.variables["params"])

    # The median, not the mean: a token near the border between two experts may visit the other one
    difference = np.median(np.abs(logits_of(opened) - float_logits)) / float_logits.std()
    assert difference < KINDS[kind], difference

    leaves = jax.tree_util.tree_leaves_with_path(opened.variables, is_leaf=is_quantised)
    kept = [path[-1].key for path, x in leaves if not is_quantised(x)]
    assert {"embed", "head", "w_router", "bias"} <= set(kept)
    assert not [name for name in kept if name.startswith("w_") and name != "w_router"]


@pytest.mark.long
@pytest.mark.mesh
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_on_a_mesh(kind, folder):
    alone = logits_of(open_model(folder / kind))
    with use_mesh(MeshConfig(data=1, fsdp=2, expert=2, tensor=2)):
        opened = open_model(folder / kind)
        w = opened.variables["params"]["expert_layers"]["ffn"]["w_down"]
        assert w.values.addressable_shards[0].data.size == w.values.size // 8
        np.testing.assert_allclose(logits_of(opened), alone, atol=1e-4)


@pytest.mark.long
@pytest.mark.mesh
def test_decodes_and_a_mesh_changes_no_token(folder):
    prompts = np.random.default_rng(1).integers(0, MODEL.vocab, (3, 9)).tolist()

    def generate():
        opened = open_model(folder / "int8")
        kernel = replace(opened.kernel, attention="plain")
        generator = Generator(opened.model, opened.variables, kernel)
        return [row.ids for row in generator(prompts, Sampling(max_new=5, temperature=0))]

    alone = generate()
    with use_mesh(MeshConfig(data=2, expert=2)):
        assert generate() == alone


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_cpu_reads(kind, folder):
    """It has fast products of int8 and of float32 only, and no fast conversion."""
    opened = open_model(folder / kind)
    stored = opened.variables["params"]["expert_layers"]["attention"]
    decoding = decoding_variables(Decoder(MODEL, opened.kernel), opened.variables)
    for name, w in decoding["params"]["expert_layers_0"]["attention"].items():
        if is_quantised(stored[name]):
            expected = np.asarray(stored[name].dense())
            atol = 0.0041 * np.abs(expected).max() + 1e-6
            assert is_quantised(w) == (kind != "fp8" and name not in ("w_uk", "w_uv"))
            np.testing.assert_allclose(dense(w, "float32"), expected[0], atol=atol)


def test_the_command(folder, command):
    status, out, _ = command("quantize", folder / "whole", "--to", "int8", "--out", folder / "new")
    assert status == 0
    assert "saved; next: seekjax generate" in out
    jax.tree.map(
        np.testing.assert_array_equal, read_run(folder / "new")[1], read_run(folder / "int8")[1]
    )
    _, out, err = command("quantize", folder / "whole", "--to", "int8", "--out", folder / "new")
    assert "already there" in out + err
    _, out, err = command("quantize", folder / "int8", "--to", "int4", "--out", folder / "other")
    assert "int8 weights already" in out + err
    status, _, err = command("convert", "--from", folder / "int8", "--to", folder / "back")
    assert status == 2
    assert "convert the run that they are from" in err
    status, out, _ = command("show", folder / "int8", "--data.sequence", 32)
    assert status == 0
    assert "w_down/values" in out


def test_embedding_and_head_in_int8_too(folder):
    with on_mesh(MeshConfig(data=1)):
        _, after = write_quantised(folder / "whole", "int8", folder / "all", vocabulary="int8")
    opened, whole = open_model(folder / "all"), open_model(folder / "whole").variables["params"]
    assert opened.kernel.vocabulary == "int8"
    assert after == tree_bytes(opened.variables)

    # Each word has a scale, in both.
    head, embed = opened.variables["params"]["head"], opened.variables["params"]["embed"]
    assert (head.scale.shape, embed.scale.shape) == ((1, MODEL.vocab), (MODEL.vocab, 1))
    near = np.abs(whole["head"]).max() / 254
    np.testing.assert_allclose(head.dense(), whole["head"], atol=near)
    tokens_BT = np.arange(6).reshape(2, 3)
    expected = whole["embed"][tokens_BT]
    np.testing.assert_allclose(rows(embed, tokens_BT, "float32"), expected, atol=near)

    # Decoding multiplies by the head as it is; training and evaluation read it as an array.
    hidden_BD = np.random.default_rng(0).normal(size=(3, MODEL.embed)).astype(np.float32)
    exact_BV = hidden_BD @ np.asarray(whole["head"])
    difference = np.abs(output_logits(hidden_BD, head) - exact_BV).max() / exact_BV.std()
    assert difference < 0.05, difference
    run = Transformer(MODEL, PLAIN).apply
    output = jax.eval_shape(run, opened.variables, jnp.zeros((2, 8), jnp.int32))
    assert output.head_DV.dtype == jnp.float32


def test_training_refuses():
    for kernel in (KernelConfig(weights="int4"), KernelConfig(vocabulary="int8")):
        with pytest.raises(ConfigError, match="quantised weights cannot be trained"):
            check_run(Config(kernel=kernel))
