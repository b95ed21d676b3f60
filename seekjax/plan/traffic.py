"""What the devices send each other in a training step, over which link, and how long that takes.

Bytes are those that one device receives. A collective over several nodes fetches each byte from
another node once per node, shared out over the node's devices, and spreads it inside. The exchange
of tokens counts rows that exist, at a balanced load, not the room of its buffers.
"""

import math
from dataclasses import dataclass

from seekjax.config import ModelConfig
from seekjax.plan.chips import Chip
from seekjax.plan.layout import Layout, gathered_positions
from seekjax.plan.weights import combined
from sharding.parts import Span, span

# Passes over a layer's weights in a micro-batch, for which they are gathered: forward and backward
GATHERS = 2


@dataclass(frozen=True)
class Transfer:
    """One kind of collective in a step."""

    name: str
    inside: float  # bytes that a device receives within its node, per step
    between: float  # the same from other nodes
    layers: int  # layers, times micro-batches, that share them; 0 = not per layer

    @property
    def bytes(self) -> float:
        """Bytes per device and step."""
        return self.inside + self.between

    @property
    def per_layer(self) -> float | None:
        """Bytes per device, layer and micro-batch."""
        return self.bytes / self.layers if self.layers else None

    def uncounted(self, chip: Chip) -> float:
        """Return the bytes over links for which the table has no figure."""
        inside = 0.0 if chip.inside else self.inside
        return inside + (0.0 if chip.between else self.between)

    def seconds(self, chip: Chip) -> float | None:
        """Return the time at the links' speed; None if the table has no figure for a link."""
        total = 0.0
        for size, speed in ((self.inside, chip.inside), (self.between, chip.between)):
            if size and speed is None:
                return None
            total += size / speed if speed else 0.0
        return total


def transfers(layout: Layout, node: int) -> list[Transfer]:
    """Return the collectives of a step on nodes of this many devices; those without bytes not."""
    model = layout.config.model
    passes = layout.micro_batches
    visits = (model.layers + model.mtp_depth) * passes
    gathers = _gathered_bytes(layout, node)

    def weights_moved(name: str, times: int) -> Transfer:
        inside, between = (times * passes * size for size in gathers)
        return Transfer(name, inside, between, visits)

    # Replicas that hold equal weights sum their gradients in every micro-batch
    inside, between = spread(_own_gradient(layout), layout.replicas, node)
    listed = [
        weights_moved("gather weights", GATHERS),
        weights_moved("sum gradients into parts", 1),
        Transfer("sum gradients over replicas", 2 * passes * inside, 2 * passes * between, visits),
    ]

    # Tensor: the output of attention and that of the feed-forward layer, and both gradients
    again = 0 if layout.config.kernel.remat in ("none", "product") else 1
    width = layout.element * layout.tokens * model.embed
    inside, between = spread(width, layout.tensor, node)
    times = 2 * (4 + again) * visits
    listed.append(Transfer("sum parts of a width", times * inside, times * between, visits))

    listed += [exchange(layout, node), gather_positions(layout, node)]
    return [transfer for transfer in listed if transfer.bytes]


def gather_positions(layout: Layout, node: int) -> Transfer:
    """Return what attention gathers of the other devices' positions in a step.

    They travel for the forward pass and for the backward pass, which computes it again, and their
    gradients come back.
    """
    model = layout.config.model
    visits = (model.layers + model.mtp_depth) * layout.micro_batches
    times = 2 if layout.config.kernel.remat == "none" else 3
    inside, between = spread(gathered_positions(layout), layout.context, node)
    return Transfer(
        "gather latents of other positions",
        times * visits * inside,
        times * visits * between,
        visits,
    )


def exchange(layout: Layout, node: int, copies: float | None = None) -> Transfer:
    """Return the exchange of tokens with their experts and back, in a step.

    copies: of a token that cross to other nodes; default: what the mesh and kernel.dispatch make
    it. In two hops they are those of `copies_between`, flat is one for each expert there.
    """
    model, peers = layout.config.model, layout.peers
    expert_layers = model.layers - model.dense_layers
    visits = layout.micro_batches * (expert_layers + (model.mtp_depth if expert_layers else 0))
    inside = peers.inside(node)

    words = "flat"
    if copies is None and layout.has_two_hops:
        words = "in two hops"
        copies = min(copies_between(model, peers.size // inside).values())

    # There and back, both again for the gradients, and there once more for what was not kept
    times = 4 if layout.config.kernel.remat == "none" else 5
    row = layout.element * layout.tokens * model.embed * times * visits
    near = model.experts_per_token * (inside - 1) / peers.size
    far = model.experts_per_token * (peers.size - inside) / peers.size
    if copies is not None and copies < far:
        # what arrives from another node is fanned out inside this one
        near, far = near + far * (inside - 1) / inside, copies
    return Transfer(f"exchange tokens, {words}", row * near, row * far, visits)


def copies_between(model: ModelConfig, nodes: int) -> dict[str, float]:
    """Return how many copies of a token cross to other nodes, by the kind of exchange.

    flat: one per chosen expert; de-duplicated: one per node with a chosen expert, choices random;
    node-limited: at most one for each of the groups that a token may choose (V3 section 2.1.2).
    """
    others = (nodes - 1) / nodes
    copies = {"flat": model.experts_per_token * others}
    if nodes < 2 or model.experts % nodes:
        return copies

    away = model.experts - model.experts // nodes
    missed = math.comb(away, model.experts_per_token) / math.comb(
        model.experts, model.experts_per_token
    )
    copies["de-duplicated"] = nodes * (1 - missed) * others
    if model.groups_per_token < model.expert_groups and model.expert_groups % nodes == 0:
        limit = min(nodes, model.groups_per_token, model.experts_per_token)
        copies["node-limited"] = min(limit * others, copies["de-duplicated"])
    return copies


def spread(size: float, joined: Span, node: int) -> tuple[float, float]:
    """Return the bytes that a device receives within its node and from others.

    For a gather whose result is `size` bytes, or the sum into parts that is its gradient.
    """
    inside = joined.inside(node)
    nodes = joined.size / inside
    return size * (inside - 1) / inside, size * (nodes - 1) / nodes / inside


def _gathered_bytes(layout: Layout, node: int) -> tuple[float, float]:
    """Return the bytes that one gather of all weights brings to a device, inside and between."""
    inside = between = 0.0
    for weight in combined(layout.config.model):
        split = weight.on(layout.axes)
        whole = layout.element * weight.numbers / split.computed
        near, far = spread(whole, span(split.gathered, layout.sizes), node)
        inside, between = inside + near, between + far
    return inside, between


def _own_gradient(layout: Layout) -> float:
    """Return the bytes of the part of the gradient that a device holds."""
    total = 0.0
    for weight in combined(layout.config.model):
        total += layout.element * weight.numbers / weight.on(layout.axes).stored
    return total
