"""The folder of a run: made, announced, and described by config.json, data.json, tokenizer.json."""

import json
from collections.abc import Callable
from pathlib import Path

import jax

from seekjax.checkpoint.config_json import differences, read_config, to_json
from seekjax.config import Config
from seekjax.errors import RunError
from seekjax.model.count import parameters
from seekjax.train.training import Parts, Training


def make_folder(config: Config) -> Path:
    """Make the run's folder and return it.

    What the folder already holds stays as it is until the run is known to fit it. Raises RunError
    if the folder cannot be made.
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
    return folder


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
        # only compared: nothing that this file names is imported
        saved = read_config(folder / "checkpoints" / str(done) / "config.json", trust=True)
        for difference in differences(to_json(saved), to_json(config)):
            say(f"    unlike the run so far: {difference}")


def describe(training: Training, folder: Path) -> None:
    """Write config.json, tokenizer.json, and data.json with every file read."""
    if jax.process_index():
        return
    config_text = json.dumps(to_json(training.config), indent=1)
    (folder / "config.json").write_text(config_text)
    (folder / "data.json").write_text(json.dumps(training.manifest(), indent=1))
    training.tokenizer.save(folder)
