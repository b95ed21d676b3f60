"""kill -9 at random moments; the next start goes on by itself, and ends as if nothing had been."""

import hashlib
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from seekjax.checkpoint import write
from seekjax.checkpoint.manifest import damage
from seekjax.commands import convert, quantize
from seekjax.train import loop
from tests.benchmarks.trials.children import command, finish, start, watched
from tests.benchmarks.trials.row import Row, some
from tests.benchmarks.trials.runs import (
    digest_of,
    fitting,
    pretrained,
    reinforce_words,
    reinforced,
    train_words,
)

# What a child reports, and so the moments at which it can be killed.
MOMENTS = (
    (loop.Progress, "__call__", "step"),
    (write.Checkpoints, "save", "save"),
    (write, "write_manifest", "manifest"),
    (write, "rename_durably", "rename"),
    (write.shutil, "rmtree", "prune"),
)
STARTS = 12  # of one run before it is let through
JUST_AFTER = 0.03  # seconds within which the signal comes after its moment


def kill_runs(
    row: Row,
    words_of: Callable[[Path], list[str]],
    expected: str,
    work: Path,
    kills: int,
    rng: random.Random,
) -> None:
    """Kill a run at random moments until it is done, then the next one, so many kills in all."""
    done, number = 0, 0
    while done < kills:
        number += 1
        out = work / f"run{number}"
        done += _one_run(row, words_of(out), out, min(STARTS, kills - done), expected, rng)


def _one_run(
    row: Row, words: list[str], out: Path, kills: int, expected: str, rng: random.Random
) -> int:
    """Kill one run so often, let it end, and return how many of its starts were killed."""
    killed, newest = 0, -1
    while True:
        child = start(watched(fitting(words), *MOMENTS), out.with_suffix(".log"))
        moment = ""
        if killed < kills:
            moment = rng.choice(MOMENTS)[2]
            if child.wait_for(moment, rng.randint(1, 6)):
                time.sleep(rng.uniform(0, JUST_AFTER))
                child.send(signal.SIGKILL)
        child.end()

        if child.status == -signal.SIGKILL:
            killed += 1
            steps, broken = whole_steps(out)
            row.check(
                not child.crashed and not broken and max(steps, default=-1) >= newest,
                f"after a kill at {moment}: steps {steps}, broken {broken}, before {newest}",
            )
            newest = max(steps, default=newest)
            continue

        reached = digest_of(child.reported)
        where = f"the end of {out.name} after {killed} kills"
        if child.status or child.crashed:
            row.check(False, f"{where}: {child.last_line()}")
        else:
            row.check(reached == expected, f"{where}: other parameters than the unbroken run")
        return max(killed, 1)


def whole_steps(run: Path) -> tuple[list[int], list[int]]:
    """Return the steps of a run that are whole, and those that have a name but are not."""
    whole, broken = [], []
    for path in (run / "checkpoints").glob("*"):
        if path.name.isdecimal():
            (broken if damage(path) else whole).append(int(path.name))
    return whole, broken


def kill_commands(
    row: Row,
    name: str,
    words_of: Callable[[Path], list[str]],
    work: Path,
    kills: int,
    rng: random.Random,
) -> None:
    """Kill a command that writes a folder or file at random moments, then let it through.

    Its result must be the unbroken one, file by file, and nothing else may lie beside it.
    """
    begins = (
        (convert, "new_folder", "writes"),
        (convert, "to_gguf", "writes"),
        (quantize, "new_folder", "writes"),
    )
    work.mkdir(parents=True)
    began = time.monotonic()
    child = start(watched(command(*words_of(work / "unbroken")), *begins), work / "log")
    child.wait_for("writes")
    at_writing = time.monotonic() - began
    child.end()
    seconds = child.seconds - at_writing
    if not row.check(child.status == 0, f"{name}: unbroken, {child.last_line()}"):
        return
    expected = contents(work / "unbroken")

    place = work / "place"
    place.mkdir()
    for _ in range(kills):
        child = start(watched(command(*words_of(place / "out")), *begins), work / "log")
        child.wait_for("writes")
        time.sleep(rng.uniform(0, max(0.0, seconds)))
        child.send(signal.SIGKILL)
        child.end()
        if not (place / "out").exists():
            child = finish(command(*words_of(place / "out")), work / "log")
        same = contents(place / "out") == expected
        beside = sorted([path.name for path in place.iterdir() if path.name != "out"])
        row.check(
            same and not beside and not child.crashed,
            f"{name}: {'as unbroken' if same else child.last_line()}, beside it {beside}",
        )
        _clear(place)


def contents(path: Path) -> dict[str, str]:
    """Return the hash of every file of a folder, but of arrays, whose file names are random."""
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    hashes = {}
    for file in files:
        if file.is_file() and "state" not in file.parts and file.name != "manifest.json":
            text = file.read_bytes().replace(str(path).encode(), b"OUT")
            hashes[str(file.relative_to(path))] = hashlib.sha256(text).hexdigest()
    return hashes


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        write.shutil.rmtree(path) if path.is_dir() else path.unlink()


def run(work: Path, share: float, rng: random.Random) -> Iterator[Row]:
    """Kill training, reinforcement, converting and quantising."""
    whole, reinforcing = pretrained(work.parent / "whole"), reinforced(work.parent / "whole")
    same = "goes on by itself; parameters bitwise those of the unbroken run"
    training = Row("kill -9 in training, saving and pruning", same)
    with training.clock():
        kill_runs(
            training,
            lambda out: train_words(out, whole.start),
            whole.digest,
            work / "training",
            some(60, share),
            rng,
        )

    yield training

    reinforcement = Row("kill -9 in reinforcement", same)
    with reinforcement.clock():
        kill_runs(
            reinforcement,
            lambda out: reinforce_words(out, reinforcing.start),
            reinforcing.digest,
            work / "reinforcement",
            some(14, share),
            rng,
        )

    yield reinforcement

    writing = Row("kill -9 in converting and quantising", "absent or whole, nothing beside it")
    with writing.clock():
        source = whole.folder
        converting = {
            "published": lambda out: ["convert", "--from", source, "--to", out],
            "gguf": lambda out: ["convert", "--from", source, "--to-gguf", out],
            "int8": lambda out: ["quantize", source, "--to", "int8", "--out", out],
        }
        for name, words_of in converting.items():
            kill_commands(writing, name, words_of, work / name, some(9, share), rng)
    yield writing
