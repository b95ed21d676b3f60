"""Log-probabilities of given tokens, by the model that learns: in the sampler's own words, where
those are known.
"""

import jax
import jax.numpy as jnp

from seekjax.config import Config
from seekjax.kernels.cross_entropy import nll_chunked
from seekjax.model.transformer import Output, Transformer
from sharding.rules import constrain, local, mesh_axes


def log_probs(
    model: Transformer, config: Config, params, balance, batch: dict, temperature: float = 1.0
) -> tuple[jax.Array, Output]:
    """Log p of tokens 1..T given those before, [B, T] in float32, under softmax(logits /
    temperature).

    batch: "tokens" [B, T + 1] and "segments" (0: padding; documents are kept apart if the config
    masks them); of the sampler's record, as far as there, each as it stands at its token: "choice"
    {layer: [B, T + 1, K]}, the experts to visit, and "kept" [B, T + 1, V / 8], the tokens to
    renormalise over. What padding gives has no meaning.
    """
    tokens_BX, segment_BX = batch["tokens"], batch["segments"]
    T = tokens_BX.shape[1] - 1
    segment_BT = segment_BX[:, :T]
    output = model.apply(
        {"params": params, "balance": balance},
        tokens_BX[:, :T],
        segment_BT if config.data.mask_documents else None,
        segment_BT > 0,
        choice=stacked_choice(config, batch["choice"], T) if "choice" in batch else None,
    )
    hidden_BTD, target_BT = output.hidden_BTD, tokens_BX[:, 1:]
    if temperature != 1:
        hidden_BTD = (
            hidden_BTD.astype(jnp.float32) / temperature
        )  # the sampler divides float32 logits: no rounding to bfloat16 in between
    if "kept" in batch:
        return log_probs_among(batch["kept"][:, 1:], hidden_BTD, output.head_DV, target_BT), output
    return -nll(hidden_BTD, output.head_DV, target_BT, config.kernel.vocab_chunk), output


def log_probs_among(
    kept_BTX: jax.Array,
    hidden_BTD: jax.Array,
    head_DV: jax.Array,
    target_BT: jax.Array,
    rows: int = 512,
) -> jax.Array:
    """Log p of every target among the tokens whose bits kept_BTX [B, T, V / 8] has, in float32;
    logits of about `rows` positions at a time.
    """
    B, T = target_BT.shape
    many = -(-T // max(1, rows // B))
    spare = -T % many

    def cut(x, fill=0):
        x = jnp.pad(x, ((0, 0), (0, spare), *[(0, 0)] * (x.ndim - 2)), constant_values=fill)
        return constrain(
            jnp.moveaxis(x.reshape(B, many, -1, *x.shape[2:]), 1, 0),
            "- batch" + " -" * (x.ndim - 1),
        )

    @jax.checkpoint
    def tile(piece):
        hidden_BTD, target_BT, kept_BTX = piece
        logit_BTV = jnp.einsum(
            "BTD,DV->BTV", hidden_BTD, head_DV, preferred_element_type=jnp.float32
        )
        kept_BTV = jnp.unpackbits(kept_BTX, axis=-1, count=head_DV.shape[1]).astype(bool)
        log_BTV = jax.nn.log_softmax(jnp.where(kept_BTV, logit_BTV, -jnp.inf), -1)
        return jnp.take_along_axis(log_BTV, target_BT[..., None], -1)[..., 0]

    found = jax.lax.map(
        tile, (cut(hidden_BTD), cut(target_BT), cut(kept_BTX, 255))
    )  # nothing kept would be NaN
    return jnp.moveaxis(found, 0, 1).reshape(B, -1)[:, :T]


def nll(hidden_BTD: jax.Array, head_DV: jax.Array, target_BT: jax.Array, chunk: int) -> jax.Array:
    """-log p(target) of every position in float32, each device on its own tokens and vocabulary,
    never with all logits at once.
    """
    axes = mesh_axes("vocab")

    def body(hidden_btD, head_Dv, target_bt):
        return nll_chunked(
            hidden_btD.reshape(-1, hidden_btD.shape[-1]),
            head_Dv,
            target_bt.reshape(-1),
            axes,
            chunk=chunk,
        ).reshape(target_bt.shape)

    token = "batch sequence"
    return local(body, (f"{token} -", "- vocab", token), token)(hidden_BTD, head_DV, target_BT)


def stacked_choice(
    config: Config, choice: dict[str, jax.Array], length: int
) -> dict[str, jax.Array]:
    """The layers' choices as the training model takes them, {"expert_layers": [L, B, T, K]}; {} for
    a model without experts.
    """
    layers = [
        choice[f"expert_layers_{layer}"][:, :length]
        for layer in range(config.model.layers - config.model.dense_layers)
    ]
    return {"expert_layers": jnp.stack(layers)} if layers else {}
