"""The running batch on the device: a seat for each request, and what one call reports of it.

A seat is a row of the arrays that plain decoding has (generate/state.py). Its cache is a copy of
the request's pages, made when the request joins, so that a step reads one dense array; what steps
add is written back to the pages at the end of each call.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from seekjax.config import ModelConfig
from seekjax.generate.adjust import Adjustments
from seekjax.generate.engine.request import MOST_BIASES, MOST_TOP
from seekjax.generate.sampling import SamplingArrays
from seekjax.generate.state import State
from seekjax.model.transformer import Output

DRAFT = "mtp_1"  # the module that drafts, by its name among the layers of a cache
STOPS = 8  # stop ids that end a row on the device; the host compares with all of them


class Row(struct.PyTreeNode):
    """What a request brings to its seat: host arrays of fixed shapes."""

    tokens_S: Any
    length: Any
    limit: Any
    prompt: Any
    seed_low: Any
    seed_high: Any
    temperature: Any
    top_k: Any
    top_p: Any
    min_p: Any
    repetition: Any
    frequency: Any
    presence: Any
    bias_id_X: Any
    bias_X: Any
    stop_X: Any
    filtered: Any
    top: Any
    kept: Any


class Seats(struct.PyTreeNode):
    """The batch between two calls."""

    state: State
    sampling: SamplingArrays
    stop_BX: jax.Array
    top_B: jax.Array  # whether the most likely tokens are reported
    kept_B: jax.Array  # whether the sampling mask is


class Window(struct.PyTreeNode):
    """What a call records of the positions from begin_B on: the last token before it, and those
    that it draws.
    """

    begin_B: jax.Array
    top_B: jax.Array
    kept_B: jax.Array
    choice: dict[str, jax.Array]  # {layer: [B, W, K]}: of each token that was read
    drafted_BW: jax.Array
    top_id_BWX: jax.Array
    top_log_prob_BWX: jax.Array
    kept_BWx: jax.Array

    def here(self, position_B: jax.Array) -> jax.Array:
        """Return a mask that is true at each row's position, [B, W]."""
        slot_W = jnp.arange(self.drafted_BW.shape[1])
        return slot_W == (position_B - self.begin_B)[:, None]

    def add_choice(
        self,
        state: State,
        output: Output,
    ) -> "Window":
        """Record the experts of the tokens just read, one or two from each row's last one on."""
        choice = dict(self.choice)
        for t in range(output.hidden_BTD.shape[1]):
            here_BW1 = self.here(state.length_B - 1 + t)[..., None]
            for layer, balance in output.balance.items():
                choice_B1K = balance["choice_BTK"][:, t : t + 1]
                choice[layer] = jnp.where(here_BW1, choice_B1K, choice[layer])
        return self.replace(choice=choice)

    def add_draw(
        self,
        state: State,
        active_B: jax.Array,
        logit_BV: jax.Array,
        sampled_BV: jax.Array,
        token_B: jax.Array,
        drafted_B: jax.Array | None = None,
    ) -> "Window":
        """Record what the rows of active_B asked for of the token at length_B.

        drafted_B: whether it is an accepted draft.
        """
        del token_B  # a Record needs it; here the tokens of a call come with its state
        here_BW = self.here(state.length_B) & active_B[:, None]
        here_BW1 = here_BW[..., None]

        def add_top(window: Window) -> Window:
            top_BX, id_BX = jax.lax.top_k(logit_BV, window.top_id_BWX.shape[-1])
            total_B1 = jax.nn.logsumexp(logit_BV, -1, keepdims=True)
            log_prob_BX = top_BX - total_B1
            return window.replace(
                top_id_BWX=jnp.where(here_BW1, id_BX[:, None], window.top_id_BWX),
                top_log_prob_BWX=jnp.where(here_BW1, log_prob_BX[:, None], window.top_log_prob_BWX),
            )

        def add_kept(window: Window) -> Window:
            bits_B1x = jnp.packbits(jnp.isfinite(sampled_BV), axis=-1)[:, None]
            return window.replace(kept_BWx=jnp.where(here_BW1, bits_B1x, window.kept_BWx))

        def unchanged(window: Window) -> Window:
            return window

        window = self
        if drafted_B is not None:
            drafted_BW = jnp.where(here_BW, drafted_B[:, None], self.drafted_BW)
            window = self.replace(drafted_BW=drafted_BW)
        window = jax.lax.cond(self.top_B.any(), add_top, unchanged, window)
        return jax.lax.cond(self.kept_B.any(), add_kept, unchanged, window)


def empty_seats(
    model: ModelConfig,
    cache: dict,
    rows: int,
    slots: int,
) -> Seats:
    """Return seats without requests.

    `cache` is an empty cache of `rows` and `slots`; with "mtp_1" in it, that module drafts.
    """

    def zeros(dtype, *shape):
        return jnp.zeros((rows, *shape), dtype)

    cache, draft = split_draft(cache)
    if draft is not None:
        draft = {
            "cache": draft,
            "token_B": zeros(jnp.int32),
            "logit_BV": zeros(jnp.float32, model.vocab) - jnp.inf,
        }

    state = State(
        cache=cache,
        draft=draft,
        tokens_BS=zeros(jnp.int32, slots),
        log_prob_BS=zeros(jnp.float32, slots),
        length_B=zeros(jnp.int32) + 1,
        limit_B=zeros(jnp.int32) + 1,
        done_B=zeros(bool) | True,
        key_B=jax.vmap(jax.random.key)(zeros(jnp.uint32)),
        row_steps=jnp.zeros((), jnp.int32),
        accepted=jnp.zeros((), jnp.int32),
    )
    adjustments = Adjustments(
        prompt_B=zeros(jnp.int32),
        repetition_B=zeros(jnp.float32) + 1,
        frequency_B=zeros(jnp.float32),
        presence_B=zeros(jnp.float32),
        bias_id_BX=zeros(jnp.int32, MOST_BIASES) + model.vocab,
        bias_BX=zeros(jnp.float32, MOST_BIASES),
        filtered_B=zeros(bool),
        allowed_Bx=zeros(jnp.uint32, -(-model.vocab // 32)),
    )
    sampling = SamplingArrays(
        temperature=zeros(jnp.float32),
        top_k=zeros(jnp.int32),
        top_p=zeros(jnp.float32) + 1,
        min_p=zeros(jnp.float32),
        adjustments=adjustments,
    )
    stop_BX = zeros(jnp.int32, STOPS) - 1
    return Seats(state, sampling, stop_BX, top_B=zeros(bool), kept_B=zeros(bool))


def take_seat(
    seats: Seats,
    b: jax.Array,
    row: Row,
    cache: dict,
) -> Seats:
    """Return the seats with a request in seat b; `cache` has one row of as many slots."""

    def put(x: jax.Array, value: Any) -> jax.Array:
        return x.at[b].set(value)

    def put_row(x_BSX: jax.Array, x_1SX: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(x_BSX, x_1SX, b, 0)

    # as `seeds.root_key` has it
    key = jax.random.key(row.seed_low)
    long_key = jax.random.fold_in(key, row.seed_high)
    key = jax.lax.select(row.seed_high > 0, long_key, key)

    # without a draft, until the first step makes one
    state, sampling = seats.state, seats.sampling
    cache, draft_cache = split_draft(cache)
    if state.draft is not None:
        draft = {
            "cache": jax.tree.map(put_row, state.draft["cache"], draft_cache),
            "token_B": state.draft["token_B"],
            "logit_BV": put(state.draft["logit_BV"], -jnp.inf),
        }
        state = state.replace(draft=draft)

    state = state.replace(
        cache=jax.tree.map(put_row, state.cache, cache),
        tokens_BS=put(state.tokens_BS, row.tokens_S),
        length_B=put(state.length_B, row.length),
        limit_B=put(state.limit_B, row.limit),
        done_B=put(state.done_B, False),
        key_B=put(state.key_B, key),
    )
    a = sampling.adjustments
    adjustments = a.replace(
        prompt_B=put(a.prompt_B, row.prompt),
        repetition_B=put(a.repetition_B, row.repetition),
        frequency_B=put(a.frequency_B, row.frequency),
        presence_B=put(a.presence_B, row.presence),
        bias_id_BX=put(a.bias_id_BX, row.bias_id_X),
        bias_BX=put(a.bias_BX, row.bias_X),
        filtered_B=put(a.filtered_B, row.filtered),
    )
    sampling = SamplingArrays(
        temperature=put(sampling.temperature, row.temperature),
        top_k=put(sampling.top_k, row.top_k),
        top_p=put(sampling.top_p, row.top_p),
        min_p=put(sampling.min_p, row.min_p),
        adjustments=adjustments,
    )
    return Seats(
        state,
        sampling,
        put(seats.stop_BX, row.stop_X),
        top_B=put(seats.top_B, row.top),
        kept_B=put(seats.kept_B, row.kept),
    )


def split_draft(cache: dict) -> tuple[dict, dict | None]:
    """Return the main model's cache, and that of the module that drafts, None without one."""
    layers = dict(cache)
    draft = layers.pop(DRAFT, None)
    return layers, draft


def leave_seats(seats: Seats, alive_B: jax.Array) -> Seats:
    """Return the seats with only these still occupied; the settings of the others do not count."""
    sampling, a = seats.sampling, seats.sampling.adjustments
    adjustments = a.replace(
        repetition_B=jnp.where(alive_B, a.repetition_B, 1),
        frequency_B=jnp.where(alive_B, a.frequency_B, 0),
        presence_B=jnp.where(alive_B, a.presence_B, 0),
        filtered_B=alive_B & a.filtered_B,
        # ids beyond the vocabulary have no effect
        bias_id_BX=jnp.where(alive_B[:, None], a.bias_id_BX, a.allowed_Bx.shape[1] * 32),
    )
    sampling = sampling._replace(
        temperature=jnp.where(alive_B, sampling.temperature, 0),
        adjustments=adjustments,
    )
    return seats.replace(
        state=seats.state.replace(done_B=seats.state.done_B | ~alive_B),
        sampling=sampling,
        top_B=alive_B & seats.top_B,
        kept_B=alive_B & seats.kept_B,
    )


def begin_window(
    model: ModelConfig,
    seats: Seats,
    width: int,
) -> Window:
    """Return an empty window of `width` positions from each row's last token on."""
    B, V = seats.top_B.size, model.vocab
    K, layers = model.experts_per_token, expert_layers(model)
    top = min(MOST_TOP, V)
    return Window(
        begin_B=seats.state.length_B - 1,
        top_B=seats.top_B,
        kept_B=seats.kept_B,
        choice={name: jnp.zeros((B, width, K), jnp.int32) for name in layers},
        drafted_BW=jnp.zeros((B, width), bool),
        top_id_BWX=jnp.zeros((B, width, top), jnp.int32),
        top_log_prob_BWX=jnp.zeros((B, width, top), jnp.float32),
        kept_BWx=jnp.zeros((B, width, -(-V // 8)), jnp.uint8),
    )


def expert_layers(model: ModelConfig) -> list[str]:
    """Return the names of the expert layers of an unrolled model, from the first one on."""
    return [f"expert_layers_{i}" for i in range(model.stacks.get("expert_layers", 0))]


def expert_dtype(model: ModelConfig) -> type[np.unsignedinteger]:
    """Return the smallest type that has room for the number of an expert."""
    return np.uint8 if model.experts <= 256 else np.uint16
