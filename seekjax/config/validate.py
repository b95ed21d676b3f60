"""What the settings of a run must satisfy together before anything expensive happens.

Each complaint is one sentence that says what to change.
"""

import itertools
import math

from seekjax.config import Config, Fp8Config, Schedule, TrainConfig
from seekjax.config.recipes import objective_of
from seekjax.config.values import check_values
from seekjax.errors import need

MOST_SIZES = 10_000  # of a growing batch: each is a knot of every schedule


def check_run(config: Config) -> None:
    """Raise ConfigError for batches, schedules, lengths or settings that do not fit each other."""
    check_values(config)
    if config.grpo is not None:
        check_values(objective_of(config.grpo), "grpo.objective.")
    check_batches(config.train)
    check_lengths(config)
    check_extension(config)

    need(
        config.kernel.weights == config.kernel.vocabulary == "float32",
        f"kernel.weights is {config.kernel.weights} and kernel.vocabulary "
        f"{config.kernel.vocabulary}: quantised weights cannot be trained, "
        "train the run they are from.",
    )

    check_fp8(config)

    check_schedule("optimizer.schedule", config.optimizer.schedule)
    check_schedule("train.balance_schedule", config.train.balance_schedule)
    check_schedule("train.mtp_schedule", config.train.mtp_schedule)


def check_fp8(config: Config) -> None:
    """Raise ConfigError for settings of FP8 without FP8, or FP8 where it does not train."""
    kernel = config.kernel
    if kernel.dtype != "fp8":
        need(
            kernel.fp8 == Fp8Config(),
            f"kernel.fp8 is set and kernel.dtype is {kernel.dtype}: set kernel.dtype to fp8.",
        )
        return

    need(
        config.kind in ("", "sft", "dpo") and not config.lora.rank,
        "kernel.dtype fp8 is for pre-training, sft and dpo of all weights: set kernel.dtype to "
        "bfloat16.",
    )
    need(
        kernel.experts == "auto",
        f"kernel.experts {kernel.experts} has no form in FP8: set it to auto.",
    )


def check_batches(train: TrainConfig) -> None:
    """Raise ConfigError for counts of steps, sequences or checkpoints that have no meaning."""
    # A step is made of whole micro-batches, also while the batch grows.
    micro = train.rows
    need(
        train.batch % micro == 0 and micro <= train.batch,
        f"train.batch {train.batch} is not a multiple of train.micro_batch {micro}.",
    )
    need(
        0 <= train.batch_start <= train.batch and train.batch_start % micro == 0,
        f"train.batch_start {train.batch_start} must be a multiple of train.micro_batch "
        f"{micro} and at most train.batch {train.batch}.",
    )

    # A batch that grows does so over a share of the run.
    grows = train.batch_start not in (0, train.batch)
    need(
        not grows or train.batch_ramp > 0,
        "train.batch_start without train.batch_ramp: say over which share of the run the "
        "batch grows.",
    )
    sizes = (train.batch - train.batch_start) // micro if grows else 0
    need(
        sizes <= MOST_SIZES,
        f"the batch would grow from {train.batch_start:,} to {train.batch:,} in {sizes:,} sizes: "
        f"make train.micro_batch {micro:,} larger, for at most {MOST_SIZES:,}.",
    )


def check_lengths(config: Config) -> None:
    """Raise ConfigError if a sequence is too short for its targets or too long for the model."""
    sequence, model = config.data.sequence, config.model
    need(
        sequence > model.mtp_depth,
        f"data.sequence {sequence} is too short for model.mtp_depth {model.mtp_depth}.",
    )
    need(
        sequence <= model.context,
        f"data.sequence {sequence} exceeds model.context {model.context}.",
    )


def check_extension(config: Config) -> None:
    """Raise ConfigError for a longer context of no model, or one that YaRN does not stretch."""
    extend, model = config.extend, config.model
    asked = extend.context or extend.factor or extend.original_context
    need(
        not asked or config.init is not None,
        "extend is for a model that is trained already: name it with --init, or set "
        "--model.context of a new one.",
    )
    need(
        not extend.context or model.rope.factor > 1,
        f"extend.context {extend.context} stretches nothing, because model.rope.factor is "
        f"{model.rope.factor:g}: set --extend.factor above 1.",
    )


def check_schedule(name: str, schedule: Schedule) -> None:
    """Raise ConfigError unless the pieces end at rising shares of the run, the last at 1."""
    need(schedule, f"{name} has no pieces: write UNTIL:TO for each, as in 0.3:1 1:0.1:cosine.")
    ends = [piece.until for piece in schedule]
    rising = all(before < after for before, after in itertools.pairwise([0.0, *ends]))
    need(
        rising and math.isclose(ends[-1], 1),
        f"{name} has pieces that end at {ends}: they must end at rising shares of the run, "
        "the last at 1.",
    )
