"""Generating with a model: what lies on each device, how many sequences fit, and how long a token
takes.

The deployment is DeepSeek's own (V3 section 3.4): experts are split over all devices; each device
has the rest of the model whole, and sequences of its own.
"""

from dataclasses import dataclass

from seekjax.config import ModelConfig
from seekjax.model.attention import ATTENTION
from seekjax.model.count import parameters
from seekjax.plan.chips import Chip
from seekjax.plan.layout import BYTES
from seekjax.plan.meshes import USABLE

SCALE = 4  # bytes: a float32 scale
GROUP = 128  # numbers that share a scale in int4, along one axis
BLOCK = 128 * 128  # numbers that share a scale in fp8
DISPATCH, COMBINE = 1, 2  # bytes of a number: FP8 on the way to the experts, bfloat16 back
MICRO_BATCHES = 2  # in turn, so that one computes while the other is exchanged

# Bytes of a stored weight, with its share of the scales. int8 has a scale per column: next to none
STORED = {
    "float32": 4.0,
    "bfloat16": 2.0,
    "fp8": 1.0 + SCALE / BLOCK,
    "int8": 1.0,
    "int4": 0.5 + SCALE / GROUP,
}


@dataclass(frozen=True)
class Serving:
    """A model on some devices, generating."""

    model: ModelConfig
    chip: Chip
    devices: int
    weights: str  # how they are stored, of STORED
    cache: str  # dtype of the cache: float32, bfloat16 or fp8
    context: int  # tokens that a sequence may have
    batch: int = 0  # sequences per device; 0 = as many as fit

    @property
    def weight_bytes(self) -> float:
        """Bytes of weights on each device."""
        return STORED[self.weights] * (self._whole + self._experts)

    @property
    def all_bytes(self) -> float:
        """Bytes of the model, held once."""
        return STORED[self.weights] * parameters(self.model).total

    @property
    def token_bytes(self) -> float:
        """Bytes of cache per token."""
        layout = ATTENTION.find(self.model.attention).cache_layout(self.model, self.cache)
        total = 0
        for entry in layout.values():
            size = 1
            for length in entry.shape:
                size *= length
            total += size * _item(entry.dtype)
        return self.model.layers * total

    @property
    def room(self) -> float:
        """Bytes that the weights leave on each device; negative if they do not fit."""
        return USABLE * self.chip.memory - self.weight_bytes

    @property
    def largest_batch(self) -> int:
        """Sequences of `context` tokens that a device has room for."""
        return max(0, int(self.room // (self.token_bytes * self.context)))

    @property
    def sequences(self) -> int:
        """Sequences per device that are planned."""
        return self.batch or self.largest_batch

    @property
    def copies(self) -> int:
        """Copies of each token that travel; a shared expert is one more that all tokens visit."""
        return self.model.experts_per_token + self.model.shared_experts

    def memory_seconds(self) -> float:
        """Return the time of a token from what is read: weights in use, and every cache."""
        total = self.sequences * self.devices
        missed = (1 - self.model.experts_per_token / self.model.experts) ** total
        used = self._whole - parameters(self.model).embedding + self._experts * (1 - missed)
        cached = self.sequences * self.context * self.token_bytes
        return (STORED[self.weights] * used + cached) / self.chip.bandwidth

    def compute_seconds(self) -> float:
        """Return the time of a token at the chip's peak: products, and scores over latents."""
        count = parameters(self.model)
        pair = 2 * self.model.heads * (2 * self.model.kv_latent + self.model.rotary)
        if self.model.attention != "mla":
            pair = ATTENTION.find(self.model.attention).pair_flops(self.model)
        scores = self.model.layers * pair * self.context
        flops = 2 * count.active_without_embedding + scores
        return self.sequences * flops / self.chip.peak(self.dtype)

    @property
    def dtype(self) -> str:
        """The dtype of the products."""
        if self.weights == "fp8" and self.chip.fp8:
            return "fp8"
        return "bfloat16" if self.chip.name != "cpu" else "float32"

    def exchange_seconds(self) -> float | None:
        """Return the time of one exchange with the experts: there in FP8 and back in bfloat16.

        Every copy is counted over the slowest link in use, as 2505.09343 section 2.3.2 does; None
        if the table has no figure for it.
        """
        if self.devices == 1 or not self.expert_layers:
            return 0.0
        link = self.chip.inside if self.devices <= self.chip.node else self.chip.between
        if link is None:
            return None
        row = (DISPATCH + COMBINE) * self.model.embed
        return self.sequences * self.copies * row / link

    def exchange_bound(self) -> float | None:
        """Return the time of a token if the exchange alone decides.

        `sequences` are those of one of two micro-batches that take turns.
        """
        once = self.exchange_seconds()
        return None if once is None else MICRO_BATCHES * self.expert_layers * once

    @property
    def expert_layers(self) -> int:
        """Layers with experts."""
        return self.model.layers - self.model.dense_layers

    def seconds(self) -> float:
        """Return the time of a token: the slower of memory and compute, and then the exchange."""
        once = self.exchange_seconds() or 0.0
        own = max(self.memory_seconds(), self.compute_seconds())
        return own + self.expert_layers * once

    @property
    def _experts(self) -> float:
        """Numbers of routed experts on each device: an expert is not cut."""
        each = -(-self.model.experts // self.devices)
        return self.expert_layers * each * parameters(self.model).expert

    @property
    def _whole(self) -> int:
        """Numbers of everything else, which each device has."""
        count = parameters(self.model)
        return count.total - self.expert_layers * self.model.experts * count.expert


def _item(dtype: str) -> int:
    """Return the bytes of a number of a cache's array."""
    return 1 if dtype.startswith("float8") else BYTES[dtype]
