"""The whole model: embedding, dense layers, expert layers, final norm, head, and multi-token
prediction."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from seekjax.model.attention import attend_absorbed
from seekjax.model.block import Block, stacked
from seekjax.model.module import Weighted, rms_norm
from seekjax.model.mtp import PredictionModule, ahead
from seekjax.model.rope import angles
from sharding.rules import constrain


class Output(NamedTuple):
    """hidden_BTD is normed: logits are hidden_BTD @ head_DV, left to the caller, who may never want
    them whole."""

    hidden_BTD: jax.Array
    mtp_BTD: tuple[jax.Array, ...]  # of each prediction depth
    head_DV: jax.Array
    balance: dict[
        str, dict[str, jax.Array]
        # load_E, balance_loss, dropped, choice_BTK, gate_BTK by name of the stack (one more axis:
        # L) or
        # prediction module
    ]
    cache: Any


class Transformer(Weighted):
    """Pure: `init(key, tokens)` gives {"params", "balance"}, `apply` an Output.

    unrolled: the layers' weights come apart (`block.unstack`), and so does the cache; for decoding,
    which reads each of them once.
    """

    unrolled: bool = False

    @nn.compact
    def __call__(
        self,
        tokens_BT,
        segment_BT=None,
        mask_BT=None,
        mtp_tokens_BX=None,
        cache=None,
        start=0,
        attend=attend_absorbed,
        choice=None,
    ) -> Output:
        """Run T tokens.

        segment_BT: documents a token may look within (None: everything before it); mask_BT: which
        tokens count in the balance; mtp_tokens_BX: the tokens from position 0 on and beyond T, to
        run the prediction modules; cache and start: see LatentAttention; choice: the experts that
        tokens visit instead of choosing, {stack: choice_BTK} as in Output.balance.
        """
        m = self.model
        B, T = tokens_BT.shape
        mask_BT = jnp.ones((B, T), bool) if mask_BT is None else mask_BT
        angle = angles(m, jnp.broadcast_to(jnp.reshape(start, (-1, 1)) + jnp.arange(T), (B, T)))
        embed_VD = constrain(self.weight("embed", "vocab embed"), "vocab -")
        head_DV = self.weight("head", "embed vocab")

        x_BTD = constrain(embed_VD[tokens_BT], "batch sequence embed")
        caches, balance, choice = {}, {}, choice or {}
        for name, layers in (("dense", m.dense_layers), ("expert", m.layers - m.dense_layers)):
            if layers:
                fields, rest = (
                    {"dense": name == "dense", "attend": attend},
                    (angle, segment_BT, mask_BT, start),
                )
                if self.unrolled:
                    for at in (f"{name}_layers_{layer}" for layer in range(layers)):
                        x_BTD, (caches[at], seen) = self.build(Block, **fields, name=at)(
                            x_BTD, cache and cache[at], *rest, choice.get(at)
                        )
                        balance |= {at: seen} if seen else {}
                else:
                    at = f"{name}_layers"
                    x_BTD, (caches[at], seen) = self.build(
                        stacked(self.kernel, layers), **fields, name=at
                    )(x_BTD, cache and cache[at], *rest, choice.get(at))
                    balance |= {at: seen} if seen else {}
        hidden_BTD = rms_norm(x_BTD, self.scale("final_norm", "embed"), m.norm_eps)

        mtp_BTD, h_BTD = [], hidden_BTD
        for k in range(
            1, m.mtp_depth + 1 if mtp_tokens_BX is not None or self.is_initializing() else 1
        ):
            next_BT = ahead(tokens_BT if mtp_tokens_BX is None else mtp_tokens_BX, k, T)
            token_BTD = constrain(embed_VD[next_BT], "batch sequence embed")
            h_BTD, (_, seen) = self.build(PredictionModule, name=f"mtp_{k}")(
                h_BTD, token_BTD, angle, segment_BT, mask_BT
            )
            mtp_BTD.append(h_BTD)
            balance |= {f"mtp_{k}": seen} if seen else {}
        return Output(
            hidden_BTD, tuple(mtp_BTD), head_DV, balance, caches if cache is not None else None
        )


def logits(output: Output) -> jax.Array:
    """Float32 logits of every position: for generation and tests; the training loss never holds
    them whole."""
    return jnp.einsum(
        "BTD,DV->BTV", output.hidden_BTD, output.head_DV, preferred_element_type=jnp.float32
    )
