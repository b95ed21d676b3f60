"""Optimizers by name: AdamW as DeepSeek trained with it, and Muon for the matrices.

V3 section 4.2; Muon: 2502.16982. An entry of OPTIMIZERS, or a `module:name` from outside, is a
function (config, axes) -> optax.GradientTransformation that scales the clipped gradients. `axes`
are the logical axes of each parameter, as "embed heads nope". Weight decay and the learning rate
follow for all of them, in `make_optimizer`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
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
    scaling = scale(settings, axes)
    if settings.moments == "bfloat16":
        scaling = in_bfloat16(scaling)
    clip = optax.clip_by_global_norm(settings.clip) if settings.clip else optax.identity()
    parts = [
        clip,
        scaling,
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


def in_bfloat16(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Return the same scaling with its moments in bfloat16 between steps (V3 section 3.3.3).

    A step computes with float32 copies of them.
    """

    def cast(state: optax.OptState, dtype: Any) -> optax.OptState:
        def of_array(x: jax.Array) -> jax.Array:
            return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

        return jax.tree.map(of_array, state)

    def init(params: optax.Params) -> optax.OptState:
        return cast(inner.init(params), jnp.bfloat16)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, state = inner.update(updates, cast(state, jnp.float32), params)
        return updates, cast(state, jnp.bfloat16)

    return optax.GradientTransformation(init, update)


OPTIMIZERS: Registry[Scaling] = Registry("optimizer", {"adamw": adam, "muon": muon})
