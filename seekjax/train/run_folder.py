"""The folder of a run: made, announced, and described by config.json, data.json, tokenizer.json."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import jax

from seekjax.checkpoint.config_json import differences, read_config, to_json
from seekjax.checkpoint.write import MismatchError, maximum
from seekjax.config import Config
from seekjax.errors import CheckpointError, RunError, need
from seekjax.lock import only_owner
from seekjax.model.count import parameters
from seekjax.storage import write_atomically
from seekjax.train.clock import Spent
from seekjax.train.record import METRICS, read
from seekjax.train.training import Parts, Training
from seekjax.version import __version__


@contextmanager
def own_folder(config: Config) -> Iterator[Path]:
    """Make the run's folder and yield it, held by this run against any other.

    What the folder already holds stays as it is until the run is known to fit it. Raises RunError
    if the folder cannot be made, or if another run holds it.
    """
    folder = config.out
    if folder is None:
        raise RunError("the run has no folder: name one with --out.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"cannot write the run folder {folder}: {error.strerror}. Name another with --out."
        ) from error

    with ExitStack() as stack:
        refusal = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(only_owner(folder))
            except RunError as error:
                refusal = error
        if maximum(refusal is not None):
            raise refusal or RunError(f"another process holds {folder}: see the first process.")
        yield folder


def time_spent(folder: Path, done: int) -> Spent:
    """Return the seconds of the run's earlier starts, from metrics.jsonl."""
    spent = Spent()
    if not (folder / METRICS).exists():
        return spent
    for row in read(folder):
        if "start" not in row:
            continue
        step_seconds = row["step_seconds"] if row["step"] <= done else spent.step_seconds
        spent = Spent(row["start"], row["seconds"], step_seconds)
    return spent


# Fields that do not change what a run learns: where, how fast, and what is reported.
WITHOUT_EFFECT = (
    "out",
    "mesh.",
    "kernel.attention",
    "kernel.cache",
    "kernel.dispatch",
    "kernel.experts",
    "kernel.remat",
    "kernel.vocab_chunk",
    "tensorboard",
    "wandb",
    "data.workers",
    "train.micro_batch",
    "train.log_every",
    "train.eval_",
    "train.save_every",
    "train.keep",
    "train.skip_limit",
    "train.return_limit",
    "train.recompute_every",
    "train.watchdog",
)


def refuse_another_run(config: Config, folder: Path, done: int) -> None:
    """Raise RunError if all steps are done and the settings are those of another run."""
    if not done or done < config.train.steps:
        return
    changes = with_effect(changed(config, folder, done))
    need(
        not changes,
        f"the run in {folder} is finished, with {done} steps, and these settings are another "
        f"run's ({'; '.join(changes)}): name another --out, or the settings that it has.",
        RunError,
    )


@contextmanager
def naming_fields(config: Config, folder: Path) -> Iterator[None]:
    """Name the settings that differ, where the arrays of a checkpoint do not fit the config."""
    try:
        yield
    except MismatchError as error:
        changes = with_effect(changed(config, folder, error.step))
        if not changes:
            raise
        raise CheckpointError(
            f"the run in {folder} has arrays of other settings ({'; '.join(changes)}): restore "
            "these settings, or name another --out."
        ) from error


def with_effect(changes: list[str]) -> list[str]:
    """Return the differences that change what a run learns."""
    return [change for change in changes if not change.startswith(WITHOUT_EFFECT)]


def changed(config: Config, folder: Path, done: int) -> list[str]:
    """Return what differs from the settings of the checkpoint that the run goes on from."""
    path = folder / "checkpoints" / str(done) / "config.json"
    # only compared: nothing that this file names is imported
    before = replace(read_config(path, trust=True), name=config.name)
    return differences(to_json(before), to_json(config))


def announce(
    say: Callable[[str], None],
    training: Training,
    parts: Parts,
    folder: Path,
    done: int,
) -> None:
    """Print what is about to run, and what differs from the run that it resumes."""
    config = training.config
    model, count = config.model, parameters(config.model)
    say(
        f"model: {count.total / 1e6:,.1f}M parameters, {count.active / 1e6:,.1f}M active "
        f"per token; {model.layers} layers, {model.experts} routed experts of which a token visits "
        f"{model.experts_per_token}, prediction depth {model.mtp_depth}"
    )
    for line in parts.report.header():
        say(line)

    devices = jax.devices()
    sizes = config.mesh.sizes(len(devices))
    axes = " x ".join([f"{name} {size}" for name, size in sizes.items() if size > 1])
    platform = devices[0].platform.upper()
    say(f"devices: {axes or '1'} of {len(devices)} {platform}; run folder: {folder}")

    if done:
        say(f"resuming after step {done} of {config.train.steps}")
        for difference in changed(config, folder, done):
            say(f"    unlike the run so far: {difference}")


def describe(
    say: Callable[[str], None],
    training: Training,
    folder: Path,
    done: int,
) -> None:
    """Write config.json, tokenizer.json, and data.json with every file read.

    A new run that finds the files of an earlier one keeps them under other names. Raises RunError
    if the folder cannot be written.
    """
    if jax.process_index():
        return
    config = to_json(training.config)
    data = {"seekjax": __version__, **training.manifest()}
    try:
        if not done:
            keep_earlier(say, folder)
        write_changed(folder / "config.json", json.dumps(config, indent=1))
        write_changed(folder / "data.json", json.dumps(data, indent=1))
        training.tokenizer.save(folder)
    except OSError as error:
        raise RunError(
            f"{error.filename or folder} cannot be written ({error.strerror}): free some space, or "
            "name another --out."
        ) from error


def keep_earlier(say: Callable[[str], None], folder: Path) -> None:
    """Rename the files of a run whose checkpoints are gone, or that never saved one."""
    if not (folder / METRICS).exists() or not (folder / METRICS).stat().st_size:
        return
    number = 1
    while (folder / f"metrics-{number}.jsonl").exists():
        number += 1
    (folder / METRICS).rename(folder / f"metrics-{number}.jsonl")
    if (folder / "config.json").exists():
        (folder / "config.json").rename(folder / f"config-{number}.json")
    say(
        f"{folder} has no checkpoint: starting at step 0; the record of the earlier run is kept as "
        f"metrics-{number}.jsonl"
    )


def write_changed(path: Path, text: str) -> None:
    """Write a file unless it has this text. Raises OSError."""
    if not path.is_file() or path.read_bytes() != text.encode():
        write_atomically(path, text)
