"""Decoding on the device: one prefill, then a compiled loop that ends when every row has.

A token's slot in the cache is its position, and each row has a length of its own, so prompts of
different lengths share a batch: what a shorter row computes beyond its end is overwritten before
any of its tokens can see it.
"""

from functools import partial

import jax
import jax.numpy as jnp

from seekjax.generate.record import begin_record, record_choice, record_draw
from seekjax.generate.sampling import SamplingArrays, at, draw, shape
from seekjax.generate.speculative import first_draft, step_with_draft
from seekjax.generate.state import Decoder, State, cloned, head, last, newest, push
from seekjax.model.block import unstack
from seekjax.model.cache import cache_dtype, empty_cache, layer_cache


@partial(jax.jit, static_argnames=("decoder", "slots", "group"))
def prefill(
    decoder: Decoder,
    variables: dict,
    tokens_BT,
    length_B,
    limit_B,
    key_B,
    sampling: SamplingArrays,
    stop_X,
    slots: int,
    group: int = 1,
) -> State:
    """Read the prompts, tokens_BT[b, :length_B[b]], and draw the first token of each; rows with
    limit_B = length_B end at once.

    group: write so many texts after each prompt, which is read once; limit_B and key_B are then
    those of the texts.
    """
    model, (B, T) = decoder.model, tokens_BT.shape
    cache = unstack(model, empty_cache(model, B, slots, cache_dtype(decoder.kernel)))
    output = decoder.run(variables, tokens_BT, cache, 0, attend=None)
    logit_BV = head(last(output.hidden_BTD, length_B), output.head_DV)
    record = begin_record(output, slots, decoder.masks) if decoder.record else None
    cache, logit_BV, tokens_BT, length_B, record = cloned(
        group, (output.cache, logit_BV, tokens_BT, length_B, record)
    )
    state = State(
        cache,
        jnp.pad(tokens_BT, ((0, 0), (0, slots - T))),
        jnp.zeros((B * group, slots), jnp.float32),
        length_B,
        limit_B,
        length_B >= limit_B,
        key_B,
        record=record,
        rounds=jnp.zeros((), jnp.int32),
        accepted=jnp.zeros((), jnp.int32),
    )
    shaped_BV = shape(logit_BV, sampling)
    token_B = draw(at(key_B, length_B), shaped_BV)
    state = push(
        state.replace(record=record_draw(state, shaped_BV, token_B)),
        token_B,
        logit_BV,
        ~state.done_B,
        stop_X,
    )
    if decoder.draft:
        draft = {"cache": layer_cache(model, B, slots, cache_dtype(decoder.kernel))}
        state = first_draft(
            decoder, variables, state.replace(draft=draft), output, length_B, sampling
        )
    return state


@partial(jax.jit, static_argnames="decoder", donate_argnames="state")
def decode_steps(
    decoder: Decoder, variables: dict, state: State, sampling: SamplingArrays, stop_X, steps
) -> State:
    """Up to `steps` further steps, fewer when all rows end; a step writes one token per row, or
    with a draft up to two."""
    step = step_with_draft if decoder.draft else step_plain
    return jax.lax.while_loop(
        lambda carry: (carry[0] < steps) & ~carry[1].done_B.all(),
        lambda carry: (carry[0] + 1, step(decoder, variables, carry[1], sampling, stop_X)),
        (0, state),
    )[1]


def step_plain(
    decoder: Decoder, variables: dict, state: State, sampling: SamplingArrays, stop_X
) -> State:
    """One token more for every live row."""
    output = decoder.run(variables, newest(state), state.cache, state.length_B - 1)
    logit_BV = head(output.hidden_BTD[:, 0], output.head_DV)
    shaped_BV = shape(logit_BV, sampling)
    token_B = draw(at(state.key_B, state.length_B), shaped_BV)
    state = state.replace(
        record=record_draw(state.replace(record=record_choice(state, output)), shaped_BV, token_B)
    )
    state = state.replace(cache=output.cache, rounds=state.rounds + (~state.done_B).sum())
    return push(state, token_B, logit_BV, ~state.done_B, stop_X)
