"""What training minimises: next-token and multi-token cross entropy, and the balance loss.

V3 equations 17-25; the balance loss is the sequence-wise one.
"""

from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from seekjax.config import Config
from seekjax.kernels.cross_entropy import nll_chunked, nll_sum
from seekjax.model.mtp import ahead
from seekjax.model.transformer import Output, Transformer
from seekjax.train.schedule import mtp_weight
from seekjax.train.state import Params, RunSpec, TrainState
from sharding.context import lay_out
from sharding.rules import local, mesh_axes, split_by


class Criterion(Protocol):
    """What a kind of training minimises.

    How a step's sequences are cut into micro-batches must not change the result.
    """

    def totals(self, batch: dict[str, jax.Array]) -> Any:
        """Return what sums are divided by, from all micro-batches of a step, [A, B, ...] each."""
        ...

    def loss(
        self,
        params: Params,
        state: TrainState,
        piece: dict[str, jax.Array],
        totals: Any,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Return a micro-batch's share of the loss, and its figures.

        The figures are sums, but for "experts" {name: {"load_E", "dropped"}} and, optionally,
        "maxima".
        """
        ...

    def metrics(self, batch: dict[str, jax.Array], totals: Any) -> dict[str, jax.Array]:
        """Return further figures of the step."""
        ...


class Totals(NamedTuple):
    """Counts over the whole batch, all micro-batches and devices.

    Sums are divided by them, so that splitting the batch changes nothing.
    """

    tokens: jax.Array
    sequences: int


def target_mask(
    batch: dict[str, jax.Array],
    by: int,
    mask_documents: bool,
) -> jax.Array:
    """Return which of the first X - 1 positions have a target `by` positions ahead, [B, X - 1].

    The target must be a token: in the same document if documents are masked, and one that is
    "trained" on if the batch {"segments", "trained"?} [B, X] has that array.
    """
    segment_BX = batch["segments"]
    T = segment_BX.shape[1] - 1
    here_BT = segment_BX[:, :T]
    target_BT = ahead(segment_BX, by, T)

    same_BT = target_BT == here_BT if mask_documents else target_BT > 0
    mask_BT = (here_BT > 0) & same_BT
    if "trained" in batch:
        mask_BT &= ahead(batch["trained"], by, T)
    return mask_BT


def cross_entropy(
    hidden_BTD: jax.Array,
    head_DV: jax.Array,
    target_BT: jax.Array,
    mask_BT: jax.Array,
    chunk: int,
) -> jax.Array:
    """Return the sum of -log p(target) over the unmasked positions, in float32.

    Each device computes its own tokens and vocabulary. Logits are held for some rows and at most
    `chunk` words at a time; a vocabulary that fits in one chunk needs one matrix product less.
    """
    vocab_axes = mesh_axes("vocab")
    token_axes = (*mesh_axes("batch"), *mesh_axes("sequence"))

    def body(hidden_btD, head_Dv, target_bt, mask_bt):
        hidden_mD = hidden_btD.reshape(-1, hidden_btD.shape[-1])
        target_m = target_bt.reshape(-1)
        mask_m = mask_bt.reshape(-1)

        if head_Dv.shape[1] <= chunk:
            total = nll_sum(hidden_mD, head_Dv, target_m, mask_m, vocab_axes)
        else:
            nll_m = nll_chunked(hidden_mD, head_Dv, target_m, vocab_axes, chunk=chunk)
            total = jnp.where(mask_m, nll_m, 0).sum()
        return jax.lax.psum(total, token_axes) if token_axes else total

    token = "batch sequence"
    compute = local(body, (f"{token} -", "- vocab", token, token), "")
    return compute(hidden_BTD, head_DV, target_BT, mask_BT)


def forward(
    model: Transformer,
    config: Config,
    params: Params,
    balance: Any,
    batch: dict[str, jax.Array],
    mtp: bool,
) -> tuple[Output, jax.Array]:
    """Return the model's output on {"tokens", "segments"} [B, T + 1], and summed cross entropies.

    The second result has one sum per prediction depth, [1 + mtp_depth]. On a mesh that splits
    sequences, the output's are in the order of `sharding.context.held`.
    """
    tokens_BX, segment_BX = batch["tokens"], batch["segments"]
    T = tokens_BX.shape[1] - 1
    masked = config.data.mask_documents
    applied = model.apply(
        {"params": params, "balance": balance},
        tokens_BX[:, :T],
        segment_BX[:, :T] if masked else None,
        segment_BX[:, :T] > 0,
        tokens_BX if mtp else None,
        in_order=False,
    )

    output = cast(Output, applied)

    # Targets are found in the whole rows, and only then go to the devices of their positions.
    parts = split_by("sequence")
    sums = []
    for by, hidden_BTD in enumerate((output.hidden_BTD, *output.mtp_BTD), 1):
        target_BT = lay_out(ahead(tokens_BX, by, T), parts)
        mask_BT = lay_out(target_mask(batch, by, masked), parts)
        chunk = config.kernel.vocab_chunk
        sums.append(cross_entropy(hidden_BTD, output.head_DV, target_BT, mask_BT, chunk))
    return output, jnp.stack(sums)


class NextToken:
    """The criterion of pre-training on batches {"tokens", "segments", "trained"?} [A, B, T + 1].

        L = CE + lambda / depth sum_k CE_k + alpha sum_layers balance    (V3 equations 17-25)

    Each CE is averaged over the same main targets (equation 24 divides by T), the balance loss
    over the sequences.
    """

    def __init__(self, spec: RunSpec, bytes_V: ArrayLike):
        self.spec = spec
        self.bytes_V = jnp.asarray(bytes_V)
        self.mtp_weight = mtp_weight(spec.config)

    def mask(self, batch: dict[str, jax.Array]) -> jax.Array:
        """Return which positions have a target, [A, B, T]."""
        mask_documents = self.spec.config.data.mask_documents
        return jax.vmap(lambda piece: target_mask(piece, 1, mask_documents))(batch)

    def totals(self, batch: dict[str, jax.Array]) -> Totals:
        """Return the targets and the sequences of a step."""
        micro, sequences = batch["tokens"].shape[:2]
        tokens = jnp.maximum(self.mask(batch).sum(), 1).astype(jnp.float32)
        return Totals(tokens, micro * sequences)

    def loss(
        self,
        params: Params,
        state: TrainState,
        piece: dict[str, jax.Array],
        totals: Totals,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Return a micro-batch's share of the loss, and its figures."""
        config = self.spec.config
        weights = self.spec.weights(params, state.frozen)
        output, nll = forward(self.spec.model, config, weights, state.balance, piece, mtp=True)

        ce = nll / totals.tokens
        mtp = ce[1:].mean() if config.model.mtp_depth else jnp.zeros(())
        balance = balance_loss(output) / totals.sequences
        loss = ce[0] + self.mtp_weight(state.step) * mtp + config.train.balance_loss * balance
        return loss, {
            "loss": ce[0],
            "mtp_loss": mtp,
            "balance_loss": balance,
            "experts": loads(output),
        }

    def metrics(self, batch: dict[str, jax.Array], totals: Totals) -> dict[str, jax.Array]:
        """Return the targets of the step and the bytes of text that they stand for."""
        size = jnp.where(self.mask(batch), self.bytes_V[batch["tokens"][..., 1:]], 0).sum()
        return {"tokens": totals.tokens, "bytes": size}


def balance_loss(output: Output) -> jax.Array:
    """Return the sequence-wise balance loss of all layers, summed over sequences."""
    losses = [layer["balance_loss"].sum() for layer in output.balance.values()]
    return sum(losses, jnp.zeros(()))


def loads(output: Output) -> dict[str, dict[str, jax.Array]]:
    """Return what the balance bias and the report need of the experts' layers."""
    wanted = ("load_E", "dropped", "gaps_EN")
    return {
        name: {figure: layer[figure] for figure in wanted if figure in layer}
        for name, layer in output.balance.items()
    }
