"""Decoding on the device: one prefill, then a compiled loop that ends when every row is done.

A token's slot in the cache is its position, and each row has its own length, so prompts of
different lengths share a batch: what a shorter row computes beyond its end is overwritten before
any of its tokens can attend to it.
"""

from functools import partial

import jax
import jax.numpy as jnp

from seekjax.generate.adjust import logits_to_draw
from seekjax.generate.record import begin_record
from seekjax.generate.sampling import SamplingArrays, draw, position_key
from seekjax.generate.speculative import draft_after_prefill, speculative_step
from seekjax.generate.state import (
    Decoder,
    State,
    append_token,
    last_hidden,
    last_token,
    output_logits,
    repeat_rows,
)
from seekjax.model.block import unstack
from seekjax.model.cache import cache_dtype, empty_cache, layer_cache


@partial(jax.jit, static_argnames=("decoder", "slots", "group"))
def prefill(
    decoder: Decoder,
    variables: dict,
    tokens_BT: jax.Array,
    length_B: jax.Array,
    limit_B: jax.Array,
    key_B: jax.Array,
    sampling: SamplingArrays,
    stop_X: jax.Array,
    slots: int,
    group: int = 1,
) -> State:
    """Read the prompts tokens_BT[b, :length_B[b]] and draw the first token of each.

    Rows with limit_B = length_B are done at once. `group` completions of each prompt share its
    prefill; limit_B and key_B are then those of the completions, [B * group].
    """
    model = decoder.model
    dtype = cache_dtype(decoder.kernel)
    B, T = tokens_BT.shape

    # every prompt once
    cache = unstack(model, empty_cache(model, B, slots, dtype))
    mask_BT = jnp.arange(T) < length_B[:, None]
    output = decoder.forward(variables, tokens_BT, cache, 0, mask_BT=mask_BT, attend=None)
    logit_BV = output_logits(last_hidden(output.hidden_BTD, length_B), output.head_DV)
    record = begin_record(output, slots, decoder.masks) if decoder.record else None

    # then a row for each completion
    prompts = (output.cache, logit_BV, tokens_BT, length_B, record)
    cache, logit_BV, tokens_BT, length_B, record = repeat_rows(group, prompts)
    missing = slots - T
    state = State(
        cache=cache,
        tokens_BS=jnp.pad(tokens_BT, ((0, 0), (0, missing))),
        log_prob_BS=jnp.zeros((B * group, slots), jnp.float32),
        length_B=length_B,
        limit_B=limit_B,
        done_B=length_B >= limit_B,
        key_B=key_B,
        record=record,
        row_steps=jnp.zeros((), jnp.int32),
        accepted=jnp.zeros((), jnp.int32),
    )
    state = draw_token(state, logit_BV, sampling, stop_X)

    if decoder.draft:
        draft = {"cache": layer_cache(model, B, slots, dtype)}
        state = state.replace(draft=draft)
        state = draft_after_prefill(decoder, variables, state, output, length_B, sampling)
    return state


@partial(jax.jit, static_argnames="decoder", donate_argnames="state")
def decode_steps(
    decoder: Decoder,
    variables: dict,
    state: State,
    sampling: SamplingArrays,
    stop_X: jax.Array,
    steps: jax.Array | int,
) -> State:
    """Run up to `steps` more steps, fewer if all rows end.

    A step appends one token to each row, or up to two with a draft.
    """
    step = speculative_step if decoder.draft else plain_step

    def unfinished(carry):
        count, state = carry
        return (count < steps) & ~state.done_B.all()

    def run_step(carry):
        count, state = carry
        return count + 1, step(decoder, variables, state, sampling, stop_X)

    _, state = jax.lax.while_loop(unfinished, run_step, (0, state))
    return state


def plain_step(
    decoder: Decoder,
    variables: dict,
    state: State,
    sampling: SamplingArrays,
    stop_X: jax.Array,
) -> State:
    """Append one token to every row that is not done."""
    output = decoder.forward(
        variables,
        last_token(state),
        state.cache,
        state.length_B - 1,
        mask_BT=~state.done_B[:, None],
    )
    logit_BV = output_logits(output.hidden_BTD[:, 0], output.head_DV)

    if state.record is not None:
        state = state.replace(record=state.record.add_choice(state, output))
    state = state.replace(
        cache=output.cache,
        row_steps=state.row_steps + (~state.done_B).sum(),
    )
    return draw_token(state, logit_BV, sampling, stop_X)


def draw_token(
    state: State, logit_BV: jax.Array, sampling: SamplingArrays, stop_X: jax.Array
) -> State:
    """Draw the next token of every row that is not done, record the draw, append the token."""
    sampled_BV = logits_to_draw(state, logit_BV, sampling)
    token_B = draw(position_key(state.key_B, state.length_B), sampled_BV)
    if state.record is not None:
        record = state.record.add_draw(state, ~state.done_B, logit_BV, sampled_BV, token_B)
        state = state.replace(record=record)
    return append_token(state, token_B, logit_BV, ~state.done_B, stop_X)
