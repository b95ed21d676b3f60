"""Optimizers by name: AdamW as DeepSeek trained with it, and Muon for the matrices.

V3 section 4.2; Muon: 2502.16982. An entry of OPTIMIZERS, or a `module:name` from outside, is a
function (config, axes) -> optax.GradientTransformation that scales the clipped gradients. `axes`
are the logical axes of each parameter, as "embed heads nope". Weight decay and the learning rate
follow for all of them, in `make_optimizer`.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from seekjax.axes import decays, inner_matrix
from seekjax.config import Config, OptimizerConfig
from seekjax.registry import Registry
from seekjax.train.schedule import learning_rate
from seekjax.train.skip import recent_updates

Scaling = Callable[[OptimizerConfig, Any], optax.GradientTransformation]


def make_optimizer(config: Config, axes: Any) -> optax.GradientTransformation:
    """Return the chain: clip by global norm, scale, decay, follow the learning rate.

    axes: the logical axes of each parameter.
    """
    settings = config.optimizer
    scale = OPTIMIZERS.find(settings.name)
    clip = optax.clip_by_global_norm(settings.clip) if settings.clip else optax.identity()
    parts = [
        clip,
        scale(settings, axes),
        optax.add_decayed_weights(settings.weight_decay, jax.tree.map(decays, axes)),
        optax.scale_by_learning_rate(learning_rate(config)),
    ]
    if config.train.spike:
        parts.append(recent_updates())
    return optax.chain(*parts)


def adam(settings: OptimizerConfig, axes: Any) -> optax.GradientTransformation:
    """Return Adam's scaling, the same for every parameter."""
    return optax.scale_by_adam(settings.beta1, settings.beta2, settings.eps)


def muon(settings: OptimizerConfig, axes: Any) -> optax.GradientTransformation:
    """Return Muon's scaling for matrices, with Adam's for embedding, head and norms."""
    return optax.contrib.muon(
        -1.0,  # cancels the sign that Muon applies: the rate follows in the chain, as for Adam
        beta=0.95,
        consistent_rms=0.2,
        adam_b1=settings.beta1,
        adam_b2=settings.beta2,
        eps=settings.eps,
        muon_weight_dimension_numbers=jax.tree.map(muon_axes, axes),
    )


def muon_axes(axes: str) -> optax.contrib.MuonDimensionNumbers | None:
    """Return the axes that Muon multiplies from and to; None for the weights that Adam scales."""
    parts = inner_matrix(axes)
    if parts is None:
        return None
    return optax.contrib.MuonDimensionNumbers(parts.inputs, parts.outputs)


OPTIMIZERS: Registry[Scaling] = Registry("optimizer", {"adamw": adam, "muon": muon})
