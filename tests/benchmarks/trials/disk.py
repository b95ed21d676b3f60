"""A disk that is full for a while, at every place that writes.

A limit on the size of files stands for the full disk: within a window of a run every write fails.
"""

import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seekjax.checkpoint import write
from seekjax.commands import convert, quantize
from seekjax.train import loop, pretrain
from tests.benchmarks.trials.children import CRASHED, Report, Work, command, finish
from tests.benchmarks.trials.kills import whole_steps
from tests.benchmarks.trials.row import Row, some
from tests.benchmarks.trials.runs import digest_of, fitting, pretrained, train_words

Event = tuple[Any, str, int]  # the n-th call of a function

SAVE = (write.Checkpoints, "save")
STEP = (loop.Progress, "__call__")
EVALUATE = (pretrain.HeldOutText, "__call__")

# From one event until another, or the end of the process
PLACES: dict[str, tuple[Event, Event | None]] = {
    "the first save": ((*SAVE, 1), (*SAVE, 2)),
    "a later save": ((*SAVE, 4), (*SAVE, 5)),
    "two saves in a row": ((*SAVE, 3), (*SAVE, 5)),
    "the last save": ((*SAVE, 10), None),
    "committing a save": ((write, "write_manifest", 3), (write, "write_manifest", 4)),
    "a row of metrics": ((*STEP, 5), (*STEP, 6)),
    "an evaluation": ((*EVALUATE, 1), (*STEP, 12)),
    "the beginning": ((loop, "describe", 1), (*STEP, 2)),
    "the whole run": ((pretrain.Pretraining, "build", 1), None),
}
COMMANDS = ("converting", "quantising")


def run(work: Path, share: float, rng: random.Random) -> list[Row]:
    """Fill the disk at each place."""
    whole = pretrained(work.parent / "whole")
    row = Row("a full disk", "goes on or ends with a sentence; then ends as the unbroken run")
    with row.clock():
        names = [*PLACES, *COMMANDS]
        for name in rng.sample(names, some(len(names), share)):
            out = work / name.replace(" ", "-")
            if name in COMMANDS:
                fault = full_while_writing(name, whole.folder, out, work)
            else:
                fault = full_while_training(name, train_words(out, whole.start), whole.digest, work)
            row.check(not fault, f"{name}: {fault}")
    return [row]


def full_while_training(name: str, words: list[str], expected: str, work: Path) -> str:
    """Fill the disk for a while, let the run go on with room, and return what is wrong."""
    child = finish(full_between(command("train", *words), *PLACES[name]), work / "log", pipe=True)
    if "Traceback" in child.text() or child.status == CRASHED:
        return f"a traceback ({child.last_line()})"
    if child.status not in (0, 1, 2, 75):
        return f"status {child.status} ({child.last_line()})"
    out = Path(words[words.index("--out") + 1])
    _, broken = whole_steps(out)
    if broken:
        return f"steps {broken} are not whole"

    child = finish(fitting(words), work / "log")
    if child.status:
        return f"does not go on ({child.last_line()})"
    return "" if digest_of(child.reported) == expected else "other parameters at the end"


def full_while_writing(name: str, source: Path, out: Path, work: Path) -> str:
    """Fill the disk while a command writes, then let it through, and return what is wrong."""
    out.mkdir()
    words = ["convert", "--from", source, "--to", out / "new"]
    begins: Event = (convert, "new_folder", 1)
    if name == "quantising":
        words = ["quantize", source, "--to", "int8", "--out", out / "new"]
        begins = (quantize, "new_folder", 1)
    child = finish(full_between(command(*words), begins, None), work / "log", pipe=True)
    if "Traceback" in child.text() or child.status not in (1, 2):
        return f"status {child.status} ({child.last_line()})"
    if list(out.iterdir()):
        return f"leaves {[path.name for path in out.iterdir()]}"
    child = finish(command(*words), work / "log")
    return f"does not go on ({child.last_line()})" if child.status else ""


def full_between(work: Work, begin: Event, end: Event | None) -> Work:
    """Return a work during which no file can be written between two events."""

    def limited(report: Report) -> int | None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

        def fill() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))

        def free() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

        # The end is watched first, so that at a call that is both, the disk is full afterwards.
        if end is not None:
            _at(end, free)
        _at(begin, fill)
        return work(report)

    return limited


def _at(event: Event, act: Callable[[], None]) -> None:
    """Do something before the n-th call of a function."""
    owner, name, number = event
    function, calls = getattr(owner, name), []

    def counting(*arguments: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) == number:
            act()
        return function(*arguments, **named)

    setattr(owner, name, counting)
