"""Rollouts: groups of texts by the policy as it stands, in the trainer's own program and on its
mesh, with all that a trainer needs to follow them."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from seekjax.config import Config
from seekjax.data import DataError, Tokenizer
from seekjax.generate.decode import decode_steps, prefill
from seekjax.generate.generator import STOPS
from seekjax.generate.sampling import Sampling, SamplingArrays, sampling_arrays
from seekjax.generate.state import Decoder, decoding_variables
from sharding.place import put_batch
from sharding.rules import constrain, sharding


@partial(jax.jit, static_argnames=("decoder", "slots", "group", "max_new"))
def sample(
    decoder: Decoder,
    variables: dict,
    tokens_PT,
    length_P,
    key_B,
    sampling: SamplingArrays,
    stop_X,
    slots: int,
    group: int,
    max_new: int,
) -> dict[str, Any]:
    """`group` texts of up to max_new tokens after each prompt tokens_PT[p, :length_P[p]], one after
    the other along B = P * group.

    {"tokens" [B, S], "segments" [B, S] (1 up to the end), "mask" [B, S - 1] (targets that were
    drawn), "length" [B], "log_prob", "entropy", "choice", "kept"?: see generate/record.py}.
    """
    start_B = jnp.repeat(length_P, group)
    variables = decoding_variables(decoder, variables)
    state = prefill(
        decoder,
        variables,
        tokens_PT,
        length_P,
        start_B + max_new,
        key_B,
        sampling,
        stop_X,
        slots,
        group,
    )
    state = decode_steps(decoder, variables, state, sampling, stop_X, max_new)
    slot_S, end_B1 = jnp.arange(slots), state.length_B[:, None]
    drawn_BS = (slot_S >= start_B[:, None]) & (slot_S < end_B1)
    texts = {
        "tokens": state.tokens_BS,
        "segments": (slot_S < end_B1).astype(jnp.int32),
        "mask": drawn_BS[:, 1:],
        "length": state.length_B,
        **state.record,
    }
    return jax.tree.map(lambda x: constrain(x, "batch" + " -" * (x.ndim - 1)), texts)


class Sampler:
    """Draws texts of fixed shapes: prompts of up to data.sequence + 1 - max_new tokens, so that
    nothing compiles anew."""

    def __init__(self, config: Config, tokenizer: Tokenizer):
        post = config.post
        self.decoder = Decoder(
            config.model, config.kernel, record=True, masks=bool(post.top_k) or post.top_p < 1
        )
        self.slots, self.max_new = config.data.sequence + 1, post.max_new
        self.room = self.slots - post.max_new
        self.sampling = sampling_arrays(
            Sampling(temperature=post.temperature, top_k=post.top_k, top_p=post.top_p)
        )
        self.eos, self.pad = tokenizer.eos, tokenizer.pad
        self.stop_X = np.full(STOPS, -1, np.int32)
        self.stop_X[0] = tokenizer.eos

    def check(self, prompts: list[np.ndarray]) -> None:
        """Raise DataError for a prompt that leaves no room for max_new tokens."""
        for prompt in prompts:
            if len(prompt) > self.room:
                raise DataError(
                    f"a prompt has {len(prompt)} tokens, and data.sequence "
                    f"{self.slots - 1} leaves it {self.room} beside post.max_new "
                    f"{self.max_new}: raise data.sequence or lower post.max_new."
                )

    def __call__(
        self, variables: dict, prompts: list[np.ndarray], group: int, key: jax.Array
    ) -> dict[str, Any]:
        """Texts on the devices; text g of prompt p draws by fold_in(fold_in(key, p), g), whatever
        else is drawn beside it."""
        self.check(prompts)
        tokens_PT = np.full((len(prompts), self.room), self.pad, np.int32)
        for row, prompt in zip(tokens_PT, prompts):
            row[: len(prompt)] = prompt
        length_P = np.array([len(prompt) for prompt in prompts], np.int32)
        placed = everywhere({"tokens": tokens_PT, "length": length_P})
        return sample(
            self.decoder,
            variables,
            placed["tokens"],
            placed["length"],
            group_keys(key, len(prompts), group),
            self.sampling,
            self.stop_X,
            self.slots,
            group,
            self.max_new,
        )


@partial(jax.jit, static_argnames=("prompts", "group"))
def group_keys(key: jax.Array, prompts: int, group: int) -> jax.Array:
    """A key for each text, [P * G]."""

    def of_prompt(p):
        return jax.vmap(lambda g: jax.random.fold_in(jax.random.fold_in(key, p), g))(
            jnp.arange(group)
        )

    return jax.vmap(of_prompt)(jnp.arange(prompts)).reshape(-1)


def everywhere(rows: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Host arrays that every process holds whole, split by rows over the mesh."""
    if jax.process_count() == 1:
        return put_batch(rows, "batch")
    place = sharding("batch")
    return {
        name: jax.make_array_from_callback(x.shape, place, lambda at, x=x: x[at])
        for name, x in rows.items()
    }


def fetched(tree: Any) -> Any:
    """Arrays of the mesh as whole host arrays, in every process."""
    return (
        multihost_utils.process_allgather(tree, tiled=True)
        if jax.process_count() > 1
        else jax.device_get(tree)
    )


@partial(jax.jit, static_argnames=("micro", "place"))
def minibatch(texts: dict[str, Any], rows_A: jax.Array, micro: int, place) -> dict[str, Any]:
    """Some rows of a rollout as micro-batches, [A, B, ...]."""
    cut = jax.tree.map(lambda x: x[rows_A].reshape(micro, -1, *x.shape[1:]), texts)
    return jax.lax.with_sharding_constraint(cut, place)


@jax.jit
def merged(kept: dict[str, Any], fresh: dict[str, Any], rows_B: jax.Array) -> dict[str, Any]:
    """Row i of the result is row rows_B[i] of `kept` followed by `fresh`."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b])[rows_B], kept, fresh)
