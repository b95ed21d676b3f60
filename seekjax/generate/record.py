"""What a trainer must know of how a text was drawn, to replay it exactly (V3.2 section 3.1, "keep
routing" and "keep sampling mask").

    log_prob    [B, S] float32: of each token, in the distribution that it was drawn from, after
                temperature and truncation
    entropy     [B, S] float32: of that distribution
    choice      {layer: [B, S, K] int32}: the experts that each token was routed to
    kept        [B, S, V / 8] uint8, with Decoder.masks: one bit for each token of the vocabulary
                that the draw kept; all ones where nothing was drawn

Every entry has the position of its token, also the log_prob and mask of the draw that led to
the token. The last token has not been routed yet.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from seekjax.generate.state import State, slot_mask
from seekjax.model.transformer import Output


class Record(struct.PyTreeNode):
    """The record of a batch; each method returns the record with one thing more."""

    log_prob: jax.Array
    entropy: jax.Array
    choice: dict[str, jax.Array]
    kept: jax.Array | None = None

    def arrays(self) -> dict[str, Any]:
        """Return the arrays by name."""
        arrays = {"log_prob": self.log_prob, "entropy": self.entropy, "choice": self.choice}
        return arrays if self.kept is None else arrays | {"kept": self.kept}

    def add_choice(
        self,
        state: State,
        output: Output,
    ) -> "Record":
        """Record the experts of the token just read, each row's last one."""
        here_BS1 = slot_mask(state, state.length_B - 1)[..., None]
        choice = {}
        for layer, balance in output.balance.items():
            choice[layer] = jnp.where(here_BS1, balance["choice_BTK"], self.choice[layer])
        return self.replace(choice=choice)

    def add_draw(
        self,
        state: State,
        active_B: jax.Array,
        logit_BV: jax.Array,
        sampled_BV: jax.Array,
        token_B: jax.Array,
    ) -> "Record":
        """Record the next token of the rows of active_B.

        sampled_BV: the logits that token_B was drawn from, those of the model (logit_BV) after
        temperature and truncation.
        """
        here_BS = slot_mask(state, state.length_B) & active_B[:, None]

        log_BV = jax.nn.log_softmax(sampled_BV, -1)
        log_prob_B1 = jnp.take_along_axis(log_BV, token_B[:, None], 1)
        possible_BV = jnp.isfinite(log_BV)
        plogp_BV = jnp.where(possible_BV, jnp.exp(log_BV) * log_BV, 0.0)
        entropy_B1 = -plogp_BV.sum(-1, keepdims=True)

        record = self.replace(
            log_prob=jnp.where(here_BS, log_prob_B1, self.log_prob),
            entropy=jnp.where(here_BS, entropy_B1, self.entropy),
        )
        if self.kept is None:
            return record
        bits_B1x = jnp.packbits(jnp.isfinite(sampled_BV), axis=-1)[:, None]
        return record.replace(kept=jnp.where(here_BS[..., None], bits_B1x, self.kept))


def begin_record(
    output: Output,
    slots: int,
    masks: bool,
) -> Record:
    """Return the record after a prefill: the prompts' experts, and room for `slots` positions."""
    B, T = output.hidden_BTD.shape[:2]
    missing = slots - T
    choice = {}
    for layer, balance in output.balance.items():
        choice[layer] = jnp.pad(balance["choice_BTK"], ((0, 0), (0, missing), (0, 0)))

    record = Record(jnp.zeros((B, slots)), jnp.zeros((B, slots)), choice)
    if not masks:
        return record
    mask_bytes = -(-output.head_DV.shape[1] // 8)
    return record.replace(kept=jnp.full((B, slots, mask_bytes), 255, jnp.uint8))
