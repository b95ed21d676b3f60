"""The folder of a run, the signals that end it, and what its machine can do."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp

from seekjax.checkpoint.config_json import differences, to_json
from seekjax.config import Config
from seekjax.errors import RunError
from seekjax.model.count import parameters
from seekjax.train.stage import Stage


def open_folder(config: Config) -> Path:
    """Make the run's folder. What it already holds stays as it is until the run is known to fit
    it."""
    folder = config.out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"cannot write the run folder {folder}: {error.strerror}. Name another with --out."
        ) from error
    return folder


def announce(
    say: Callable[[str], None], config: Config, folder: Path, stage: Stage, done: int
) -> None:
    """Say what is about to run and what differs from the run it resumes; write config.json,
    tokenizer.json, and data.json with every file read."""
    model, count = config.model, parameters(config.model)
    devices = jax.devices()
    say(
        f"model: {count.total / 1e6:,.1f}M parameters, {count.active / 1e6:,.1f}M active "
        f"per token; {model.layers} layers, "
        f"{model.experts} routed experts of which a token visits "
        f"{model.experts_per_token}, prediction depth {model.mtp_depth}"
    )
    for line in stage.about():
        say(line)
    axes = " x ".join(
        f"{name} {size}" for name, size in config.mesh.sizes(len(devices)).items() if size > 1
    )
    say(
        f"devices: {axes or '1'} of {len(devices)} {devices[0].platform.upper()}; run "
        f"folder: {folder}"
    )
    if done:
        say(f"resuming after step {done} of {config.train.steps}")
        for difference in differences(
            json.loads((folder / "checkpoints" / str(done) / "config.json").read_text()),
            to_json(config),
        ):
            say(f"    unlike the run so far: {difference}")
    if jax.process_index() == 0:
        (folder / "config.json").write_text(json.dumps(to_json(config), indent=1))
        (folder / "data.json").write_text(json.dumps(stage.manifest(), indent=1))
        stage.tokenizer.save(folder)


class Stop:
    """Whether somebody asked the run to end: Ctrl-C, SIGTERM, or its last step."""

    def __init__(self):
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Turn the first Ctrl-C or SIGTERM into a request that the loop meets after the current step; a
    second Ctrl-C ends at once."""
    stop = Stop()

    def ask(number, _frame):
        if stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signal = signal.Signals(number)

    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def matmul_peak(dtype: str, seconds: float = 0.3) -> float:
    """FLOP/s of large square products on all devices together, measured: what "share of peak"
    refers to."""
    cpu = jax.default_backend() == "cpu"
    size = 1024 if cpu else 8192
    x = jax.random.normal(jax.random.key(0), (size, size), dtype)
    multiply = jax.jit(jnp.dot)
    multiply(x, x).block_until_ready()
    best, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < seconds:
        before = time.perf_counter()
        multiply(x, x).block_until_ready()
        best = min(best, time.perf_counter() - before)
    devices = (
        1 if cpu else jax.device_count()
    )  # emulated devices share the cores that one product already uses
    return 2 * size**3 / best * devices
