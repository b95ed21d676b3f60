"""Damage to the files of a run: flipped, truncated, emptied, deleted.

A damaged run opens with its own weights and texts, or with those of an older step and a word about
it, or not at all with one sentence; and a run that goes on ends as the unbroken one did.
"""

import contextlib
import io
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from seekjax.commands.arguments import parse
from seekjax.data.chat import load_chat
from seekjax.errors import SeekjaxError
from seekjax.open import need_tokenizer, open_model
from seekjax.placement import use_mesh
from seekjax.post.kinds import fit
from sharding.mesh import MeshConfig
from tests.benchmarks.trials.children import LIMIT, Report, Work, finish
from tests.benchmarks.trials.row import Row, some
from tests.benchmarks.trials.runs import (
    Whole,
    digest,
    pretrained,
    reinforce_words,
    reinforced,
    train_words,
)

SAMPLE = "The stone under the river,\n  two birds: 12, naïve ✓"
TALK = [{"role": "user", "content": "3+4="}]


def flip(file: Path, rng: random.Random) -> None:
    """Flip one bit."""
    data = bytearray(file.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def truncate(file: Path, rng: random.Random) -> None:
    """Cut a file at a random byte."""
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(len(data))] if data else b"")


def empty(file: Path, rng: random.Random) -> None:
    """Leave nothing in a file."""
    file.write_bytes(b"")


def delete(file: Path, rng: random.Random) -> None:
    """Remove a file."""
    file.unlink()


DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (flip, truncate, empty, delete)


BY_NAME = {damage.__name__: damage for damage in DAMAGES}


def file_classes(run: Path) -> dict[str, list[Path]]:
    """Return the files of a run by what they are: numbers and random names left out."""
    classes: dict[str, list[Path]] = {}
    for file in sorted(run.rglob("*")):
        if file.is_file():
            name = re.sub(r"/d/[0-9a-f]{16,}", "/d/*", str(file.relative_to(run)))
            name = re.sub(
                r"checkpoints/\d+", "checkpoints/N", re.sub(r"-\d+\.json", "-N.json", name)
            )
            classes.setdefault(name, []).append(file.relative_to(run))
    return classes


Try = tuple[str, str, Path]  # class, damage and file


def plan(run: Path, tries: int, rng: random.Random) -> list[Try]:
    """Return (class, damage, file) of every try: all classes and damages before any comes twice."""
    table = []
    for name, files in file_classes(run).items():
        table += [(name, damage.__name__, files) for damage in DAMAGES]
    chosen: list[Try] = []
    while len(chosen) < tries:
        rng.shuffle(table)
        chosen += [(name, damage, rng.choice(files)) for name, damage, files in table]
    return chosen[:tries]


def what_opens(run: Path) -> dict[str, Any]:
    """Return what a user would get of a folder: weights, texts, words, or the sentence."""
    printed, result = io.StringIO(), {}
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
        try:
            with use_mesh(MeshConfig(data=1)):
                opened = open_model(run)
                tokenizer = need_tokenizer(opened)
                texts = [
                    opened.begin,
                    tokenizer.encode(SAMPLE).tolist(),
                    tokenizer.eos,
                    load_chat(run, tokenizer).encode(tokenizer, TALK),
                ]
                result = {"weights": digest(opened.variables), "texts": repr(texts)}
        except SeekjaxError as error:
            result = {"sentence": str(error)}
        except BaseException as error:
            result = {"crash": f"{type(error).__name__}: {str(error)[:200]}"}
    return result | {"said": printed.getvalue()[-400:]}


def how_it_ends(words: list[str]) -> dict[str, Any]:
    """Return the state at the end of a run that goes on, or the sentence."""
    printed, result = io.StringIO(), {}
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
        try:
            result = {"state": digest(fit(parse(words, "train.py")).state)}
        except SeekjaxError as error:
            result = {"sentence": str(error)}
        except BaseException as error:
            result = {"crash": f"{type(error).__name__}: {str(error)[:200]}"}
    return result | {"said": printed.getvalue()[-400:]}


def judge(found: dict[str, Any], whole: dict[str, Any], older: dict[str, Any]) -> str:
    """Return what is wrong with the result of a damage, or ""."""
    if "crash" in found:
        return found["crash"]
    if "sentence" in found:
        return "" if "\n" not in found["sentence"].strip() else "more than one line"
    if found["texts"] != whole["texts"]:
        return "" if found["said"] else "silently other texts"
    if found["weights"] == whole["weights"]:
        return ""
    if found["weights"] == older["weights"]:
        return "" if found["said"] else "an older step without a word"
    return "silently other weights"


def run(work: Path, share: float, rng: random.Random) -> list[Row]:
    """Damage a pre-training run and one of reinforcement, and open them; let some go on."""
    shared = work.parent / "whole"
    runs = (
        (pretrained(shared), train_words),
        (reinforced(shared), reinforce_words),
    )
    opening = Row("damage to every file class of a run", "older step with a word, or one sentence")
    going_on = Row("going on after such damage", "ends as the unbroken run, or one sentence")
    for whole, words in runs:
        damage_run(opening, going_on, whole, words, work, share, rng)
    return [opening, going_on]


def damage_run(
    opening: Row,
    going_on: Row,
    whole: Whole,
    words: Callable[[Path, Path], list[str]],
    work: Path,
    share: float,
    rng: random.Random,
) -> None:
    """Damage copies of one run."""

    def words_of(out: Path) -> list[str]:
        return words(out, whole.start)

    with opening.clock():
        tries = plan(whole.folder, some(100, share), rng)
        try_all(opening, tries, lambda left: opened(whole.folder, left, work), work)
    with going_on.clock():
        tries = plan(whole.folder, some(15, share), rng)
        try_all(
            going_on,
            tries,
            lambda left: continued(whole.folder, words_of, whole.digest, left, work),
            work,
        )


def try_all(row: Row, tries: list[Try], work_of: Callable[[list[Try]], Work], work: Path) -> None:
    """Let a child do all tries; if one ends it, that is a miss, and another child does the rest."""
    left = list(tries)
    while left:
        child = finish(work_of(left), work / "log", limit=LIMIT + 20 * len(left))
        for fault in child.reported:
            name, damage, _ = left.pop(0)
            row.check(not fault, f"{damage} {name}: {fault}")
        if left:
            name, damage, _ = left.pop(0)
            row.check(False, f"{damage} {name}: the process ends ({child.last_line()})")


def opened(whole: Path, tries: list[Try], work: Path) -> Work:
    """Return the work that opens a damaged copy for each try, and reports what is wrong."""

    def open_all(report: Report) -> None:
        as_it_is = what_opens(whole)
        newest = max([int(step.name) for step in (whole / "checkpoints").glob("*")])
        with damaged(whole, work) as copy:
            shutil.rmtree(copy / "checkpoints" / str(newest))
            older = what_opens(copy)
        for number, (_, damage, file) in enumerate(tries):
            with damaged(whole, work, damage, file, number) as copy:
                report(judge(what_opens(copy), as_it_is, older))

    return open_all


def continued(
    whole: Path, words_of: Callable[[Path], list[str]], expected: str, tries: list[Try], work: Path
) -> Work:
    """Return the work that lets a damaged copy go on for each try, and reports what is wrong."""

    def continue_all(report: Report) -> None:
        for number, (_, damage, file) in enumerate(tries):
            with damaged(whole, work, damage, file, number) as copy:
                result = how_it_ends(words_of(copy))
                fault = result.get("crash", "")
                if "state" in result and f"digest {result['state']}" != expected:
                    fault = "other parameters at the end"
                report(fault)

    return continue_all


@contextlib.contextmanager
def damaged(
    whole: Path, work: Path, damage: str = "", file: Path = Path(), seed: int = 0
) -> Iterator[Path]:
    """Yield a copy of a run in which one file is damaged; the copy is removed at the end."""
    # A command says what it passes over once, so each try is a folder that was not met before.
    copy = work / f"copy-{damage}-{seed}"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    if damage:
        BY_NAME[damage](copy / file, random.Random(seed))
    yield copy
    shutil.rmtree(copy)
