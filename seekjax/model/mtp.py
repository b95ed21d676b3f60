"""Multi-token prediction (V3 section 2.2): module k reads h^{k-1}_i and the embedding of t_{i+k},
and predicts t_{i+k+1}.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from seekjax.model.attention import attend_absorbed
from seekjax.model.block import rematted
from seekjax.model.module import Module, project, rms_norm
from seekjax.quant.formats import trained


def ahead(tokens_BX: Array, by: int, length: int) -> Array:
    """Return tokens_BX[:, by : by + length], with zeros past the end."""
    piece_BT = tokens_BX[:, by : by + length]
    missing = length - piece_BT.shape[1]
    return jnp.pad(piece_BT, ((0, 0), (0, missing)))


class PredictionModule(Module):
    """One depth: join the two normed inputs, run one block, norm.

    Embedding and head are the main model's. The released weights join with the embedding first and
    read the main model's hidden state after its final norm; `w_token` and `w_hidden` are the two
    halves of their eh_proj. As a draft model for decoding it has its own cache, whose slots are the
    positions of h.
    """

    # Weights that enter other products than `project`: decoding keeps them as float arrays.
    other_products = ("w_token", "w_hidden")

    @nn.compact
    def __call__(
        self,
        h_BTD: Array,
        token_BTD: Array,
        angle: tuple[Array, Array],
        segment_BT: Array | None,
        mask_BT: Array,
        cache: dict | None = None,
        start: Any = 0,
        attend: Callable | None = attend_absorbed,
    ) -> tuple[Array, tuple[dict | None, dict]]:
        """Return this depth's hidden state, and the cache with the balance of the experts."""
        m, dtype = self.model, self.kernel.compute_dtype

        # Join the state and the embedding of the token ahead (V3 equation 21)
        token_BTD = rms_norm(token_BTD, self.scale("token_norm", "embed"), m.norm_eps)
        h_BTD = rms_norm(h_BTD, self.scale("hidden_norm", "embed"), m.norm_eps)
        w_token_DA = trained(self.weight("w_token", "embed embed"), dtype)
        w_hidden_DA = trained(self.weight("w_hidden", "embed embed"), dtype)
        (from_token_BTA,) = project(token_BTD, w_token_DA)
        (from_hidden_BTA,) = project(h_BTD, w_hidden_DA)
        x_BTA = from_token_BTA + from_hidden_BTA

        # One block, of the last layer's kind
        all_dense = m.layers == m.dense_layers
        kind = rematted(self.kernel)
        block = self.build(kind, dense=all_dense, attend=attend, name="block")
        x_BTD, state = block(x_BTA, cache, angle, segment_BT, mask_BT, start)

        final_norm = self.scale("final_norm", "embed")
        return rms_norm(x_BTD, final_norm, m.norm_eps), state
