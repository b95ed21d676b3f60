"""AdamW as DeepSeek trained with it, and Muon for the matrices (V3 section 4.2; Muon: 2502.16982)."""

from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers

from seekjax.config import Config

from .schedule import learning_rate


def make_optimizer(config: Config, axes: Any) -> optax.GradientTransformation:
    """Clip by global norm, scale by Adam or Muon, decay, follow the learning rate. `axes`: the logical axes of each parameter."""
    o = config.optimizer
    scale = optax.scale_by_adam(o.beta1, o.beta2, o.eps)
    if o.name == "muon":
        matrices = jax.tree.map(matrix, axes)
        labels = jax.tree.map(lambda numbers: "adam" if numbers is None else "muon", matrices, is_leaf=lambda x: x is None or is_matrix(x))
        muon = optax.chain(optax.contrib.scale_by_muon(beta=0.95, weight_dimension_numbers=only(matrices)),
                           optax.contrib.scale_by_shape(weight_dimension_numbers=only(matrices), consistent_rms=0.2))
        scale = optax.partition({"muon": muon, "adam": scale}, labels)
    return optax.chain(optax.clip_by_global_norm(o.clip), scale,
                       optax.add_decayed_weights(o.weight_decay, jax.tree.map(decays, axes)),
                       optax.scale_by_learning_rate(learning_rate(config)))


def decays(axes: str) -> bool:
    """Weight decay is for matrices, stacked or not; a norm's scale has one axis beside the layers."""
    return len([name for name in axes.split() if name != "layers"]) > 1


def is_matrix(x: Any) -> bool:
    return isinstance(x, MuonDimensionNumbers)


def matrix(axes: str) -> MuonDimensionNumbers | None:
    """Which axes Muon multiplies from and to; None for embedding, head and norms, which stay with Adam.

    The axes after layers and experts go from the first to the rest, or from all but the last to the width they return to.
    """
    names = axes.split()
    if "vocab" in names or not decays(axes):
        return None
    inner = [i for i, name in enumerate(names) if name not in ("layers", "experts")]
    if "experts" in names and len(inner) == 1:  # the router: embed to experts
        inner.append(names.index("experts"))
    split = -1 if names[inner[-1]] == "embed" else 1
    return MuonDimensionNumbers(tuple(inner[:split]), tuple(inner[split:]))


def only(matrices: Any):
    """The same tree for the subset of parameters that optax.partition shows its inner transformations."""
    def pick(params):
        return jax.tree.map(lambda p, numbers: p if isinstance(p, optax.MaskedNode) else numbers, params, matrices,
                            is_leaf=lambda x: isinstance(x, optax.MaskedNode))
    return pick
