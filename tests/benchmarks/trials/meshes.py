"""A run that goes on with other meshes, worker counts and process counts."""

import json
import math
import random
import signal
from dataclasses import replace
from pathlib import Path

from seekjax.data import load_corpus, load_tokenizer, train_batches
from seekjax.data.batches import Batches
from seekjax.data.streams import ProcessBatches
from tests.benchmarks.trials import pretrain_config
from tests.benchmarks.trials.children import start, watched
from tests.benchmarks.trials.kills import MOMENTS
from tests.benchmarks.trials.row import Row
from tests.benchmarks.trials.runs import Whole, digest_of, fitting, pretrained, train_words

# Devices, and the mesh on them
MESHES = {
    "8": (8, {"data": 2, "expert": 2, "tensor": 2}),
    "4": (4, {"data": 2, "fsdp": 2}),
    "1": (1, {"data": 1}),
    "2x4": (8, {"data": 2, "expert": 4}),
    "8 again": (8, {"data": 8}),
}
ORDER = ("8", "4", "1", "2x4", "8 again")
ROWS = 12  # of a batch that is divided among processes
SHORT = ("8", "1")  # for a small share
TOLERANCE = 2e-3  # of a loss, relative: rounding grows over the steps


def run(work: Path, share: float, rng: random.Random) -> list[Row]:
    """Let a run go on over all meshes, and with other numbers of workers."""
    whole = pretrained(work.parent / "whole")
    data = whole.start
    order = ORDER if share >= 0.5 else SHORT
    meshes = Row(f"meshes {' -> '.join(order)}", "the losses of the run on one device")
    with meshes.clock():
        move_over_meshes(meshes, whole, order, work)

    workers = Row("2, 0 and 1 workers, killed in between", "bitwise the run without workers")
    with workers.clock():
        kills = max(1, round(10 * share))
        change_workers(workers, data, kills, whole.digest, work, rng)

    processes = Row("process counts 2 -> 4 -> 1 -> 3 ...", "every row read, once, in its order")
    with processes.clock():
        change_processes(processes, data, max(2, round(10 * share)), rng)
    return [meshes, workers, processes]


def move_over_meshes(row: Row, whole: Whole, order: tuple[str, ...], work: Path) -> None:
    """Kill a run after its second save on each mesh but the last, and compare all losses."""
    out = work / "moved"
    for number, name in enumerate(order, 1):
        devices, sizes = MESHES[name]
        flags = [word for axis, size in sizes.items() for word in (f"--mesh.{axis}", size)]
        words = train_words(out, whole.start, *flags)
        child = start(watched(fitting(words), *MOMENTS), work / "log", devices)
        if number < len(order):
            # When the third save begins, the second has ended.
            child.wait_for("save", 3)
            child.send(signal.SIGKILL)
        child.end()
        expected = -signal.SIGKILL if number < len(order) else 0
        row.check(child.status == expected, f"on {name}: {child.last_line()}")

    losses, moved = losses_of(whole.folder), losses_of(out)
    for step, loss in losses.items():
        close = math.isclose(loss, moved.get(step, math.nan), rel_tol=TOLERANCE)
        row.check(close, f"step {step}: loss {moved.get(step)} instead of {loss}")


def change_workers(
    row: Row, data: Path, kills: int, expected: str, work: Path, rng: random.Random
) -> None:
    """Kill a run at random steps; each start has another number of workers."""
    out = work / "workers"
    for number in range(kills + 1):
        words = train_words(out, data, "--data.workers", (2, 0, 1)[number % 3])
        child = start(watched(fitting(words), *MOMENTS), work / "log")
        if number < kills and child.wait_for("step", rng.randint(1, 2 + 20 // kills)):
            child.send(signal.SIGKILL)
        child.end()
        row.check(not child.crashed, f"start {number + 1}: {child.last_line()}")
    row.check(digest_of(child.reported) == expected, "other parameters at the end")


def change_processes(row: Row, data: Path, changes: int, rng: random.Random) -> None:
    """Go on again and again with another number of processes, and compare what they read."""
    config = pretrain_config.config.data
    config = replace(config, sources=(str(data),), tokenizer="byte")
    corpus = load_corpus(config)
    tokenizer = load_tokenizer(config, 272, corpus)

    def open_stream(number: int, count: int) -> Batches:
        return train_batches(
            config,
            corpus,
            tokenizer,
            batch=ROWS,
            seed=0,
            process_index=number,
            process_count=count,
        )

    def opened(count: int) -> list[ProcessBatches]:
        return [ProcessBatches(open_stream, ROWS, number, count) for number in range(count)]

    unbroken, processes = opened(2), opened(2)
    for change in range(changes):
        steps = rng.randint(1, 6)
        same = read(processes, steps) == read(unbroken, steps)
        row.check(same, f"after {change} changes, {len(processes)} processes read other rows")
        # A kill loses what was read after the save.
        saved = json.loads(json.dumps([process.get_state() for process in processes]))
        read(processes, rng.randint(0, 3))
        for process in processes:
            process.close()
        count = rng.choice((1, 2, 3, 4, 6))
        processes = opened(count)
        for number, process in enumerate(processes):
            process.set_state(saved[number] if count == len(saved) else {"processes": saved})


def read(processes: list[ProcessBatches], steps: int) -> list[list[list[int]]]:
    """Return the next batches of all processes together, as rows of token ids."""
    batches = []
    for _ in range(steps):
        rows = []
        for process in processes:
            rows += next(process)["tokens"].tolist()
        batches.append(rows)
    return batches


def losses_of(run_folder: Path) -> dict[int, float]:
    """Return the training loss of every step of a run."""
    losses = {}
    for line in (run_folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["split"] == "train":
            losses[record["step"]] = record["loss"]
    return losses
