"""Log-probabilities of given tokens under the trained model.

It replays the sampler's expert choices and its sampling mask if these were recorded.
"""

from typing import Any, cast

import jax
import jax.numpy as jnp

from seekjax.config import Config
from seekjax.kernels.cross_entropy import nll_chunked
from seekjax.model.transformer import Output, Transformer
from sharding.rules import constrain, local, mesh_axes

EVERY_TOKEN = 255  # a byte of a sampling mask that keeps all of its eight tokens


def log_probs(
    model: Transformer,
    config: Config,
    params: Any,
    balance: Any,
    batch: dict[str, Any],
    temperature: float = 1.0,
) -> tuple[jax.Array, Output]:
    """Return log p of tokens 1..T given those before, [B, T] in float32, and the model's output.

    The distribution is softmax(logits / temperature). `batch` has "tokens" [B, T + 1] and
    "segments" (0: padding; documents are kept apart if the config masks them). It may have parts of
    the sampler's record, each at its token: "choice" {layer: [B, T + 1, K]}, the experts to visit,
    and "kept" [B, T + 1, V / 8], the tokens to renormalise over. The result at padding has no
    meaning.
    """
    tokens_BX, segment_BX = batch["tokens"], batch["segments"]
    T = tokens_BX.shape[1] - 1
    segment_BT = segment_BX[:, :T]
    choice = None
    if "choice" in batch:
        choice = stacked_choice(config, batch["choice"], T)

    applied = model.apply(
        {"params": params, "balance": balance},
        tokens_BX[:, :T],
        segment_BT if config.data.mask_documents else None,
        segment_BT > 0,
        choice=choice,
    )
    output = cast(Output, applied)
    hidden_BTD, target_BT = output.hidden_BTD, tokens_BX[:, 1:]

    if temperature != 1:
        # The sampler divides float32 logits: do not round to bfloat16 in between.
        hidden_BTD = hidden_BTD.astype(jnp.float32) / temperature
    if "kept" in batch:
        kept_BTX = batch["kept"][:, 1:]
        return log_probs_among(kept_BTX, hidden_BTD, output.head_DV, target_BT), output
    return -nll(hidden_BTD, output.head_DV, target_BT, config.kernel.vocab_chunk), output


def log_probs_among(
    kept_BTX: jax.Array,
    hidden_BTD: jax.Array,
    head_DV: jax.Array,
    target_BT: jax.Array,
    rows: int = 512,
) -> jax.Array:
    """Return log p of every target among the tokens that a sampling mask keeps, in float32.

    The mask kept_BTX [B, T, V / 8] has a bit per token. Logits are held for about `rows` positions
    at a time.
    """
    B, T = target_BT.shape
    tiles = -(-T // max(1, rows // B))
    spare = -T % tiles

    def cut(x: jax.Array, fill: int = 0) -> jax.Array:
        """Pad the positions, and move tiles of them to the front."""
        padding = [(0, 0), (0, spare)] + [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, padding, constant_values=fill)
        x = jnp.moveaxis(x.reshape(B, tiles, -1, *x.shape[2:]), 1, 0)
        return constrain(x, "- batch" + " -" * (x.ndim - 2))

    @jax.checkpoint
    def tile(piece: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        hidden_BTD, target_BT, kept_BTX = piece
        logit_BTV = jnp.einsum(
            "BTD,DV->BTV", hidden_BTD, head_DV, preferred_element_type=jnp.float32
        )
        kept_BTV = jnp.unpackbits(kept_BTX, axis=-1, count=head_DV.shape[1]).astype(bool)
        log_BTV = jax.nn.log_softmax(jnp.where(kept_BTV, logit_BTV, -jnp.inf), -1)
        return jnp.take_along_axis(log_BTV, target_BT[..., None], -1)[..., 0]

    # Padding keeps every token: keeping none would be NaN.
    pieces = cut(hidden_BTD), cut(target_BT), cut(kept_BTX, EVERY_TOKEN)
    log_p = jax.lax.map(tile, pieces)
    return jnp.moveaxis(log_p, 0, 1).reshape(B, -1)[:, :T]


def nll(
    hidden_BTD: jax.Array,
    head_DV: jax.Array,
    target_BT: jax.Array,
    chunk: int,
) -> jax.Array:
    """Return -log p(target) of every position in float32, never with all logits at once.

    Each device computes its own tokens and vocabulary.
    """
    vocab_axes = mesh_axes("vocab")

    def body(hidden_btD, head_Dv, target_bt):
        hidden_mD = hidden_btD.reshape(-1, hidden_btD.shape[-1])
        nll_m = nll_chunked(hidden_mD, head_Dv, target_bt.reshape(-1), vocab_axes, chunk=chunk)
        return nll_m.reshape(target_bt.shape)

    token = "batch sequence"
    compute = local(body, (f"{token} -", "- vocab", token), token)
    return compute(hidden_BTD, head_DV, target_BT)


def stacked_choice(
    config: Config, choice: dict[str, jax.Array], length: int
) -> dict[str, jax.Array]:
    """Return the layers' choices as the training model takes them.

    They are {"expert_layers": [L, B, T, K]}, or {} for a model without experts.
    """
    count = config.model.layers - config.model.dense_layers
    layers = [choice[f"expert_layers_{number}"][:, :length] for number in range(count)]
    if not layers:
        return {}
    return {"expert_layers": jnp.stack(layers)}
