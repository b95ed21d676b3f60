"""An optimizer from outside the package: `--optimizer.name tests.scripts.own_optimizer:factored`.

Its second moments have another shape than the weights, so the run must not place them alike.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from seekjax.config import OptimizerConfig


class FactoredState(NamedTuple):
    """Moments of every weight."""

    momentum: Any  # as the weights
    rows: Any  # mean square of each row: without the last axis
    columns: Any  # mean square of each column: without the last axis but one


def factored(settings: OptimizerConfig, axes: Any) -> optax.GradientTransformation:
    """Return Adam whose second moment is the product of rows and columns (1804.04235)."""

    def zeros(reduce):
        return lambda params: jax.tree.map(lambda w: jnp.zeros_like(reduce(w)), params)

    def init(params):
        return FactoredState(
            momentum=zeros(lambda w: w)(params),
            rows=zeros(lambda w: w.mean(-1))(params),
            columns=zeros(column_mean)(params),
        )

    def update(grads, state, params=None):
        def average(decay, old, new):
            return jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, old, new)

        squares = jax.tree.map(lambda g: g**2 + 1e-30, grads)
        state = FactoredState(
            momentum=average(settings.beta1, state.momentum, grads),
            rows=average(settings.beta2, state.rows, jax.tree.map(lambda s: s.mean(-1), squares)),
            columns=average(settings.beta2, state.columns, jax.tree.map(column_mean, squares)),
        )
        return jax.tree.map(scaled, *state), state

    return optax.GradientTransformation(init, update)


def column_mean(x: jax.Array) -> jax.Array:
    """Return the mean over rows; of a vector, the vector itself."""
    return x.mean(-2) if x.ndim > 1 else x


def scaled(momentum: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Return the momentum over the root of the factored second moment."""
    if momentum.ndim == 1:
        return momentum / (jnp.sqrt(columns) + 1e-8)
    total = rows.mean(-1, keepdims=True)[..., None]
    square = rows[..., None] * columns[..., None, :] / total
    return momentum / (jnp.sqrt(square) + 1e-8)
