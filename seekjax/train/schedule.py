"""What moves with the tokens seen: batch size, learning rate, gamma of the balance bias, lambda.

All schedules are piecewise in the share of the training tokens seen before a step (V3 section 4.2),
so that a batch that grows does not change them.
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from seekjax.config import Config, Schedule, TrainConfig

OfStep = Callable[[ArrayLike], jax.Array]  # from a step, traced or not, to a float32


class Stair(NamedTuple):
    """Steps with one batch size."""

    first: int  # step, counted from 0
    seen: int  # sequences before it
    size: int  # sequences per step


def multiplier(schedule: Schedule, share: jax.Array | float) -> jax.Array:
    """Return the schedule's value at a share (0 to 1) of the training tokens, float32.

    A path in the first piece starts from 1.
    """
    share = jnp.asarray(share, jnp.float32)

    # The share depends on the run's length; without it a longer run has the same program.
    if {piece.to for piece in schedule} == {1.0}:
        return jnp.ones_like(share)

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
def stairs(train: TrainConfig) -> tuple[Stair, ...]:
    """Return the growing batch as a staircase.

    The batch follows the line `start + (batch - start) * seen / ramp` to the nearest micro-batch.
    A run of `steps` steps sees, with d seen / d step = batch,

        ramp * ln(batch / start) / (batch - start) + (all - ramp) / batch = steps,

    which gives `all` sequences in closed form, and with it the `ramp = batch_ramp * all` over which
    the batch grows. Raises ValueError if the sizes are not multiples of a micro-batch.
    """
    batch, unit = train.batch, train.rows
    start = train.batch_start or batch
    if start > batch or start % unit or batch % unit:
        raise ValueError(
            f"train.batch_start {start} and train.batch {batch} must be multiples of "
            f"train.micro_batch {unit}, the first not above the second."
        )

    rise = batch - start
    if not rise:
        return (Stair(0, 0, batch),)

    growing = train.batch_ramp * math.log(batch / start) / rise
    constant = (1 - train.batch_ramp) / batch
    sequences = train.steps / (growing + constant)

    steps: list[Stair] = []
    step, seen = 0, 0
    for size in range(start, batch, unit):
        # The stair ends where the line is halfway to the next size.
        end = train.batch_ramp * sequences * (size + unit / 2 - start) / rise
        count = math.ceil((end - seen) / size)
        if count > 0:
            steps.append(Stair(step, seen, size))
            step, seen = step + count, seen + count * size
    return (*steps, Stair(step, seen, batch))


def stair_at(train: TrainConfig, step: int) -> Stair:
    """Return the stair of optimizer step `step`, counted from 0."""
    all_stairs = stairs(train)
    return all_stairs[bisect_right(all_stairs, step, key=lambda stair: stair.first) - 1]


def batch_at(train: TrainConfig, step: int) -> int:
    """Return the sequences in optimizer step `step`, counted from 0."""
    return stair_at(train, step).size


def tokens_at(config: Config, step: int) -> int:
    """Return the tokens seen before step `step`; at config.train.steps, those of the whole run."""
    stair = stair_at(config.train, step)
    sequences = stair.seen + (step - stair.first) * stair.size
    return sequences * config.data.sequence


def share_at(config: Config) -> OfStep:
    """Return the function from a step to the share of the training tokens seen before it."""
    steps = config.train.steps
    knots = {stair.first for stair in stairs(config.train) if stair.first < steps}
    knots = sorted(knots | {steps})
    shares = [tokens_at(config, knot) / tokens_at(config, steps) for knot in knots]

    def share(step: ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        return jnp.interp(step, jnp.array(knots, jnp.float32), jnp.array(shares, jnp.float32))

    return share


def learning_rate(config: Config) -> OfStep:
    """Return the function from a step to its learning rate: linear warm-up, times the schedule.

    The last step of the warm-up is at the peak.
    """
    optimizer = config.optimizer
    warmup = max(optimizer.warmup, 1)
    after_warmup = scheduled(config, optimizer.learning_rate, optimizer.schedule)

    def rate(step: ArrayLike) -> jax.Array:
        risen = jnp.minimum(1.0, (jnp.asarray(step, jnp.float32) + 1) / warmup)
        return risen * after_warmup(step)

    return rate


def balance_rate(config: Config) -> OfStep:
    """Return the function from a step to gamma, how far the routing bias moves in it."""
    return scheduled(config, config.train.balance_rate, config.train.balance_schedule)


def mtp_weight(config: Config) -> OfStep:
    """Return the function from a step to lambda, the weight of the multi-token prediction loss."""
    return scheduled(config, config.train.mtp_weight, config.train.mtp_schedule)


def average_decay(config: Config) -> OfStep:
    """Return the function from a step to the decay of the moving average of the weights.

    It rises as (1 + step) / (10 + step) to train.ema, so that the average forgets the first weights
    also in a run that is shorter than 1 / (1 - train.ema) steps.
    """
    decay = config.train.ema

    def value(step: ArrayLike) -> jax.Array:
        done = jnp.asarray(step, jnp.float32)
        return jnp.minimum(decay, (1 + done) / (10 + done))

    return value


def scheduled(config: Config, peak: float, schedule: Schedule) -> OfStep:
    """Return the function from a step to `peak` times the schedule."""
    share = share_at(config)

    def value(step: ArrayLike) -> jax.Array:
        return peak * multiplier(schedule, share(step))

    return value
