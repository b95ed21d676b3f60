"""Which updates are skipped: those whose loss or gradient is not finite, or far above recent ones.

All of it runs inside the jitted step, on numbers that every device holds whole, so that all devices
and processes skip the same updates. What follows from skipped updates is in seekjax/train/guard.py.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

WINDOW = 64  # made updates that a new one is compared with
LEAST = 16  # of them, before one can be called a spike


class Recent(NamedTuple):
    """The loss and gradient norm of recent updates, the newest last; nan before there are any."""

    recent: Any  # [2, WINDOW]; of a state of shapes, its shape


def no_recent(params: Any = None) -> Recent:
    """Return the recent updates of a run that has made none."""
    return Recent(jnp.full((2, WINDOW), jnp.nan, jnp.float32))


def recent_updates() -> optax.GradientTransformation:
    """Return a part of an optimizer that changes nothing and keeps the recent updates.

    The step fills it in (`with_newest`), because an optimizer does not see the loss.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return updates, state

    return optax.GradientTransformation(no_recent, update)


def is_good(loss: jax.Array, norm: jax.Array) -> jax.Array:
    """Return whether loss and gradient norm are finite."""
    return jnp.isfinite(loss) & jnp.isfinite(norm)


def is_spike(
    loss: jax.Array,
    norm: jax.Array,
    recent: Recent,
    factor: float,
) -> jax.Array:
    """Return whether loss or gradient norm lie far above the recent ones.

    The norm does if it exceeds `factor` times the recent median. The loss may be near 0 or below
    it, so it is measured by its own spread: it does if it exceeds the median by `factor` times the
    median deviation from it.
    """
    losses, gradient_norms = recent.recent
    enough = jnp.isfinite(losses).sum() >= LEAST
    median_loss, median_norm = jnp.nanmedian(losses), jnp.nanmedian(gradient_norms)
    spread = jnp.nanmedian(jnp.abs(losses - median_loss))

    high_loss = loss > median_loss + factor * spread
    high_norm = norm > factor * median_norm
    return enough & (high_loss | high_norm)


def with_newest(recent: Recent, loss: jax.Array, norm: jax.Array) -> Recent:
    """Return the recent updates with a new one in place of the oldest."""
    new = jnp.stack([loss, norm]).astype(jnp.float32)
    return Recent(jnp.concatenate([recent.recent[:, 1:], new[:, None]], axis=1))


def keep_unless(good: jax.Array, after: Any, before: Any) -> Any:
    """Return the state after an update if the update is good, and else the state before it.

    The learning rate follows the step, not the updates: its count goes on either way.
    """

    def is_schedule(part: Any) -> bool:
        return isinstance(part, optax.ScaleByScheduleState)

    def choose(new: Any, old: Any) -> Any:
        if new is old or is_schedule(new):
            return new
        return jnp.where(good, new, old)

    return jax.tree.map(choose, after, before, is_leaf=is_schedule)


def norms(grads: Any) -> jax.Array:
    """Return the norm of each parameter's gradient, in the order of the tree's leaves."""
    return jnp.stack([optax.tree.norm(grad) for grad in jax.tree.leaves(grads)])


def names(params: Any) -> list[str]:
    """Return the name of each parameter, in the order of the tree's leaves."""
    paths = jax.tree_util.tree_leaves_with_path(params)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
