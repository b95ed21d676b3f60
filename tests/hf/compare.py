"""What seekjax computes from a checkpoint, laid out as transformers lays out its own: hidden states
by layer, logits, predictions ahead."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.model.block import Block
from seekjax.model.rope import angles
from seekjax.model.transformer import Transformer, logits
from tests.fixtures import PLAIN


def computed(model, variables, tokens_BX):
    """The first X - mtp_depth tokens through the model: {"hidden_1" ... after each layer, the last
    one normed, "logits", "ahead_1" ...}."""
    return jax.device_get(_computed(model, variables, tokens_BX))


@partial(jax.jit, static_argnames="model")
def _computed(model, variables, tokens_BX):
    tokens_BT = tokens_BX[:, : tokens_BX.shape[1] - model.mtp_depth]
    hidden = _after_each_layer(model, variables, tokens_BT)
    by_name = {f"hidden_{depth}": x_BTD for depth, x_BTD in enumerate(hidden, 1)}

    # the model itself, which returns the last of them normed
    mtp_tokens_BX = tokens_BX if model.mtp_depth else None
    output = Transformer(model, PLAIN).apply(variables, tokens_BT, mtp_tokens_BX=mtp_tokens_BX)
    by_name[f"hidden_{model.layers}"] = output.hidden_BTD
    by_name["logits"] = logits(output)
    for k, h_BTD in enumerate(output.mtp_BTD, 1):
        by_name[f"ahead_{k}"] = h_BTD @ output.head_DV
    return by_name


def _after_each_layer(model, variables, tokens_BT):
    mask_BT = jnp.ones(tokens_BT.shape, bool)
    angle = angles(model, jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape))
    x_BTD = variables["params"]["embed"][tokens_BT]
    hidden = []
    for name in model.stacks:
        block = Block(model, PLAIN, dense=name == "dense_layers")
        weights = {kind: tree[name] for kind, tree in variables.items() if name in tree}

        def layer(x_BTD, weights, block=block):
            x_BTD, _ = block.apply(weights, x_BTD, None, angle, None, mask_BT, 0)
            return x_BTD, x_BTD

        x_BTD, x_LBTD = jax.lax.scan(layer, x_BTD, weights)
        hidden.extend(x_LBTD)
    return hidden


def assert_equal(computed, expected):
    """Every expected array is computed, within 1e-4."""
    assert len(expected) >= 2
    for name, value in expected.items():
        np.testing.assert_allclose(computed[name], value, rtol=0, atol=1e-4, err_msg=name)
