"""What seekjax computes from a checkpoint, laid out as transformers lays out its own: hidden states
by layer, logits, predictions ahead."""

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
    T = tokens_BX.shape[1] - model.mtp_depth
    tokens_BT = jnp.asarray(tokens_BX[:, :T])
    mask_BT = jnp.ones(tokens_BT.shape, bool)
    angle = angles(model, jnp.broadcast_to(jnp.arange(T), tokens_BT.shape))
    x_BTD = variables["params"]["embed"][tokens_BT]
    by_name, depth = {}, 0
    for name, count in (
        ("dense_layers", model.dense_layers),
        ("expert_layers", model.layers - model.dense_layers),
    ):
        block = Block(model, PLAIN, dense=name == "dense_layers")
        run = jax.jit(
            lambda weights, x_BTD, block=block: block.apply(
                weights, x_BTD, None, angle, None, mask_BT, 0
            )[0]
        )
        for layer in range(count):
            weights = {
                kind: jax.tree.map(lambda w, layer=layer: w[layer], tree[name])
                for kind, tree in variables.items()
                if name in tree
            }
            x_BTD = run(weights, x_BTD)
            depth += 1
            by_name[f"hidden_{depth}"] = x_BTD
    mtp_tokens_BX = jnp.asarray(tokens_BX) if model.mtp_depth else None
    forward = jax.jit(Transformer(model, PLAIN).apply)
    output = forward(variables, tokens_BT, mtp_tokens_BX=mtp_tokens_BX)
    by_name[f"hidden_{depth}"] = output.hidden_BTD
    by_name["logits"] = logits(output)
    for k, h_BTD in enumerate(output.mtp_BTD, 1):
        by_name[f"ahead_{k}"] = h_BTD @ output.head_DV
    return {name: np.asarray(value) for name, value in by_name.items()}


def assert_equal(computed, expected):
    """Every expected array is computed, within 1e-4."""
    assert len(expected) >= 2
    for name, value in expected.items():
        np.testing.assert_allclose(computed[name], value, rtol=0, atol=1e-4, err_msg=name)
