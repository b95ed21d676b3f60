"""What a trainer must know of how a text was drawn, to follow it exactly (V3.2 section 3.1, "keep
routing" and "keep sampling mask").

    # [B, S] float32, of the distribution that was drawn from: after temperature and cuts
    log_prob, entropy
    choice             {layer: [B, S, K] int32}: the experts that each token visited
    # [B, S, V / 8] uint8, with Decoder.masks: bit by bit, the tokens that were let through; ones
    # where nothing was drawn
    kept

Everything of a token stands at its position; what led to it, as its log_prob, too. The newest token
has visited no expert yet.
"""

from typing import Any

import jax
import jax.numpy as jnp


def begin_record(output: Any, slots: int, masks: bool) -> dict[str, Any]:
    """After the prompts were read: their choices, and room for `slots` positions."""
    B, T = output.hidden_BTD.shape[:2]
    choice = {
        layer: jnp.pad(seen["choice_BTK"], ((0, 0), (0, slots - T), (0, 0)))
        for layer, seen in output.balance.items()
    }
    record = {"log_prob": jnp.zeros((B, slots)), "entropy": jnp.zeros((B, slots)), "choice": choice}
    return record | (
        {"kept": jnp.full((B, slots, -(-output.head_DV.shape[1] // 8)), 255, jnp.uint8)}
        if masks
        else {}
    )


def record_choice(state: Any, output: Any) -> Any:
    """The experts of the token just read, which was each row's newest."""
    if state.record is None:
        return None
    here_BS1 = (jnp.arange(state.tokens_BS.shape[1]) == state.length_B[:, None] - 1)[..., None]
    choice = {
        layer: jnp.where(here_BS1, seen["choice_BTK"], state.record["choice"][layer])
        for layer, seen in output.balance.items()
    }
    return state.record | {"choice": choice}


def record_draw(state: Any, shaped_BV: jax.Array, token_B: jax.Array) -> Any:
    """The distribution that the next token of every live row was drawn from."""
    if state.record is None:
        return None
    here_BS = (jnp.arange(state.tokens_BS.shape[1]) == state.length_B[:, None]) & ~state.done_B[
        :, None
    ]
    log_BV = jax.nn.log_softmax(shaped_BV, -1)
    entropy_B1 = -jnp.where(jnp.isfinite(log_BV), jnp.exp(log_BV) * log_BV, 0.0).sum(
        -1, keepdims=True
    )
    new = {"log_prob": jnp.take_along_axis(log_BV, token_B[:, None], 1), "entropy": entropy_B1}
    if "kept" in state.record:
        new["kept"] = jnp.packbits(jnp.isfinite(shaped_BV), axis=-1)[:, None]
    return state.record | {
        name: jnp.where(here_BS[..., None] if x_B.ndim == 3 else here_BS, x_B, state.record[name])
        for name, x_B in new.items()
    }
