"""A run on a mesh, in numbers: how many devices split what, how many tokens each has at once."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

from seekjax.config import Config
from seekjax.errors import ConfigError, need
from seekjax.model.attention import ATTENTION
from seekjax.model.check import check_context, field_of, split_sizes
from seekjax.placement import AXES
from seekjax.plan.weights import Axes
from sharding.mesh_config import TWO_HOPS
from sharding.parts import Sizes, Span, nodes_of, span, split_along, split_parts

BYTES = {"float32": 4, "bfloat16": 2, "fp8": 1}


@dataclass(frozen=True)
class Layout:
    """A config on the mesh axes of these sizes."""

    config: Config
    axes: Axes  # the outermost first

    @cached_property
    def sizes(self) -> Sizes:
        """The sizes of the mesh axes by name."""
        return dict(self.axes)

    @property
    def devices(self) -> int:
        """Devices of the mesh."""
        return math.prod(self.sizes.values())

    def split(self, name: str) -> int:
        """Return into how many parts the mesh splits a logical axis."""
        return _split(name, self.axes)

    @cached_property
    def sequences(self) -> float:
        """Sequences of one forward pass on each device."""
        return self.config.train.rows / self.split("batch")

    @property
    def tokens(self) -> float:
        """Tokens of one forward pass on each device."""
        return self.sequences * self.config.data.sequence / self.context.size

    @property
    def micro_batches(self) -> int:
        """Forward passes of a step."""
        return self.config.train.batch // self.config.train.rows

    @property
    def step_tokens(self) -> int:
        """Tokens of a step, over all devices."""
        return self.config.train.batch * self.config.data.sequence

    @cached_property
    def peers(self) -> Span:
        """The devices that share out the experts."""
        return span(split_along("experts", AXES), self.sizes)

    @property
    def has_two_hops(self) -> bool:
        """Return whether tokens cross between nodes once each, and are passed on within them."""
        dispatch = self.config.kernel.dispatch
        return self.nodes > 1 and (dispatch == "auto" or dispatch in TWO_HOPS)

    @property
    def nodes(self) -> int:
        """Nodes that share out the experts, as the mesh has them."""
        return nodes_of(self.sizes)

    @cached_property
    def replicas(self) -> Span:
        """The devices that hold equal weights and see other sequences."""
        names = [name for name in split_along("batch", AXES) if name not in self._sharded]
        return span(tuple(names), self.sizes)

    @cached_property
    def context(self) -> Span:
        """The devices that share out the positions of a sequence."""
        return span(split_along("sequence", AXES), self.sizes)

    @cached_property
    def tensor(self) -> Span:
        """The devices that compute parts of one width."""
        return span(split_along("heads", AXES), self.sizes)

    @property
    def _sharded(self) -> tuple[str, ...]:
        """The mesh axes along which weights are stored in parts."""
        return split_along("embed", AXES)

    @property
    def element(self) -> int:
        """Bytes of a number of activations and of gathered weights."""
        return BYTES[self.config.kernel.compute_dtype]

    def expert_rows(self) -> float:
        """Return the rows (token, choice) that a device's experts have room for.

        Without a capacity that is the worst case of the exchanges `static` and `ragged`.
        """
        model, peers = self.config.model, self.peers.size
        chosen = self.tokens * model.experts_per_token
        if peers == 1:
            return chosen
        room = self.tokens * min(model.experts_per_token, model.experts // peers)
        if self.config.kernel.capacity:
            room = min(room, max(1.0, self.config.kernel.capacity * chosen / peers))
        return peers * room


def gathered_positions(layout: Layout) -> float:
    """Return the bytes that attention in one layer gathers of whole sequences, 0 if none is split.

    A kind of attention sends what its cache would hold: MLA the latent and the rotary key, 576
    numbers per token in V3.
    """
    model = layout.config.model
    if layout.context.size == 1:
        return 0.0
    sent = ATTENTION.find(model.attention).cache_elements(model)
    return layout.element * layout.tokens * layout.context.size * sent


@lru_cache(2**16)
def _split(name: str, mesh: Axes) -> int:
    return split_parts(name, dict(mesh), AXES)


def lay_out(config: Config, sizes: Sizes) -> Layout:
    """Return the run on this mesh. Raises ConfigError for an axis that does not divide."""
    layout = Layout(config, tuple(sizes.items()))
    axes = {"batch": config.train.rows, **split_sizes(config.model)}
    check_context(config, layout.context.size)

    for name, size in axes.items():
        count = layout.split(name)
        setting = field_of(config.model, name)
        if name == "batch":
            setting = "train.micro_batch (train.batch where that is 0)"
        if size % count:
            raise ConfigError(
                f"{setting} is {size}, which the mesh cannot split into {count} equal parts: make "
                f"it a multiple of {count}, or an axis of --mesh smaller."
            )

    need(
        config.train.batch % config.train.rows == 0,
        f"train.batch {config.train.batch} is not a multiple of train.micro_batch "
        f"{config.train.rows}.",
    )
    return layout
