"""The state of a decoding batch, and what plain and speculative decoding share."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from seekjax.config import KernelConfig, ModelConfig
from seekjax.generate.sampling import log_prob
from seekjax.kernels.small_batch import SMALL_BATCH
from seekjax.model.block import unstack
from seekjax.model.transformer import Transformer, other_products
from seekjax.quant.formats import Quantised, Weight, dense, product
from seekjax.quant.tree import is_quantised, ready
from sharding.mesh import platform
from sharding.rules import constrain


class State(struct.PyTreeNode):
    """Everything that changes while a batch is decoded."""

    cache: dict
    tokens_BS: jax.Array  # prompt and generated tokens
    log_prob_BS: jax.Array  # of each generated token, under the model itself
    length_B: jax.Array  # tokens so far; the last of them is not in the cache yet
    limit_B: jax.Array  # length at which a row ends
    done_B: jax.Array
    key_B: jax.Array
    # with a draft: {"cache", "token_B", "logit_BV"}, the drafted next token and the logits that it
    # was drawn from
    draft: Any = None
    # what is kept of each draw: a Record (with Decoder.record) or the engine's Window
    record: Any = None
    row_steps: Any = 0  # steps of rows that were not done, summed over rows
    accepted: Any = 0  # how many of these steps accepted their draft


@dataclass(frozen=True)
class Decoder:
    """What a decoding program is compiled for: hashable, so that jit finds a program again."""

    model: ModelConfig
    kernel: KernelConfig
    draft: bool = False  # the first prediction module drafts one token ahead
    record: bool = False  # keep what a trainer must know of every draw; not with a draft
    masks: bool = False  # and which tokens top_k, top_p and min_p kept

    @property
    def tokens_per_step(self) -> int:
        """The tokens that a step appends at most."""
        return 2 if self.draft else 1

    def kernel_for(self, tokens: int) -> KernelConfig:
        """Return the kernels for this many tokens at once, without dropping, recomputing or
        rounding tokens on their way.
        """
        kernel = replace(self.kernel, remat="none", capacity=0.0, dispatch_dtype="same")
        if kernel.dispatch == "auto" and platform() == "cpu" and tokens <= SMALL_BATCH:
            kernel = replace(kernel, dispatch="small_batch")
        return kernel

    def forward(self, variables: dict, tokens_BT: jax.Array, cache: Any, start, **how) -> Any:
        """Return the main model's Output for T new tokens of each row, from position `start` on."""
        kernel = self.kernel_for(tokens_BT.size)
        transformer = Transformer(self.model, kernel, unrolled=True)
        return transformer.apply(variables, tokens_BT, cache=cache, start=start, **how)


def decoding_variables(
    decoder: Decoder,
    variables: dict,
    consume: bool = False,
) -> dict:
    """Return the variables as decoding reads them: each layer apart, matrices in the compute dtype.

    Quantised matrices are laid out by `quant.tree.ready`. Router, bias and norms stay float32.
    `consume` frees the stacked arrays as their layers are copied.
    """
    dtype = decoder.kernel.dtype
    as_arrays = other_products(decoder.model)

    def cast(path, x):
        name = path[-1].key
        if path[0].key == "placement":
            return x
        if is_quantised(x):
            return ready(name, x, dtype, as_arrays)
        if name in ("w_router", "bias") or name.endswith("_norm"):
            return x
        return x.astype(dtype)

    layers = {}
    for kind, tree in variables.items():
        layers[kind] = unstack(decoder.model, tree, consume)
    return jax.tree_util.tree_map_with_path(cast, layers, is_leaf=is_quantised)


def repeat_rows(group: int, tree: Any) -> Any:
    """Repeat every row of every array `group` times, copies next to each other."""
    if group == 1:
        return tree

    def repeat(x: jax.Array) -> jax.Array:
        axes = "batch" + " -" * (x.ndim - 1)
        return constrain(jnp.repeat(x, group, 0), axes)

    return jax.tree.map(repeat, tree)


def slot_mask(state: State, position_B: jax.Array) -> jax.Array:
    """Return a mask that is true at each row's position, bool [B, S]."""
    slot_S = jnp.arange(state.tokens_BS.shape[1])
    return slot_S == position_B[:, None]


def last_token(state: State) -> jax.Array:
    """Return each row's last token, the one that is not in the cache yet, [B, 1]."""
    index_B1 = state.length_B[:, None] - 1
    return jnp.take_along_axis(state.tokens_BS, index_B1, 1)


def last_hidden(hidden_BTD: jax.Array, length_B: jax.Array) -> jax.Array:
    """Return the hidden state of each row's last token, [B, D]."""
    index_B11 = length_B[:, None, None] - 1
    return jnp.take_along_axis(hidden_BTD, index_B11, 1)[:, 0]


def output_logits(hidden_BD: jax.Array, head_DV: Weight) -> jax.Array:
    """Return float32 logits, replicated along the vocabulary because a draw reads all of them."""
    if isinstance(head_DV, Quantised) and platform() == "cpu":
        logit_BV = product(hidden_BD.astype(jnp.float32), head_DV)
    else:
        head_DV = dense(head_DV, hidden_BD.dtype)
        logit_BV = jnp.einsum("BD,DV->BV", hidden_BD, head_DV, preferred_element_type=jnp.float32)
    return constrain(logit_BV, "batch -")


def append_token(
    state: State,
    token_B: jax.Array,
    logit_BV: jax.Array,
    active_B: jax.Array,
    stop_X: jax.Array,
) -> State:
    """Append a token to the rows of active_B; a row ends with a stop id or at its limit."""
    here_BS = slot_mask(state, state.length_B) & active_B[:, None]
    log_prob_B1 = log_prob(logit_BV, token_B)[:, None]

    length_B = state.length_B + active_B
    stopped_B = (token_B[:, None] == stop_X).any(-1)  # stop_X may be [B, X]: ids of each row
    ended_B = stopped_B | (length_B >= state.limit_B)

    return state.replace(
        tokens_BS=jnp.where(here_BS, token_B[:, None], state.tokens_BS),
        log_prob_BS=jnp.where(here_BS, log_prob_B1, state.log_prob_BS),
        length_B=length_B,
        done_B=state.done_B | (active_B & ended_B),
    )
