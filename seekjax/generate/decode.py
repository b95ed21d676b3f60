"""Decoding on the device: one prefill, then a compiled loop that ends when every row has.

A token's slot in the cache is its position, and each row has a length of its own, so prompts of
different lengths share a batch: what a shorter row computes beyond its end is overwritten before
any of its tokens can see it.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from seekjax.config import KernelConfig, ModelConfig
from seekjax.model.block import unstack
from seekjax.model.cache import cache_dtype, empty_cache, layer_cache
from seekjax.model.transformer import Output, Transformer
from seekjax.quant.tree import is_quantised, ready
from sharding.rules import constrain, platform

from .record import begin_record, record_choice, record_draw
from .sampling import Dials, at, draw, log_prob, shape

# tokens up to which a CPU runs experts on all of them rather than sort them: below that a sorted
# tile would be as large
FEW = 128


class State(struct.PyTreeNode):
    """Everything that changes while a batch is written."""

    cache: dict
    tokens_BS: jax.Array  # prompt and what came after it
    log_prob_BS: jax.Array  # the model's own, of each token drawn
    length_B: jax.Array  # tokens known, the newest not yet in the cache
    limit_B: jax.Array  # length at which a row ends
    done_B: jax.Array
    key_B: jax.Array
    # with a draft: {"cache", "token_B", "logit_BV"}, the next token it expects and what it drew
    # that from
    draft: Any = None
    record: Any = None  # with Decoder.record: see generate/record.py
    rounds: Any = 0  # steps of live rows, summed over rows
    accepted: Any = 0  # of them, those whose draft was right


@dataclass(frozen=True)
class Decoder:
    """What is compiled for: hashable, so that jit knows an old friend."""

    model: ModelConfig
    kernel: KernelConfig
    draft: bool = False  # the first prediction module guesses one token ahead
    record: bool = False  # keep what a trainer must know of every draw; not with a draft
    masks: bool = False  # and which tokens top_k, top_p and min_p let through

    def kernel_for(self, tokens: int) -> KernelConfig:
        """The kernels for so many tokens at once; nothing is dropped and nothing recomputed."""
        few = self.kernel.dispatch == "auto" and platform() == "cpu" and tokens <= FEW
        return replace(
            self.kernel, remat="none", capacity=0.0, dispatch="few" if few else self.kernel.dispatch
        )

    def run(self, variables: dict, tokens_BT: jax.Array, cache: dict, start, **how) -> Output:
        """The main model on T new tokens of each row."""
        return Transformer(self.model, self.kernel_for(tokens_BT.size), unrolled=True).apply(
            variables, tokens_BT, cache=cache, start=start, **how
        )


def prepare(decoder: Decoder, variables: dict, consume: bool = False) -> dict:
    """Variables as decoding reads them: layers apart, and matrices in the compute dtype, or as
    `quant.tree.ready` has them. Router, bias and norms stay float32.
    """

    def cast(path, x):
        name = path[-1].key
        if is_quantised(x):
            return ready(name, x, decoder.kernel.dtype)
        return (
            x
            if name in ("w_router", "bias") or name.endswith("_norm")
            else x.astype(decoder.kernel.dtype)
        )

    variables = {kind: unstack(decoder.model, tree, consume) for kind, tree in variables.items()}
    return jax.tree_util.tree_map_with_path(cast, variables, is_leaf=is_quantised)


@partial(jax.jit, static_argnames=("decoder", "slots", "group"))
def start(
    decoder: Decoder,
    variables: dict,
    tokens_BT,
    length_B,
    limit_B,
    key_B,
    dials: Dials,
    stop_X,
    slots: int,
    group: int = 1,
) -> State:
    """Read the prompts, tokens_BT[b, :length_B[b]], and draw the first token of each; rows with
    limit_B = length_B end at once.

    group: write so many texts after each prompt, which is read once; limit_B and key_B are then
    those of the texts.
    """
    from .speculative import first_draft  # it speaks of State too

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
    shaped_BV = shape(logit_BV, dials)
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
        state = first_draft(decoder, variables, state.replace(draft=draft), output, length_B, dials)
    return state


@partial(jax.jit, static_argnames="decoder", donate_argnames="state")
def advance(decoder: Decoder, variables: dict, state: State, dials: Dials, stop_X, steps) -> State:
    """Up to `steps` further steps, fewer when all rows end; a step writes one token per row, or
    with a draft up to two."""
    from .speculative import step_with_draft

    step = step_with_draft if decoder.draft else step_plain
    return jax.lax.while_loop(
        lambda carry: (carry[0] < steps) & ~carry[1].done_B.all(),
        lambda carry: (carry[0] + 1, step(decoder, variables, carry[1], dials, stop_X)),
        (0, state),
    )[1]


def step_plain(decoder: Decoder, variables: dict, state: State, dials: Dials, stop_X) -> State:
    """One token more for every live row."""
    output = decoder.run(variables, newest(state), state.cache, state.length_B - 1)
    logit_BV = head(output.hidden_BTD[:, 0], output.head_DV)
    shaped_BV = shape(logit_BV, dials)
    token_B = draw(at(state.key_B, state.length_B), shaped_BV)
    state = state.replace(
        record=record_draw(state.replace(record=record_choice(state, output)), shaped_BV, token_B)
    )
    state = state.replace(cache=output.cache, rounds=state.rounds + (~state.done_B).sum())
    return push(state, token_B, logit_BV, ~state.done_B, stop_X)


def cloned(group: int, tree: Any) -> Any:
    """Every row of every array `group` times, one after the other."""
    if group == 1:
        return tree
    return jax.tree.map(
        lambda x: constrain(jnp.repeat(x, group, 0), "batch" + " -" * (x.ndim - 1)), tree
    )


def newest(state: State) -> jax.Array:
    """The token of each row that is not yet in the cache, [B, 1]."""
    return jnp.take_along_axis(state.tokens_BS, state.length_B[:, None] - 1, 1)


def push(state: State, token_B, logit_BV, now_B, stop_X) -> State:
    """Append a token to the rows of now_B; a row ends with a stop id or at its limit."""
    here_BS = (jnp.arange(state.tokens_BS.shape[1]) == state.length_B[:, None]) & now_B[:, None]
    length_B = state.length_B + now_B
    ended_B = (token_B[:, None] == stop_X).any(-1) | (length_B >= state.limit_B)
    return state.replace(
        tokens_BS=jnp.where(here_BS, token_B[:, None], state.tokens_BS),
        length_B=length_B,
        done_B=state.done_B | (now_B & ended_B),
        log_prob_BS=jnp.where(here_BS, log_prob(logit_BV, token_B)[:, None], state.log_prob_BS),
    )


def last(x_BTD: jax.Array, length_B: jax.Array) -> jax.Array:
    """Each row at its last position, [B, D]."""
    return jnp.take_along_axis(x_BTD, length_B[:, None, None] - 1, 1)[:, 0]


def head(hidden_BD: jax.Array, head_DV: jax.Array) -> jax.Array:
    """Float32 logits, whole on every device, for drawing looks at all of them."""
    return constrain(
        jnp.einsum("BD,DV->BV", hidden_BD, head_DV, preferred_element_type=jnp.float32), "batch -"
    )
