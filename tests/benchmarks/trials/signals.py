"""Signals at any moment: saved in ten seconds, a documented status, and a start that resumes."""

import random
import signal
import time
from pathlib import Path

from seekjax.errors import Status
from seekjax.train import pretrain
from tests.benchmarks.trials.children import Child, command, finish, start, watched
from tests.benchmarks.trials.kills import MOMENTS, whole_steps
from tests.benchmarks.trials.row import Row, some
from tests.benchmarks.trials.runs import digest_of, fitting, pretrained, train_words

SECONDS = 10.0  # until a run has ended after a signal that ends it
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GOING_ON = signal.SIGUSR1  # saves, and the run goes on
# What is going on when the signal comes, and how often it may have been going on before
GOING = {
    "build": 1,  # before anything is compiled
    "compile": 1,  # in the first step
    "step": 12,
    "save": 6,
    "manifest": 6,
    "evaluate": 2,
}


def run(work: Path, share: float, rng: random.Random) -> list[Row]:
    """Send signals to training at random moments, and let the runs go on."""
    whole = pretrained(work.parent / "whole")
    row = Row("signals", f"saved within {SECONDS:.0f} s, a documented status, goes on bitwise")
    with row.clock():
        number = some(20, share)
        for index in range(number):
            name = (*ENDING, GOING_ON)[index % 4]
            moment = rng.choice(sorted(GOING))
            words = train_words(work / f"run{index}", whole.start)
            child, seconds = signalled(words, name, moment, work, rng)
            where = f"{name.name} in {moment}"
            fault = fault_of(child, name, seconds)
            fault = fault or goes_on(words, whole.digest, work)
            row.check(not fault, f"{where}: {fault}")
    return [row]


def signalled(
    words: list[str], name: signal.Signals, moment: str, work: Path, rng: random.Random
) -> tuple[Child, float]:
    """Start a run, signal it at a moment, and return it with the seconds until its end."""
    places = (
        *MOMENTS,
        (pretrain.Pretraining, "build", "build"),
        (pretrain, "compile_steps", "compile"),
        (pretrain.HeldOutText, "__call__", "evaluate"),
    )
    child = start(watched(command("train", *words), *places), work / "log")
    child.wait_for(moment, rng.randint(1, GOING[moment]))
    time.sleep(rng.uniform(0, 3.0 if moment in ("build", "compile") else 0.1))
    child.send(name)
    began = time.monotonic()
    child.end()
    return child, time.monotonic() - began


def fault_of(child: Child, name: signal.Signals, seconds: float) -> str:
    """Return what was wrong with the end of a run that a signal met, or ""."""
    if "Traceback" in child.text():
        return f"a traceback ({child.last_line()})"
    allowed = {Status.FINISHED, Status.STOPPED, Status.INTERRUPTED}
    if name == GOING_ON:
        allowed = {Status.FINISHED}
    if child.status not in allowed:
        return f"status {child.status} ({child.last_line()})"
    if name != GOING_ON and seconds > SECONDS:
        return f"{seconds:.0f} s until the end"
    return ""


def goes_on(words: list[str], expected: str, work: Path) -> str:
    """Let a run go on; return what is wrong with its end, or ""."""
    run_folder = Path(words[words.index("--out") + 1])
    _, broken = whole_steps(run_folder)
    if broken:
        return f"steps {broken} are not whole"
    child = finish(fitting(words), work / "log")
    if child.status:
        return f"does not go on ({child.last_line()})"
    return "" if digest_of(child.reported) == expected else "other parameters at the end"
