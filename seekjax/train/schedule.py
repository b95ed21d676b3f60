"""What moves during a run: the batch, the learning rate, the bias rate and the MTP weight (V3
section 4.2).

Everything is a function of the share of training tokens seen, as the papers state it. While the
batch grows, tokens are not proportional to steps; the growth is a staircase whose few steps are
kept in a table, so every function here is a look-up.
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp

from seekjax.config import Config, Schedule, TrainConfig


def multiplier(schedule: Schedule, share: jax.Array | float) -> jax.Array:
    """Return the schedule's value at a share (0 to 1) of the training tokens, float32.

    A path in the first piece starts from 1.
    """
    share = jnp.asarray(share, jnp.float32)
    value = jnp.float32(schedule[-1].to)

    starts = [0.0] + [piece.until for piece in schedule]
    before = [1.0] + [piece.to for piece in schedule]
    for i in reversed(range(len(schedule))):
        piece = schedule[i]
        done = (share - starts[i]) / (piece.until - starts[i])
        to_go = {
            "constant": 0.0,
            "linear": 1 - done,
            "cosine": (1 + jnp.cos(jnp.pi * done)) / 2,
        }[piece.shape]
        here = piece.to + (before[i] - piece.to) * to_go
        value = jnp.where(share < piece.until, here, value)
    return value


@lru_cache
def stairs(train: TrainConfig) -> tuple[tuple[int, int, int], ...]:
    """The growing batch as a staircase: (first step, sequences seen before it, sequences per step)
    of each stair.

    The batch follows the line `start + (batch - start) * seen / ramp` to the nearest micro-batch. A
    run of `steps` steps sees, with d seen / d step = batch, `ramp * ln(batch / start) / (batch -
    start) + (all - ramp) / batch` = steps, which gives `all` sequences in closed form, and with it
    the `ramp = batch_ramp * all` over which the batch grows.
    """
    start, batch, unit = (
        train.batch_start or train.batch,
        train.batch,
        train.rows,
    )
    if start > batch or start % unit or batch % unit:
        raise ValueError(
            f"train.batch_start {start} and train.batch {batch} must be multiples of "
            f"train.micro_batch {unit}, the first not above the second."
        )
    rise, rows, step, seen = batch - start, [], 0, 0
    if rise:
        everything = train.steps / (
            train.batch_ramp * math.log(batch / start) / rise + (1 - train.batch_ramp) / batch
        )
        for size in range(start, batch, unit):
            end = (
                train.batch_ramp * everything * (size + unit / 2 - start) / rise
            )  # where the line is halfway to the next stair
            if (count := math.ceil((end - seen) / size)) > 0:
                rows.append((step, seen, size))
                step, seen = step + count, seen + count * size
    return (*rows, (step, seen, batch))


def batch_at(train: TrainConfig, step: int) -> int:
    """Sequences in optimizer step `step`, counted from 0."""
    return _stair(train, step)[2]


def tokens_at(config: Config, step: int) -> int:
    """Tokens seen before optimizer step `step`; `tokens_at(config, config.train.steps)` is the
    whole run.
    """
    first, seen, size = _stair(config.train, step)
    return (seen + (step - first) * size) * config.data.sequence


def share_at(config: Config) -> Callable[[jax.Array], jax.Array]:
    """The function from a step, traced or not, to the share of the training tokens seen before it,
    float32.
    """
    steps = config.train.steps
    knots = sorted({first for first, _, _ in stairs(config.train) if first < steps} | {steps})
    shares = [tokens_at(config, knot) / tokens_at(config, steps) for knot in knots]
    return lambda step: jnp.interp(
        jnp.asarray(step, jnp.float32),
        jnp.array(knots, jnp.float32),
        jnp.array(shares, jnp.float32),
    )


def learning_rate(config: Config) -> Callable[[jax.Array], jax.Array]:
    """The function from a step to its learning rate: linear warm-up, whose last step is at the
    peak, times the schedule.
    """
    rate, warmup = config.optimizer, max(config.optimizer.warmup, 1)
    follow = _follow(config, rate.learning_rate, rate.schedule)
    return lambda step: (
        jnp.minimum(1.0, (jnp.asarray(step, jnp.float32) + 1) / warmup) * follow(step)
    )


def balance_rate(config: Config) -> Callable[[jax.Array], jax.Array]:
    """The function from a step to gamma, how far the routing bias moves in it."""
    return _follow(config, config.train.balance_rate, config.train.balance_schedule)


def mtp_weight(config: Config) -> Callable[[jax.Array], jax.Array]:
    """The function from a step to lambda, the weight of the multi-token prediction loss."""
    return _follow(config, config.train.mtp_weight, config.train.mtp_schedule)


def _follow(config: Config, peak: float, schedule: Schedule) -> Callable[[jax.Array], jax.Array]:
    share = share_at(config)
    return lambda step: peak * multiplier(schedule, share(step))


def _stair(train: TrainConfig, step: int) -> tuple[int, int, int]:
    rows = stairs(train)
    return rows[bisect_right(rows, step, key=lambda row: row[0]) - 1]
