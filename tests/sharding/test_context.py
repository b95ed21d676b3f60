"""Sequences over devices: the order they are held in, gathering them, and giving them back."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seekjax.kernels.attention import TILE, tiles_computed
from seekjax.model.attention.mla import LatentAttention
from seekjax.model.rope import angles
from seekjax.model.transformer import Transformer
from seekjax.placement import use_mesh
from sharding.context import gather, held, in_order, lay_out, own_positions
from sharding.mesh import MeshConfig
from sharding.place import unbox
from sharding.rules import local
from tests.fixtures import PLAIN, tiny_model

TOKEN = "batch sequence -"


def test_a_device_holds_an_early_and_a_late_chunk():
    assert held(8, 2).tolist() == [0, 1, 6, 7, 2, 3, 4, 5]
    assert held(12, 3).tolist() == [0, 1, 10, 11, 2, 3, 8, 9, 4, 5, 6, 7]
    assert held(5, 1).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="cannot be cut into 8 equal chunks, two for each of 4"):
        held(12, 4)


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_every_device_has_as_much_to_compute(parts):
    """In tiles of the blockwise kernel. The last of contiguous parts would have nearly twice the
    mean."""
    T = 4 * parts * TILE
    tiles = [tiles_computed(own_T) for own_T in held(T, parts).reshape(parts, -1)]
    contiguous = [tiles_computed(own_T) for own_T in np.arange(T).reshape(parts, -1)]
    assert sum(tiles) == sum(contiguous) == tiles_computed(np.arange(T))
    assert len(set(tiles)) == 1
    assert max(contiguous) > (2 - 1.5 / parts) * np.mean(contiguous)


def test_sequences_are_gathered_and_given_back():
    """The transpose of gathering sums over the devices, and each keeps its own positions."""
    random = np.random.default_rng(0)
    x_BTX, weight_BTX = random.normal(size=(2, 2, 16, 3)).astype(np.float32)

    @jax.jit
    def run(x_BTX, weight_BTX):
        axes = ("context",)
        laid_BTX = lay_out(x_BTX, 4)

        def everything(x_btX):
            # each device weighs the whole sequence by its own number + 1
            device = 1 + jax.lax.axis_index(axes)
            mine_bTX = gather(x_btX, axes) * device
            return jax.lax.psum((mine_bTX * weight_BTX).sum(), axes)

        back_BTX = local(partial(in_order, axes=axes), (TOKEN,), TOKEN)(laid_BTX)
        gradient_BTX = jax.grad(lambda x: local(everything, (TOKEN,), "")(x))(laid_BTX)
        position_T = local(lambda x: own_positions(4, axes), ("sequence",), "sequence")(
            x_BTX[0, :, 0]
        )
        return laid_BTX, back_BTX, gradient_BTX, position_T

    with use_mesh(MeshConfig(data=1, context=4)):
        laid_BTX, back_BTX, gradient_BTX, position_T = run(x_BTX, weight_BTX)
    order_T = held(16, 4)
    np.testing.assert_array_equal(position_T, order_T)
    np.testing.assert_array_equal(laid_BTX, x_BTX[:, order_T])
    np.testing.assert_array_equal(back_BTX, x_BTX)
    np.testing.assert_allclose(gradient_BTX, 10 * weight_BTX[:, order_T], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.mesh
def test_attention_sends_latents_and_sees_no_future():
    """C + R numbers per token travel, and as many gradients come back: nothing per head does. And
    no position's output has a gradient at a later position, not even a small one."""
    model, T = tiny_model(heads=4), 32
    x_BTD = np.random.default_rng(0).normal(size=(2, T, model.embed)).astype(np.float32)
    with use_mesh(MeshConfig(data=1, context=4, tensor=2)):
        order_T = held(T, 4)
        angle = angles(model, jnp.broadcast_to(order_T, (2, T)))
        attention = LatentAttention(model, PLAIN)
        params = unbox(attention.init(jax.random.key(0), x_BTD, angle))

        @jax.jit
        def gradient(x_BTD, place):
            return jax.grad(lambda x: attention.apply(params, x, angle)[0][:, place].sum())(x_BTD)

        compiled = gradient.lower(x_BTD, 0).compile()
        for place in (3, 8, 14, 30):
            reached_T = np.abs(compiled(x_BTD, place)).max((0, 2))
            assert (reached_T[order_T > order_T[place]] == 0).all()
            assert (reached_T[order_T <= order_T[place]] > 0).all()

    text = compiled.as_text()
    sent = re.findall(r"= f32\[([\d,]+)\]\S* all-gather\(", text)
    returned = re.findall(r"= f32\[([\d,]+)\]\S* reduce-scatter\(", text)
    width = model.kv_latent + model.rotary
    assert [np.prod([int(n) for n in shape.split(",")]) for shape in sent] == [2 * T * width]
    assert [np.prod([int(n) for n in shape.split(",")]) for shape in returned] == [
        2 * T // 4 * width
    ]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.mesh
def test_a_model_takes_and_returns_positions_in_order():
    """Hidden states, choices and gates are those of one device, whoever held them meanwhile."""
    model = Transformer(tiny_model(layers=1, dense_layers=0, mtp_depth=0), PLAIN)
    tokens_BT = np.random.default_rng(0).integers(0, 320, (2, 16)).astype(np.int32)
    variables = unbox(model.init(jax.random.key(0), tokens_BT))

    def run(tokens_BT):
        output = model.apply(variables, tokens_BT)
        return output.hidden_BTD, output.balance

    alone = jax.jit(run)(tokens_BT)
    with use_mesh(MeshConfig(data=1, context=4)):
        split = jax.jit(run)(tokens_BT)
    for ours, theirs in zip(jax.tree.leaves(split), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
