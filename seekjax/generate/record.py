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

from seekjax.generate.state import State, slot_mask
from seekjax.model.transformer import Output


def begin_record(
    output: Output,
    slots: int,
    masks: bool,
) -> dict[str, Any]:
    """Return the record after a prefill: the prompts' experts, and room for `slots` positions."""
    B, T = output.hidden_BTD.shape[:2]
    missing = slots - T
    choice = {}
    for layer, balance in output.balance.items():
        choice[layer] = jnp.pad(balance["choice_BTK"], ((0, 0), (0, missing), (0, 0)))

    record = {
        "log_prob": jnp.zeros((B, slots)),
        "entropy": jnp.zeros((B, slots)),
        "choice": choice,
    }
    if masks:
        mask_bytes = -(-output.head_DV.shape[1] // 8)
        record["kept"] = jnp.full((B, slots, mask_bytes), 255, jnp.uint8)
    return record


def record_choice(state: State, output: Output) -> dict[str, Any] | None:
    """Return the record with the experts of the token just read, each row's last one."""
    if state.record is None:
        return None

    here_BS1 = slot_mask(state, state.length_B - 1)[..., None]
    before = state.record["choice"]
    choice = {}
    for layer, balance in output.balance.items():
        choice[layer] = jnp.where(here_BS1, balance["choice_BTK"], before[layer])
    return state.record | {"choice": choice}


def record_draw(
    state: State,
    sampled_BV: jax.Array,
    token_B: jax.Array,
) -> dict[str, Any] | None:
    """Return the record with the next token of every row that is not done.

    sampled_BV: the logits that token_B was drawn from.
    """
    if state.record is None:
        return None

    here_BS = slot_mask(state, state.length_B) & ~state.done_B[:, None]

    log_BV = jax.nn.log_softmax(sampled_BV, -1)
    log_prob_B1 = jnp.take_along_axis(log_BV, token_B[:, None], 1)
    possible_BV = jnp.isfinite(log_BV)
    plogp_BV = jnp.where(possible_BV, jnp.exp(log_BV) * log_BV, 0.0)
    entropy_B1 = -plogp_BV.sum(-1, keepdims=True)

    record = dict(state.record)
    record["log_prob"] = jnp.where(here_BS, log_prob_B1, record["log_prob"])
    record["entropy"] = jnp.where(here_BS, entropy_B1, record["entropy"])
    if "kept" in record:
        bits_B1x = jnp.packbits(jnp.isfinite(sampled_BV), axis=-1)[:, None]
        record["kept"] = jnp.where(here_BS[..., None], bits_B1x, record["kept"])
    return record
