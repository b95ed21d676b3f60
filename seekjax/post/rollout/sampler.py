"""Sampling groups of texts from the current policy, in the trainer's program and on its mesh.

With the texts comes all that a trainer needs to follow the sampler: its log-probabilities, its
expert choices and its sampling mask.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from seekjax.config import KernelConfig, ModelConfig, SamplingConfig
from seekjax.data import DataError, Tokenizer
from seekjax.generate.decode import decode_steps, prefill
from seekjax.generate.generator import STOPS
from seekjax.generate.sampling import Sampling, SamplingArrays, sampling_arrays
from seekjax.generate.state import Decoder, decoding_variables
from sharding.place import put_batch
from sharding.rules import constrain, sharding

Texts = dict[str, Any]  # a rollout on the devices, as `sample` returns it


@partial(jax.jit, static_argnames=("decoder", "slots", "group", "max_new"))
def sample(
    decoder: Decoder,
    variables: dict[str, Any],
    tokens_PT: jax.Array,
    length_P: jax.Array,
    key_B: jax.Array,
    sampling: SamplingArrays,
    stop_X: jax.Array,
    slots: int,
    group: int,
    max_new: int,
) -> Texts:
    """Draw `group` texts of up to max_new tokens after each prompt tokens_PT[p, :length_P[p]].

    Returns, with B = P * group, the texts of a prompt next to each other:
        "tokens" [B, S]; "segments" [B, S], 1 up to the end of the text; "mask" [B, S - 1], targets
        that were drawn; "length" [B]; "log_prob", "entropy", "choice", and "kept" if the decoder
        records masks: see generate/record.py.
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
        **state.record.arrays(),
    }

    def split_rows(x: jax.Array) -> jax.Array:
        return constrain(x, "batch" + " -" * (x.ndim - 1))

    return jax.tree.map(split_rows, texts)


class Sampler:
    """Draws texts of fixed shapes, so that every rollout uses one compiled program.

    A text has data.sequence + 1 tokens, of which a prompt takes at most all but max_new.
    """

    def __init__(
        self,
        model: ModelConfig,
        kernel: KernelConfig,
        sampling: SamplingConfig,
        sequence: int,
        tokenizer: Tokenizer,
        trained: bool = True,
    ):
        """trained: whether a trainer follows, which needs the sampling mask of top_k and top_p."""
        filtered = bool(sampling.top_k) or sampling.top_p < 1
        self.decoder = Decoder(model, kernel, record=True, masks=filtered and trained)
        self.slots = sequence + 1
        self.max_new = sampling.max_new
        self.room = self.slots - self.max_new  # tokens that a prompt may have
        self.sampling = sampling_arrays(
            Sampling(temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p)
        )
        self.pad = tokenizer.pad
        stops = tokenizer.stops
        self.stop_X = np.full(max(STOPS, len(stops)), -1, np.int32)
        self.stop_X[: len(stops)] = stops

    def check(self, prompts: list[np.ndarray]) -> None:
        """Raise DataError for a prompt that leaves less room than max_new tokens."""
        for prompt in prompts:
            if len(prompt) > self.room:
                raise DataError(
                    f"a prompt has {len(prompt)} tokens, and data.sequence {self.slots - 1} leaves "
                    f"room for {self.room} next to max_new {self.max_new}: raise data.sequence or "
                    "lower max_new."
                )

    def __call__(
        self,
        variables: dict[str, Any],
        prompts: list[np.ndarray],
        group: int,
        key: jax.Array,
        first: int = 0,
    ) -> Texts:
        """Return `group` texts of each prompt, on the devices.

        Text g of prompt p is drawn with fold_in(fold_in(key, first + p), g), whatever else is in
        the batch.
        """
        self.check(prompts)
        tokens_PT = np.full((len(prompts), self.room), self.pad, np.int32)
        for row, prompt in zip(tokens_PT, prompts):
            row[: len(prompt)] = prompt
        length_P = np.array([len(prompt) for prompt in prompts], np.int32)

        placed = place_rows({"tokens": tokens_PT, "length": length_P})
        return sample(
            self.decoder,
            variables,
            placed["tokens"],
            placed["length"],
            group_keys(key, first, len(prompts), group),
            self.sampling,
            self.stop_X,
            self.slots,
            group,
            self.max_new,
        )


@partial(jax.jit, static_argnames=("prompts", "group"))
def group_keys(key: jax.Array, first: int, prompts: int, group: int) -> jax.Array:
    """Return a key for each text of prompts `first` and on, [P * G]."""

    def key_of(prompt: jax.Array, member: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(key, prompt), member)

    of_prompt = jax.vmap(key_of, in_axes=(None, 0))
    of_prompts = jax.vmap(of_prompt, in_axes=(0, None))
    return of_prompts(first + jnp.arange(prompts), jnp.arange(group)).reshape(-1)


def place_rows(rows: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Split host arrays, which every process holds in full, by rows over the mesh."""
    if jax.process_count() == 1:
        return put_batch(rows, "batch")

    placement = sharding("batch")
    return {
        name: jax.make_array_from_callback(x.shape, placement, x.__getitem__)
        for name, x in rows.items()
    }


def fetch(tree: Any) -> Any:
    """Return arrays of the mesh as complete host arrays, in every process."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(tree, tiled=True)
    return jax.device_get(tree)


@partial(jax.jit, static_argnames=("micro", "placement"))
def minibatch(texts: Texts, rows_A: jax.Array, micro: int, placement: Any) -> Texts:
    """Return some rows of a rollout as `micro` micro-batches, [A, B, ...]."""

    def cut(x: jax.Array) -> jax.Array:
        return x[rows_A].reshape(micro, -1, *x.shape[1:])

    return jax.lax.with_sharding_constraint(jax.tree.map(cut, texts), placement)


@jax.jit
def take_rows(first: Texts, second: Texts, rows_B: jax.Array) -> Texts:
    """Return rows `rows_B` of `first` followed by `second`."""

    def take(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.concatenate([a, b])[rows_B]

    return jax.tree.map(take, first, second)
