"""How often each expert is chosen on a text, for placing redundant experts."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.errors import GenerateError, need
from seekjax.model.transformer import Transformer
from seekjax.open import OpenedModel, need_tokenizer
from sharding.place import put_batch
from sharding.rules import split_by

ROWS = 8  # at least, of the sequences of one forward pass
LENGTH = 256  # tokens of a sequence


def measure_load(opened: OpenedModel, text: Path) -> np.ndarray:
    """Return how many tokens of a text file chose each expert, [L, E].

    Layers are expert layers, then prediction modules. Only the beginning of a long text is read: as
    many tokens as one forward pass takes. Raises GenerateError if there are none.
    """
    try:
        content = text.expanduser().read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise GenerateError(f"{text} cannot be read ({error.strerror}).") from error
    ids = need_tokenizer(opened).encode(content)
    need(len(ids), f"{text} has no text that shows which experts are popular.", GenerateError)

    # Padding does not count
    split = split_by("batch")
    rows = -(-ROWS // split) * split
    length = min(LENGTH, opened.model.context)
    tokens_N = np.zeros(rows * length, np.int32)
    ids = np.asarray(ids[: tokens_N.size])
    tokens_N[: ids.size] = ids
    mask_N = np.arange(tokens_N.size) < ids.size
    batch = put_batch(
        {"tokens": tokens_N.reshape(rows, length), "mask": mask_N.reshape(rows, length)},
        "batch sequence",
    )

    kernel = opened.kernel
    transformer = Transformer(opened.model, kernel)
    loads = jax.jit(partial(_loads, transformer))(opened.variables, batch)
    return np.asarray(jax.device_get(loads))


def _loads(transformer: Transformer, variables: dict, batch: dict) -> jax.Array:
    tokens_BT = batch["tokens"]
    output: Any = transformer.apply(
        variables, tokens_BT, mask_BT=batch["mask"], mtp_tokens_BX=tokens_BT
    )
    loads = [jnp.atleast_2d(layer["load_E"]) for layer in output.balance.values()]
    return jnp.concatenate(loads)
