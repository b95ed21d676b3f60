"""`seekjax sample`: rejection sampling, from a model's right answers to a file that fine-tuning
reads (R1: 2501.12948, section 2.3.3).
"""

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

from seekjax.commands.common import Flat, keep_compiled
from seekjax.data import DataError
from seekjax.data.tokenizer import THINK, find_special_token
from seekjax.errors import need
from seekjax.eval.evaluator import EvalConfig, Evaluator
from seekjax.generate.detokenizer import REPLACEMENT
from seekjax.open import on_mesh, open_model
from seekjax.post.rollout.grader import Judged
from seekjax.post.rollout.reward import share
from seekjax.post.rollout.statistics import is_right
from seekjax.storage import write_atomically
from seekjax.tasks.answer import Parsed, parse
from sharding.mesh import MeshConfig

EVERY = 10.0  # seconds between lines of progress


@dataclass(frozen=True)
class Sample:
    """Sample answers to training problems of tasks, and keep the right ones as chats to fine-tune
    on.
    """

    folder: Annotated[
        Path, tyro.conf.Positional, tyro.conf.arg(name="model")
    ]  # a run's folder, or that of a published checkpoint
    # the .jsonl file to write: {"messages": [...], "task", "level", "reward"} by line; what is
    # there is replaced
    out: Path
    questions: Flat[EvalConfig] = field(
        default_factory=lambda: EvalConfig(problems=2000, samples=4)
    )
    keep: Literal["right", "all"] = (
        "right"  # all: whatever has ended, as a student may learn its teacher's mistakes too
    )
    language: Literal["en", "zh"] | None = None  # drop what thinks in words of another one
    per_problem: int = 0  # at most so many of a problem, the shortest first; 0 = all that differ
    batch: int = 128  # samples at a time, over the whole mesh; it changes the speed alone
    mesh: MeshConfig = MeshConfig(data=1)  # how many devices split what


def sample(argv: list[str]) -> None:
    """The command; raises errors that cli.run turns into one sentence."""
    asked = tyro.cli(
        Sample, prog="seekjax sample", args=argv, config=(tyro.conf.FlagConversionOff,)
    )
    out = asked.out.expanduser()
    need(out.suffix == ".jsonl", f"--out is {asked.out}: fine-tuning reads .jsonl files, name one.")
    need(
        out.parent.is_dir() and os.access(out.parent, os.W_OK),
        f"--out is {asked.out}: there is no folder {out.parent} that can be written to.",
    )
    need(asked.per_problem >= 0, f"per_problem is {asked.per_problem}: it must be 0 (all) or more.")
    keep_compiled()
    with on_mesh(asked.mesh):
        print(collect(replace(asked, out=out)))


def collect(asked: Sample) -> str:
    """Sample, choose and write; the closing line. Raises DataError where nothing is left to
    write.
    """
    exam = Evaluator(open_model(asked.folder), asked.questions, held_out=False, rows=asked.batch)
    think_in_prompt, rows, drawn, solved, said = (
        exam.judge.think_in_prompt,
        [],
        0,
        0,
        time.monotonic(),
    )
    for some in exam:
        for group in some:
            chosen = choose(group, think_in_prompt, asked)
            rows += [row(one, think_in_prompt) for one in chosen]
            drawn, solved = drawn + len(group), solved + bool(chosen)
        if time.monotonic() - said > EVERY:
            said = time.monotonic()
            print(f"    {drawn:,} samples so far, {len(rows):,} kept", flush=True)
    if jax.process_index():
        return ""
    if not rows:
        raise DataError(
            f"none of {drawn:,} samples can be kept, so {asked.out} is not written: take "
            "an easier task, more samples, or a model that was "
            "trained further."
        )
    write(asked.out, rows)
    speed = f"; {exam.rate:,.0f} tokens/s" if exam.rate else ""
    return (
        f"kept {len(rows):,} of {drawn:,} samples ({len(rows) / drawn:.1%}), of "
        f"{solved:,} of {len(exam.problems):,} problems{speed}: {asked.out}\n"
        f"next: python train.py sft --init {asked.folder} --post.chats {asked.out}"
    )


def choose(group: Sequence[Judged], think_in_prompt: bool, asked: Sample) -> list[Judged]:
    """The samples of a problem that are kept: each text once, the shortest first."""
    fit = [
        one
        for one in group
        if (is_right(one) or asked.keep == "all")
        and teachable(one)
        and speaks(one, think_in_prompt, asked.language)
    ]
    kept: dict[str, Judged] = {}
    for one in sorted(fit, key=lambda one: one.tokens):
        kept.setdefault(one.text.strip(), one)
    return list(kept.values())[: asked.per_problem or None]


def teachable(one: Judged) -> bool:
    """Whether it has ended, says something, and is text through and through: no name of a special
    token, no broken character.
    """
    return (
        not one.truncated
        and bool(one.text.strip())
        and REPLACEMENT not in one.text
        and not find_special_token(one.text)
    )


def speaks(one: Judged, think_in_prompt: bool, language: str | None) -> bool:
    """Whether all words of its thought are of the language."""
    if language is None:
        return True
    parsed = parse(one.text, think_in_prompt)
    return isinstance(parsed, Parsed) and share(parsed.thought, language) == 1


def row(one: Judged, think_in_prompt: bool) -> dict[str, Any]:
    """A sample as a chat of two messages; a <think> that the template wrote is the answer's."""
    content = f"{THINK}\n{one.text}" if think_in_prompt else one.text
    return {
        "messages": [
            {"role": "user", "content": one.problem.prompt},
            {"role": "assistant", "content": content},
        ],
        "task": one.problem.task,
        "level": one.problem.level,
        "reward": None if math.isnan(one.reward) else one.reward,
    }


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replaces the file, whole or not at all."""
    try:
        write_atomically(path, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows))
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror}): name another place with --out."
        ) from error
