"""What changes while a batch is written, and the functions on it that every way of decoding
shares."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from seekjax.config import KernelConfig, ModelConfig
from seekjax.generate.sampling import log_prob
from seekjax.model.block import unstack
from seekjax.model.transformer import Output, Transformer
from seekjax.quant.tree import is_quantised, ready
from sharding.rules import constrain, platform

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


def decoding_variables(decoder: Decoder, variables: dict, consume: bool = False) -> dict:
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
