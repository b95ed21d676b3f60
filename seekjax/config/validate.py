"""What a config must satisfy before anything expensive happens; every complaint is one sentence
that says what to change.
"""

import itertools
import math

from seekjax.config import Config, Schedule
from seekjax.errors import need


def check_run(config: Config) -> None:
    """Batches, schedules and lengths."""
    train, data = config.train, config.data
    micro = train.rows
    for name in ("steps", "batch", "log_every", "eval_every", "eval_batches", "save_every", "keep"):
        need(
            getattr(train, name) > 0,
            f"train.{name} is {getattr(train, name)}: it must be at least 1.",
        )
    need(
        train.batch % micro == 0 and micro <= train.batch,
        f"train.batch {train.batch} is not a multiple of train.micro_batch {micro}.",
    )
    need(
        0 <= train.batch_start <= train.batch and train.batch_start % micro == 0,
        f"train.batch_start {train.batch_start} must be a multiple of train.micro_batch "
        f"{micro} and at most train.batch {train.batch}.",
    )
    need(
        0 <= train.batch_ramp < 1,
        f"train.batch_ramp is {train.batch_ramp}: it is a share of the run, from 0 to 1.",
    )
    need(
        not train.batch_start or train.batch_start == train.batch or train.batch_ramp > 0,
        "train.batch_start without train.batch_ramp: say over which share of the run the "
        "batch grows.",
    )
    need(
        data.sequence > config.model.mtp_depth,
        f"data.sequence {data.sequence} is too short for model.mtp_depth {config.model.mtp_depth}.",
    )
    need(
        data.sequence <= config.model.context,
        f"data.sequence {data.sequence} exceeds model.context {config.model.context}.",
    )
    need(
        config.kernel.weights == "float32",
        f"kernel.weights is {config.kernel.weights}: quantised weights cannot be trained, "
        "train the run they are from.",
    )
    need(
        config.lora.rank >= 0 and config.lora.alpha > 0,
        f"lora.rank is {config.lora.rank} and lora.alpha {config.lora.alpha}: a rank is 0 "
        "(off) or more, alpha above 0.",
    )
    need(0 <= train.ema < 1, f"train.ema is {train.ema}: a decay lies from 0 (none) to below 1.")
    for name, schedule in (
        ("optimizer.schedule", config.optimizer.schedule),
        ("train.balance_schedule", train.balance_schedule),
        ("train.mtp_schedule", train.mtp_schedule),
    ):
        check_schedule(name, schedule)


def check_schedule(name: str, schedule: Schedule) -> None:
    """Raise ConfigError unless the pieces end at rising shares of the run, the last at 1."""
    ends = [piece.until for piece in schedule]
    rising = all(before < after for before, after in itertools.pairwise([0.0, *ends]))
    need(
        bool(ends) and rising and math.isclose(ends[-1], 1),
        f"{name} has pieces that end at {ends}: they must end at rising shares of the run, "
        "the last at 1.",
    )
