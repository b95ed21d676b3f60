"""What the engine runs on the device, as pure functions; `compiled.py` compiles them.

    new_pools    pages for every layer, and one for padding
    seat         copy a request's pages into a seat
    decode       run steps of the decoding loop, write what they added back to the pages
    read_chunk   read a chunk of one prompt over its pages

A pool is one array [pages, page_size, ...] for each layer and entry of its cache; all of them are
donated to the programs that write to them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seekjax.config import ModelConfig
from seekjax.generate.decode import decode_steps
from seekjax.generate.engine.request import MOST_TOP
from seekjax.generate.engine.seats import (
    DRAFT,
    Row,
    Seats,
    begin_window,
    empty_seats,
    expert_dtype,
    expert_layers,
    leave_seats,
    split_draft,
    take_seat,
)
from seekjax.generate.sampling import take_per_row
from seekjax.generate.speculative import draft_forward
from seekjax.generate.state import Decoder, output_logits, repeat_rows
from seekjax.model.attention import attend_visible
from seekjax.model.block import unstack
from seekjax.model.cache import cache_dtype, empty_cache, layer_cache
from seekjax.model.transformer import Output
from sharding.rules import split_by

Pools = dict[str, dict[str, jax.Array]]


class Harvest(NamedTuple):
    """What the host reads after a decoding call: W positions from each row's last token on."""

    length_B: Any
    tokens_BW: Any
    log_prob_BW: Any
    choice_BWLK: Any
    drafted_BW: Any
    checked: Any  # drafts that the main model checked
    accepted: Any  # and accepted
    top_id_BWX: Any
    top_log_prob_BWX: Any
    kept_BWx: Any


class Scores(NamedTuple):
    """Log probabilities of the token after each position of a chunk, and the most likely ones."""

    log_prob_T: Any
    top_id_TX: Any
    top_log_prob_TX: Any


def new_cache(
    decoder: Decoder,
    rows: int,
    slots: int,
) -> Pools:
    """Return an empty cache with an entry per layer."""
    model, dtype = decoder.model, cache_dtype(decoder.kernel)
    cache = unstack(model, empty_cache(model, rows, slots, dtype))
    if decoder.draft:
        cache[DRAFT] = layer_cache(model, rows, slots, dtype)
    return cache


def new_seats(
    decoder: Decoder,
    rows: int,
    slots: int,
) -> Seats:
    """Return seats without requests."""
    return empty_seats(decoder.model, new_cache(decoder, rows, slots), rows, slots)


def seat(
    pools: Pools,
    seats: Seats,
    b: jax.Array,
    pages_N: jax.Array,
    row: Row,
) -> Seats:
    """Return the seats with a request in seat b, its cache copied from its pages."""
    return take_seat(seats, b, row, gather_pages(pools, pages_N))


def decode(
    decoder: Decoder,
    width: int,
    variables: dict,
    pools: Pools,
    seats: Seats,
    alive_B: jax.Array,
    written_BJ: jax.Array,
    allowed_Bx: jax.Array,
    steps: jax.Array,
) -> tuple[Pools, Seats, Harvest]:
    """Run up to `steps` steps of the seats that are alive; width > steps is that of the harvest.

    written_BJ: the pages to write back, from that of each row's last token on; 0 for none.
    allowed_Bx: the tokens that filters allow, see Adjustments.
    """
    seats = leave_seats(seats, alive_B)
    adjustments = seats.sampling.adjustments.replace(allowed_Bx=allowed_Bx)
    sampling = seats.sampling._replace(adjustments=adjustments)
    window = begin_window(decoder.model, seats, width)
    begin_B = window.begin_B

    nothing = jnp.zeros((), jnp.int32)
    state = seats.state.replace(record=window, row_steps=nothing, accepted=nothing)
    state = decode_steps(decoder, variables, state, sampling, seats.stop_BX, steps)
    window = state.record
    seats = seats.replace(state=state.replace(record=None), sampling=sampling)

    position_BW = begin_B[:, None] + jnp.arange(width)
    harvest = Harvest(
        length_B=state.length_B,
        tokens_BW=jnp.take_along_axis(state.tokens_BS, position_BW, 1, mode="clip"),
        log_prob_BW=jnp.take_along_axis(state.log_prob_BS, position_BW, 1, mode="clip"),
        choice_BWLK=stack_choices(decoder.model, window.choice, position_BW),
        drafted_BW=window.drafted_BW,
        checked=state.row_steps,
        accepted=state.accepted,
        top_id_BWX=window.top_id_BWX,
        top_log_prob_BWX=window.top_log_prob_BWX,
        kept_BWx=window.kept_BWx,
    )
    cache = dict(state.cache)
    if decoder.draft:
        cache[DRAFT] = state.draft["cache"]
    return write_pages(pools, cache, begin_B, written_BJ), seats, harvest


def read_chunk(
    decoder: Decoder,
    score: bool,
    variables: dict,
    pools: Pools,
    tokens_1X: jax.Array,
    count: jax.Array,
    start: jax.Array,
    pages_N: jax.Array,
    written_1J: jax.Array,
) -> tuple[Pools, jax.Array, Scores | None]:
    """Read T tokens of one request from position `start`, the beginning of a page, on.

    tokens_1X are these tokens and the one after, [1, T + 1]; from `count` on they are padding.
    Returns the pools with the chunk in pages written_1J (0: not written), the chosen experts
    [T, L, K], and with `score` the log probabilities of the tokens that follow.
    """
    next_T = tokens_1X[0, 1:]
    # a mesh that splits batches reads the same chunk on each part
    copies = split_by("batch")
    cache, tokens_BX = repeat_rows(copies, (gather_pages(pools, pages_N), tokens_1X))
    cache, draft = split_draft(cache)
    tokens_BT = tokens_BX[:, :-1]
    mask_BT = jnp.broadcast_to(jnp.arange(next_T.size) < count, tokens_BT.shape)
    output = decoder.forward(
        variables, tokens_BT, cache, start, mask_BT=mask_BT, attend=attend_visible
    )
    cache = output.cache
    if draft is not None:
        hidden_BTD, next_BT = output.hidden_BTD, tokens_BX[:, 1:]
        _, draft = draft_forward(
            decoder, variables, hidden_BTD, next_BT, mask_BT, draft, start, attend=attend_visible
        )
        cache = cache | {DRAFT: draft}

    cache = jax.tree.map(lambda x_BSX: x_BSX[:1], cache)
    pools = write_pages(pools, cache, jnp.reshape(start, 1), written_1J)
    choice = {name: output.balance[name]["choice_BTK"] for name in expert_layers(decoder.model)}
    choice_TLK = stack_choices(decoder.model, choice, tokens_BT)[0]
    if not score:
        return pools, choice_TLK, None
    return pools, choice_TLK, score_tokens(output, next_T)


def score_tokens(output: Output, next_T: jax.Array) -> Scores:
    """Return the log probabilities of the token after each position."""
    hidden_TD = output.hidden_BTD[0]
    logit_TV = output_logits(hidden_TD, output.head_DV)
    log_prob_TV = jax.nn.log_softmax(logit_TV, -1)
    top_TX, id_TX = jax.lax.top_k(log_prob_TV, min(MOST_TOP, logit_TV.shape[-1]))
    return Scores(take_per_row(log_prob_TV, next_T), id_TX, top_TX)


def gather_pages(pools: Pools, pages_N: jax.Array) -> Pools:
    """Return the entries of these pages as a cache of one row."""

    def gather(pool: jax.Array) -> jax.Array:
        entries = pool.at[pages_N].get(mode="promise_in_bounds")
        return entries.reshape(1, -1, *pool.shape[2:])

    return jax.tree.map(gather, pools)


def write_pages(
    pools: Pools,
    cache: Pools,
    begin_B: jax.Array,
    written_BJ: jax.Array,
) -> Pools:
    """Return the pools with J pages of each row, from the one that holds position begin_B on.

    Pages are written whole; page 0, which is never read, takes those of no use.
    """
    B, J = written_BJ.shape

    def write(pool: jax.Array, x_BSX: jax.Array) -> jax.Array:
        size, entry = pool.shape[1], pool.shape[2:]
        pages = x_BSX.reshape(B, -1, size, *entry)
        index_BJ = begin_B[:, None] // size + jnp.arange(J)
        index_BJ = jnp.minimum(index_BJ, pages.shape[1] - 1)
        row_B1 = jnp.arange(B)[:, None]
        return pool.at[written_BJ].set(pages[row_B1, index_BJ], mode="promise_in_bounds")

    return jax.tree.map(write, pools, cache)


def stack_choices(
    model: ModelConfig,
    choice: dict[str, jax.Array],
    tokens_BT: jax.Array,
) -> jax.Array:
    """Return the experts of all layers that these tokens chose, [B, T, L, K], in a small type."""
    layers = [choice[name] for name in expert_layers(model)]
    if not layers:  # of a dense model
        return jnp.zeros((*tokens_BT.shape, 0, model.experts_per_token), expert_dtype(model))
    return jnp.stack(layers, -2).astype(expert_dtype(model))
