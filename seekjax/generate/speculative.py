"""Speculative decoding with the prediction module as the draft model (V3 section 5.4.3).

The module drafts the next token, and the main model reads the last token and the draft in one
step. With q the distribution that the draft d was drawn from and p the main model's, d is accepted
with probability min(1, p(d) / q(d)); otherwise a token is drawn from max(p - q, 0), normalised.
The result has distribution p exactly (2211.17192). At temperature 0 both distributions have one
token, and the rule becomes: accept the draft if it is the main model's most likely token.
"""

from typing import Any

import jax
import jax.numpy as jnp

from seekjax.generate.adjust import logits_to_draw
from seekjax.generate.sampling import (
    SamplingArrays,
    draw,
    position_key,
    take_per_row,
)
from seekjax.generate.state import (
    Decoder,
    State,
    append_token,
    last_hidden,
    last_token,
    output_logits,
)
from seekjax.model.mtp import PredictionModule, ahead
from seekjax.model.rope import angles
from seekjax.model.transformer import Output
from seekjax.quant.formats import rows

# independent uses of the random numbers of one position
DRAW_TOKEN = 0
DRAW_DRAFT = 1
ACCEPT_DRAFT = 2


def speculative_step(
    decoder: Decoder,
    variables: dict,
    state: State,
    sampling: SamplingArrays,
    stop_X: jax.Array,
) -> State:
    """Append one or two tokens to every row that is not done.

    If a draft is rejected, the main model's cache entry for it lies one slot beyond the row's last
    token: the next step overwrites it.
    """
    draft = state.draft
    start_B = state.length_B - 1
    active_B = ~state.done_B

    # the main model reads the last token and the draft
    draft_B1 = draft["token_B"][:, None]
    tokens_BT = jnp.concatenate([last_token(state), draft_B1], 1)
    mask_BT = jnp.broadcast_to(active_B[:, None], tokens_BT.shape)
    output = decoder.forward(variables, tokens_BT, state.cache, start_B, mask_BT=mask_BT)
    first_BV = output_logits(output.hidden_BTD[:, 0], output.head_DV)
    second_BV = output_logits(output.hidden_BTD[:, 1], output.head_DV)

    # the first token: the draft if it is accepted, otherwise another draw
    target_BV = logits_to_draw(state, first_BV, sampling)
    accepted_B, first_B = accept_or_resample(
        state.key_B, state.length_B, draft["token_B"], target_BV, draft["logit_BV"]
    )
    state = state.replace(
        cache=output.cache,
        row_steps=state.row_steps + active_B.sum(),
        accepted=state.accepted + (accepted_B & active_B).sum(),
    )
    if state.record is not None:
        record = state.record.add_choice(state, output)
        record = record.add_draw(state, active_B, first_BV, target_BV, first_B, accepted_B)
        state = state.replace(record=record)
    state = append_token(state, first_B, first_BV, active_B, stop_X)

    # the second token: only after an accepted draft that did not end the row
    continues_B = accepted_B & active_B & ~state.done_B
    if sampling.adjustments is not None:
        continues_B &= ~sampling.adjustments.filtered_B  # what is allowed here is not known yet
    key_B = position_key(state.key_B, state.length_B, DRAW_TOKEN)
    sampled_BV = logits_to_draw(state, second_BV, sampling)
    second_B = draw(key_B, sampled_BV)
    if state.record is not None:
        record = state.record.add_draw(state, continues_B, second_BV, sampled_BV, second_B)
        state = state.replace(record=record)
    state = append_token(state, second_B, second_BV, continues_B, stop_X)

    # the draft for the next step
    next_BT = jnp.stack([first_B, second_B], 1)
    x_BTD, cache = draft_forward(
        decoder, variables, output.hidden_BTD, next_BT, mask_BT, draft["cache"], start_B
    )
    after_first_BD, after_second_BD = x_BTD[:, 0], x_BTD[:, 1]
    x_BD = jnp.where(continues_B[:, None], after_second_BD, after_first_BD)
    return draw_draft(state, x_BD, output.head_DV, cache, sampling)


def accept_or_resample(
    key_B: jax.Array,
    position_B: jax.Array,
    draft_B: jax.Array,
    target_BV: jax.Array,
    draft_BV: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Return whether each draft is accepted, and the token at its position.

    The drafts were drawn from softmax(draft_BV); the returned tokens are distributed as
    softmax(target_BV). A row without a draft has -inf everywhere in draft_BV.
    """
    p_BV = jax.nn.softmax(target_BV, -1)
    has_draft_B1 = jnp.isfinite(draft_BV).any(-1, keepdims=True)
    q_BV = jnp.where(has_draft_B1, jax.nn.softmax(draft_BV, -1), 0)
    p_B = take_per_row(p_BV, draft_B)
    q_B = take_per_row(q_BV, draft_B)

    # u < p / q, without a division by 0
    accept_key_B = position_key(key_B, position_B, ACCEPT_DRAFT)
    uniform_B = jax.vmap(jax.random.uniform)(accept_key_B)
    accepted_B = (uniform_B * q_B < p_B) & (q_B > 0)

    residual_BV = jnp.maximum(p_BV - q_BV, 0)
    token_key_B = position_key(key_B, position_B, DRAW_TOKEN)
    resampled_B = draw(token_key_B, jnp.log(residual_BV))
    return accepted_B, jnp.where(accepted_B, draft_B, resampled_B)


def draft_after_prefill(
    decoder: Decoder,
    variables: dict,
    state: State,
    output: Output,
    length_B: jax.Array,
    sampling: SamplingArrays,
) -> State:
    """Draw the first draft, after a prefill.

    This also fills the module's cache: position i reads h_i and the token at i + 1.
    """
    T = output.hidden_BTD.shape[1]
    next_BT = ahead(state.tokens_BS, 1, T)
    mask_BT = jnp.arange(T) < length_B[:, None]
    x_BTD, cache = draft_forward(
        decoder,
        variables,
        output.hidden_BTD,
        next_BT,
        mask_BT,
        state.draft["cache"],
        0,
        attend=None,
    )
    return draw_draft(state, last_hidden(x_BTD, length_B), output.head_DV, cache, sampling)


def draw_draft(
    state: State,
    x_BD: jax.Array,
    head_DV: jax.Array,
    cache: dict,
    sampling: SamplingArrays,
) -> State:
    """Draw a draft of the token at length_B, and keep the logits that it was drawn from."""
    logit_BV = logits_to_draw(state, output_logits(x_BD, head_DV), sampling)
    token_B = draw(position_key(state.key_B, state.length_B, DRAW_DRAFT), logit_BV)
    return state.replace(draft={"cache": cache, "token_B": token_B, "logit_BV": logit_BV})


def draft_forward(
    decoder: Decoder,
    variables: dict,
    hidden_BTD: jax.Array,
    next_BT: jax.Array,
    mask_BT: jax.Array,
    cache: dict,
    start: jax.Array | int,
    **how,
) -> tuple[jax.Array, dict]:
    """Run the first prediction module on T positions of each row; return its hidden states and
    cache.

    hidden_BTD: the main model's hidden states from position `start` on; next_BT: the tokens that
    follow them; mask_BT: which of them are tokens of a text.
    """
    B, T = next_BT.shape
    position_BT = jnp.reshape(start, (-1, 1)) + jnp.arange(T)
    position_BT = jnp.broadcast_to(position_BT, (B, T))
    angle = angles(decoder.model, position_BT)

    module = PredictionModule(decoder.model, decoder.kernel_for(B * T))
    weights = {}
    for kind, tree in variables.items():
        if "mtp_1" in tree:
            weights[kind] = tree["mtp_1"]
    token_BTD = rows(variables["params"]["embed"], next_BT, decoder.kernel.dtype)

    output: Any = module.apply(
        weights, hidden_BTD, token_BTD, angle, None, mask_BT, cache, start, **how
    )
    x_BTD, (cache, _) = output
    return x_BTD, cache
