"""Bytes on each device by kind, from the config and the mesh alone.

Weights and moments are exact: they are what `seekjax show` lists. Activations are those that the
recomputation policy keeps, plus one layer whole while it is computed again; a compiler may hold
more at once. tests/benchmarks/results/plan.md has this estimate next to what XLA plans.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from seekjax.axes import inner_matrix
from seekjax.config import ModelConfig
from seekjax.plan.layout import BYTES, Layout, gathered_positions
from seekjax.plan.weights import Weight, combined, layer_weights

FLOAT32 = 4  # bytes
LOGIT_ROWS = 512  # whose logits the loss holds at a time (seekjax/kernels/cross_entropy.py)
POLICIES = ("none", "product", "latent", "full")  # of recomputation, the most kept first
BACKWARD = 2  # a layer's values and their gradients


@dataclass(frozen=True)
class Memory:
    """Bytes on one device while a step runs."""

    weights: float  # float32: the master copy, which the optimizer moves
    moments: float
    average: float  # moving average of the weights
    gradients: float  # float32, and their sum over micro-batches
    gathered: float  # one layer's weights as computed with, and the gradients of it
    vocabulary: float  # the same of embedding and head, which are gathered all along
    kept: float  # activations for the backward pass
    layer: float  # one layer's activations while it is computed again, and their gradients
    exchange: float  # rows on their way to experts and back
    logits: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(vars(self).values())

    @property
    def state(self) -> float:
        """Bytes between two steps."""
        return self.weights + self.moments + self.average

    def rows(self) -> dict[str, float]:
        """Return the bytes by the names that a table shows."""
        named = {
            "weights, float32 (the master copy)": self.weights,
            "moments of the optimizer": self.moments,
            "moving average": self.average,
            "gradients, float32": self.gradients,
            "a layer's weights gathered, and gradients": self.gathered,
            "embedding and head gathered, and gradients": self.vocabulary,
            "activations kept": self.kept,
            "a layer while it is computed again": self.layer,
            "exchange buffers": self.exchange,
            "logits": self.logits,
        }
        return {name: size for name, size in named.items() if size}


def memory(layout: Layout, remat: str | None = None) -> Memory:
    """Return the bytes on each device, under a policy of recomputation (default: the config's)."""
    config = layout.config
    model = config.model
    listed = combined(model)
    stored = FLOAT32 * stored_numbers(listed, layout)
    accumulates = layout.micro_batches > 1

    # A layer at work, of the kind that takes more
    kinds = [name == "dense_layers" for name in model.stacks]
    gathered = max(_gathered(layer_weights(model, dense, 1), layout) for dense in kinds)
    layer = max(_layer(layout, dense) for dense in kinds)
    layer += BACKWARD * gathered_positions(layout)

    # Embedding and head are used by the main model and by each prediction module. Each use has a
    # gradient of its own until they are summed at the end.
    vocabulary = _gathered([weight for weight in listed if "vocab" in weight.axes], layout)
    vocabulary += model.mtp_depth * vocabulary / BACKWARD

    has_experts = model.layers > model.dense_layers
    vocab = min(model.vocab / layout.split("vocab"), config.kernel.vocab_chunk)
    return Memory(
        weights=stored,
        moments=BYTES[config.optimizer.moments]
        * sum(_moments(weight, layout) for weight in listed),
        average=stored if config.train.ema else 0.0,
        gradients=stored * (2 if accumulates else 1),
        gathered=gathered,
        vocabulary=vocabulary,
        kept=kept_bytes(layout, remat or config.kernel.remat),
        layer=layer,
        exchange=_exchange(layout) if has_experts else 0.0,
        logits=FLOAT32 * BACKWARD * min(layout.tokens, LOGIT_ROWS) * vocab,
    )


def stored_numbers(listed: Sequence[Weight], layout: Layout) -> float:
    """Return how many numbers of these weights each device stores."""
    shares = [weight.numbers / weight.on(layout.axes).stored for weight in listed]
    return sum(shares)


def kept_bytes(layout: Layout, remat: str) -> float:
    """Return the bytes of activations that a policy keeps for the backward pass."""
    model = layout.config.model
    total = 0.0
    for name, count in model.stacks.items():
        total += count * _kept(layout, remat, name == "dense_layers")
    all_dense = model.layers == model.dense_layers
    total += model.mtp_depth * (_kept(layout, remat, all_dense) + _width(layout))
    return total


def _kept(layout: Layout, remat: str, dense: bool) -> float:
    """Bytes that one layer keeps: its input, and what the policy adds."""
    model = layout.config.model
    per_token, per_row = _numbers(model, layout, dense)[remat]
    rows = 0.0 if dense else layout.expert_rows()
    return layout.element * (layout.tokens * (model.embed + per_token) + rows * per_row)


def _layer(layout: Layout, dense: bool) -> float:
    """Bytes of one layer's activations while its backward pass runs."""
    per_token, per_row = _numbers(layout.config.model, layout, dense)["none"]
    rows = 0.0 if dense else layout.expert_rows()
    return BACKWARD * layout.element * (layout.tokens * per_token + rows * per_row)


def _exchange(layout: Layout) -> float:
    """Bytes of rows as sent and as received, on the way there and on the way back."""
    model = layout.config.model
    sent = layout.tokens * model.experts_per_token
    if layout.has_two_hops:
        # Tokens as they cross, and rows of all tokens that may have arrived
        sent = layout.nodes * (2 * layout.tokens + sent)
    return BACKWARD * layout.element * model.embed * (sent + layout.expert_rows())


def _numbers(model: ModelConfig, layout: Layout, dense: bool) -> dict[str, tuple[float, float]]:
    """Return by policy the numbers kept per token and per row of the experts, in one layer."""
    heads = model.heads / layout.split("heads")
    latent = model.rotary
    key = model.nope + model.rotary
    if model.attention == "mla":
        latent += model.q_latent + model.kv_latent
        up = heads * (key + model.nope + model.value)
    else:
        latent = 0
        up = heads * (2 * key + model.value)

    # Products: attention's output, gate and up of a feed-forward layer, and its output
    if dense:
        hidden = model.hidden / layout.split("hidden")
    else:
        hidden = model.shared_experts * model.expert_hidden / layout.split("hidden")
    product = latent + 2 * model.embed + 2 * hidden
    row = 0.0 if dense else model.expert_hidden / layout.split("expert_hidden")

    # Everything: the norms' outputs, what is projected up, attention's result, hidden values
    everything = product + 2 * model.embed + up + heads * model.value + hidden
    return {
        "none": (everything, model.embed + 3 * row),
        "product": (product, 2 * row),
        "latent": (latent, 0.0),
        "full": (0.0, 0.0),
    }


def _gathered(listed: Sequence[Weight], layout: Layout) -> float:
    """Bytes of a layer's weights whole on the device, with their gradients before the sum."""
    total = 0.0
    for weight in listed:
        split = weight.on(layout.axes)
        if split.stored > split.computed or layout.element < FLOAT32:
            total += BACKWARD * layout.element * weight.numbers / split.computed
    return total


def _moments(weight: Weight, layout: Layout) -> float:
    """Return the numbers of the optimizer's moments of a weight on each device."""
    share = weight.numbers / weight.on(layout.axes).stored
    is_muon = layout.config.optimizer.name == "muon" and inner_matrix(weight.axes) is not None
    return share if is_muon else 2 * share


def _width(layout: Layout) -> float:
    """Bytes of one activation of the model's width."""
    return layout.element * layout.tokens * layout.config.model.embed
