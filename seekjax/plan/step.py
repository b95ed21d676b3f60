"""The time of a training step from a roofline of compute, memory and links."""

from dataclasses import dataclass

from seekjax.plan.chips import Chip
from seekjax.plan.counts import forward_flops, training_flops
from seekjax.plan.layout import Layout
from seekjax.plan.memory import FLOAT32, stored_numbers
from seekjax.plan.traffic import Transfer, transfers
from seekjax.plan.weights import combined

OPTIMIZER_PASSES = 7  # float32 numbers per weight: read weight, moments, gradient; write three


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step, by what takes them, as if each were alone."""

    compute: float  # at the chip's peak, with what is computed again
    memory: float  # weights read in every pass, and the optimizer's numbers
    inside: float  # links within a node
    between: float  # links between nodes
    left_out: tuple[str, ...] = ()  # collectives over a link without a figure
    uncounted: float = 0.0  # bytes that they send over it

    @property
    def parts(self) -> dict[str, float]:
        """The seconds by name."""
        return {
            "compute": self.compute,
            "memory": self.memory,
            "links inside a node": self.inside,
            "links between nodes": self.between,
        }

    @property
    def overlapped(self) -> float:
        """Seconds if everything runs at once: the slowest part."""
        return max(self.parts.values())

    @property
    def serial(self) -> float:
        """Seconds if nothing overlaps; memory is read while the chip computes."""
        return max(self.compute, self.memory) + self.inside + self.between

    @property
    def bound(self) -> str:
        """The part that takes longest."""
        return max(self.parts, key=lambda name: self.parts[name])


def step_time(layout: Layout, chip: Chip) -> StepTime:
    """Return the seconds of one optimizer step."""
    config = layout.config
    sent = transfers(layout, chip.node)
    flops = layout.step_tokens / layout.devices * flops_with_recomputation(layout)
    left_out = [each for each in sent if each.seconds(chip) is None]
    uncounted = [each.uncounted(chip) for each in left_out]
    return StepTime(
        compute=flops / chip.peak(config.kernel.dtype),
        memory=_bytes_of_weights(layout) / chip.bandwidth,
        inside=_link_seconds(sent, "inside", chip),
        between=_link_seconds(sent, "between", chip),
        left_out=tuple(each.name for each in left_out),
        uncounted=sum(uncounted),
    )


def flops_with_recomputation(layout: Layout) -> float:
    """Return the FLOPs per token of a step, with what the backward pass computes again.

    Nothing under remat none, the scores of attention under product, else all layers once more.
    """
    config = layout.config
    parts = forward_flops(config.model, config.data.sequence)
    again = {"none": 0.0, "product": parts["attention, scores"]}
    layers = sum(parts.values()) - parts["head"]
    return training_flops(config.model, config.data.sequence) + again.get(
        config.kernel.remat, layers
    )


def _bytes_of_weights(layout: Layout) -> float:
    """Return the bytes of weights that a step moves between memory and chip."""
    listed = combined(layout.config.model)
    whole = 0.0
    for weight in listed:
        whole += weight.numbers / weight.on(layout.axes).computed
    passes = 2 if layout.config.kernel.remat == "none" else 3
    read = layout.micro_batches * passes * layout.element * whole
    return read + OPTIMIZER_PASSES * FLOAT32 * stored_numbers(listed, layout)


def _link_seconds(sent: list[Transfer], link: str, chip: Chip) -> float:
    """Return the seconds that all collectives take on one kind of link, without those left out."""
    speed = getattr(chip, link)
    if not speed:
        return 0.0
    sizes = [getattr(transfer, link) for transfer in sent]
    return sum(sizes) / speed
