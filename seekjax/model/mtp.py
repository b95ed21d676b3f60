"""Multi-token prediction (V3 section 2.2): module k reads h^{k-1}_i and the embedding of t_{i+k},
and predicts t_{i+k+1}."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from seekjax.model.attention import attend_absorbed
from seekjax.model.block import rematted
from seekjax.model.module import Weighted, rms_norm
from seekjax.quant.formats import dense


def ahead(tokens_BX: jax.Array, by: int, length: int) -> jax.Array:
    """tokens_BX[:, by : by + length], zeros past the end."""
    piece_BT = tokens_BX[:, by : by + length]
    return jnp.pad(piece_BT, ((0, 0), (0, length - piece_BT.shape[1])))


class PredictionModule(Weighted):
    """One depth: join the two normed inputs, run one block, norm. Embedding and head are the main
    model's.

    The released weights join with the embedding first and read the main model's hidden state after
    its final norm; `w_token` and `w_hidden` are the two halves of their eh_proj. As a draft for
    decoding it has a cache of its own, whose slots are the positions of h.
    """

    @nn.compact
    def __call__(
        self,
        h_BTD,
        token_BTD,
        angle,
        segment_BT,
        mask_BT,
        cache=None,
        start=0,
        attend=attend_absorbed,
    ):
        m = self.model
        token_BTD = rms_norm(token_BTD, self.scale("token_norm", "embed"), m.norm_eps)
        h_BTD = rms_norm(h_BTD, self.scale("hidden_norm", "embed"), m.norm_eps)
        w_token_DA, w_hidden_DA = (
            dense(self.weight(name, "embed embed"), self.kernel.dtype)
            for name in ("w_token", "w_hidden")
        )
        x_BTA = jnp.einsum("BTD,DA->BTA", token_BTD, w_token_DA) + jnp.einsum(
            "BTD,DA->BTA", h_BTD, w_hidden_DA
        )
        block = self.build(
            rematted(self.kernel), dense=m.layers == m.dense_layers, attend=attend, name="block"
        )
        x_BTD, (cache, balance) = block(x_BTA, cache, angle, segment_BT, mask_BT, start)
        return rms_norm(x_BTD, self.scale("final_norm", "embed"), m.norm_eps), (cache, balance)
