"""Weights, tokenizers and templates that were made to harm: refused soon, in little memory."""

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from seekjax.data import read_tokenizer
from seekjax.data.chat import compile_chat
from seekjax.errors import SeekjaxError
from seekjax.hf.load import load
from seekjax.hf.save import save
from tests.benchmarks.trials.children import LIMIT, Report, Work, finish
from tests.benchmarks.trials.row import Row, some
from tests.data.test_template_sandbox import BIG, TALK
from tests.data.test_tokenizer import FOREIGN, damaged
from tests.hf.small import V3, WIDE, drawn
from tests.hf.test_refusing import CASES

SECONDS = 20.0
MEMORY = 400 << 20  # bytes above what the process had

Attack = tuple[str, Callable[[Path], object]]  # what must raise a SeekjaxError, given the folder


def run(work: Path, share: float, rng: random.Random) -> list[Row]:
    """Open what was made to harm, each within its time and memory."""
    bounds = f"one sentence within {SECONDS:.0f} s and {MEMORY >> 20} MiB"
    weights = Row("malicious and broken weight folders", bounds)
    with weights.clock():
        names = rng.sample(sorted(CASES), some(len(CASES), share))
        try_all(weights, [(name, open_case(name)) for name in names], work)

    templates = Row("malicious chat templates", bounds)
    with templates.clock():
        sources = [source for group in BIG.values() for source in group]
        sources = rng.sample(sources, some(len(sources), share))
        try_all(templates, [(source[:60], render(source)) for source in sources], work)

    tokenizers = Row("malicious and foreign tokenizers", bounds)
    with tokenizers.clock():
        names = rng.sample(sorted(FOREIGN), some(len(FOREIGN), share))
        try_all(tokenizers, [(name, read_foreign(name)) for name in names], work)
    return [weights, templates, tokenizers]


def open_case(name: str) -> Callable[[Path], object]:
    """Return what breaks a copy of a checkpoint and loads it."""
    kind, breaking, _ = CASES[name][:3]

    def open_it(folder: Path) -> object:
        copy = folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder / kind, copy)
        breaking(copy)
        return load(copy)

    return open_it


def read_foreign(name: str) -> Callable[[Path], object]:
    """Return what reads a tokenizer with parts that change texts, or that have no bound."""
    parts, _ = FOREIGN[name]

    def read_it(folder: Path) -> object:
        copy = folder / "tokenizer"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        return read_tokenizer(damaged(copy, lambda content: content.update(parts)), 300)

    return read_it


def render(source: str) -> Callable[[Path], object]:
    """Return what renders a template."""
    return lambda folder: compile_chat(source).render(TALK)


def try_all(row: Row, attacks: list[Attack], work: Path) -> None:
    """Let a child try all; if an attack ends it, that is a miss, and another child goes on."""
    left = list(attacks)
    while left:
        child = finish(trying(left, work), work / "log", limit=LIMIT + 5 * len(left))
        for fault in child.reported:
            name, _ = left.pop(0)
            row.check(not fault, f"{name}: {fault}")
        if left:
            name, _ = left.pop(0)
            row.check(False, f"{name}: the process ends ({child.last_line()})")


def trying(attacks: list[Attack], work: Path) -> Work:
    """Return the work that tries attacks one after the other, and reports what is wrong."""

    def try_them(report: Report) -> None:
        if not (work / "one").exists():
            save(work / "one", V3, drawn(V3), "f32")
            save(work / "many", V3, drawn(V3), "f32", file_bytes=3000)
            save(work / "fp8", WIDE, drawn(WIDE), "fp8")
        for _, attack in attacks:
            began, before = time.monotonic(), forget_peak()
            fault = "accepted"
            try:
                attack(work)
            except SeekjaxError as error:
                fault = "more than one line" if "\n" in str(error).strip() else ""
            except Exception as error:
                fault = f"{type(error).__name__}: {str(error)[:100]}"
            seconds, memory = time.monotonic() - began, peak() - before
            if seconds > SECONDS:
                fault = fault or f"took {seconds:.0f} s"
            if memory > MEMORY:
                fault = fault or f"took {memory >> 20} MiB"
            report(fault)

    return try_them


def forget_peak() -> int:
    """Forget the peak of this process's memory, and return what it uses now in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Return the largest memory of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    return 0
