"""Every weight of a model with its logical axes, from the config alone.

The modules in seekjax/model declare the weights; tests/plan/test_memory.py holds this list to what
they declare.
"""

import math
from collections import Counter
from dataclasses import dataclass
from functools import cache, lru_cache

from seekjax.config import ModelConfig
from seekjax.model.attention import ATTENTION
from seekjax.placement import AXES
from sharding.parts import Parts, parts

Axes = tuple[tuple[str, int], ...]  # the sizes of the mesh axes, the outermost first


@dataclass(frozen=True)
class Weight:
    """Some equal arrays: one per layer of a stack, or a single one."""

    axes: str  # as "embed heads nope", without that of the layers
    size: int  # numbers in one of them
    count: int = 1

    @property
    def numbers(self) -> int:
        """Numbers in all of them."""
        return self.size * self.count

    def on(self, mesh: Axes) -> Parts:
        """Return the parts that a mesh of these sizes splits each array into."""
        return _parts(self.axes, mesh)


@lru_cache(2**16)
def _parts(axes: str, mesh: Axes) -> Parts:
    return parts(axes, dict(mesh), AXES)


@cache
def combined(model: ModelConfig) -> tuple[Weight, ...]:
    """Return the weights of a model by their axes, as if those with equal axes were one array."""
    numbers: Counter[str] = Counter()
    for weight in weights(model):
        numbers[weight.axes] += weight.numbers
    return tuple(Weight(axes, size) for axes, size in numbers.items())


def weights(model: ModelConfig) -> list[Weight]:
    """Return the weights of a model, prediction modules included, routing biases left out."""
    listed = [
        _weight(model, "vocab embed"),
        _weight(model, "embed vocab"),
        _weight(model, "embed"),
    ]
    for name, count in model.stacks.items():
        listed += layer_weights(model, name == "dense_layers", count)

    # A prediction module joins two widths, has three norms, and a layer of the last kind
    depth = model.mtp_depth
    if depth:
        listed += [_weight(model, "embed embed", 2 * depth), _weight(model, "embed", 3 * depth)]
        listed += layer_weights(model, model.layers == model.dense_layers, depth)
    return listed


def layer_weights(model: ModelConfig, dense: bool, count: int) -> list[Weight]:
    """Return the weights of `count` layers of one kind."""
    listed = [_weight(model, "embed", 2 * count), *_attention(model, count)]
    if dense:
        return listed + _swiglu(model, "hidden", model.hidden, count)

    listed += [
        _weight(model, "embed experts", count),
        _weight(model, "experts embed expert_hidden", 2 * count),
        _weight(model, "experts expert_hidden embed", count),
    ]
    if model.shared_experts:
        width = model.shared_experts * model.expert_hidden
        listed += _swiglu(model, "hidden", width, count)
    return listed


def _swiglu(model: ModelConfig, axis: str, width: int, count: int) -> list[Weight]:
    """Return gate, up and down of a feed-forward layer of this width."""
    size = model.embed * width
    return [Weight(f"embed {axis}", size, 2 * count), Weight(f"{axis} embed", size, count)]


def _attention(model: ModelConfig, count: int) -> list[Weight]:
    """Return the weights of an attention layer.

    Those of a kind from outside are one vector, split as its widths would be.
    """
    if model.attention == "mha":
        axes = ["embed heads rotary"] * 2 + ["embed heads value", "heads value embed"]
    elif model.attention == "mla":
        axes = ["embed kv_latent", "embed rotary", "kv_latent"]
        axes += ["kv_latent heads nope", "kv_latent heads value", "heads value embed"]
        source = "q_latent" if model.q_latent else "embed"
        axes += [f"{source} heads nope", f"{source} heads rotary"]
        if model.q_latent:
            axes += ["embed q_latent", "q_latent"]
    else:
        size = ATTENTION.find(model.attention).parameters(model)
        return [Weight("embed", size, count)]
    return [_weight(model, names, count) for names in axes]


def _weight(model: ModelConfig, axes: str, count: int = 1) -> Weight:
    sizes = [model.size(axis) for axis in axes.split()]
    return Weight(axes, math.prod(sizes), count)
