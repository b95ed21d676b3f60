"""`seekjax sample`: rejection sampling, from a model's right answers to chats for fine-tuning
(R1: 2501.12948, section 2.3.3).
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from seekjax.commands.common import keep_compiled
from seekjax.commands.settings import Sample
from seekjax.config.values import check_values
from seekjax.console import progress
from seekjax.data import DataError
from seekjax.data.tokenizer import find_special_token
from seekjax.errors import need
from seekjax.eval.evaluator import Evaluator
from seekjax.generate.detokenizer import REPLACEMENT
from seekjax.open import on_mesh, open_model
from seekjax.post.rollout.grader import GradedSample
from seekjax.post.rollout.reward import word_languages
from seekjax.post.rollout.statistics import is_right
from seekjax.storage import write_atomically
from seekjax.tasks.answer import Parsed, parse


def sample(options: Sample) -> None:
    """Run the command; cli.exit_status prints the sentence of what it raises."""
    check(options)
    keep_compiled()
    with on_mesh(options.mesh):
        print(collect(replace(options, out=options.out.expanduser())))


def check(options: Sample) -> None:
    """Raise ConfigError if the file cannot be written or a number has no meaning."""
    check_values(options.questions)
    check_values(options)
    folder = options.out.expanduser().parent
    need(
        options.out.suffix == ".jsonl",
        f"--out is {options.out}: fine-tuning reads .jsonl files, name one.",
    )
    need(
        folder.is_dir() and os.access(folder, os.W_OK),
        f"--out is {options.out}: there is no folder {folder} that can be written to.",
    )


def collect(options: Sample) -> str:
    """Draw samples, keep some, write them; return the closing line.

    Raises DataError if no sample can be kept.
    """
    opened = open_model(options.folder, trust=options.trust, base=options.base)
    evaluator = Evaluator(opened, options.questions, held_out=False, rows=options.batch)
    opening = evaluator.grader.opening
    think_in_prompt = evaluator.grader.think_in_prompt

    rows: list[dict[str, Any]] = []
    drawn = 0
    solved = 0
    wanted = len(evaluator.problems) * options.questions.samples
    with progress(", ".join(options.questions.task)) as show:
        for groups in evaluator:
            for group in groups:
                kept = choose(group, think_in_prompt, options)
                rows += [chat_row(answer, opening) for answer in kept]
                drawn += len(group)
                solved += bool(kept)
            show(drawn / wanted, f"{drawn:,} samples, {len(rows):,} kept")

    if jax.process_index():
        return ""
    need(
        rows,
        f"none of {drawn:,} samples can be kept, so {options.out} is not written: take an easier "
        "task, more samples, or a model that was trained further.",
        DataError,
    )
    write_rows(options.out, rows)

    problems = len(evaluator.problems)
    speed = f"; {evaluator.rate:,.0f} tokens/s" if evaluator.rate else ""
    return (
        f"kept {len(rows):,} of {drawn:,} samples ({len(rows) / drawn:.1%}), of "
        f"{solved:,} of {problems:,} problems{speed}: {options.out}\n"
        f"next: python train.py sft --init {options.folder} --sft.chats {options.out}"
    )


def choose(
    group: Sequence[GradedSample], think_in_prompt: bool, options: Sample
) -> list[GradedSample]:
    """Return the samples of a problem to keep: each text once, the shortest first."""
    kept: dict[str, GradedSample] = {}
    for answer in sorted(group, key=lambda answer: answer.tokens):
        if options.keep == "right" and not is_right(answer):
            continue
        if not is_clean(answer) or not is_in(options.language, answer, think_in_prompt):
            continue
        kept.setdefault(answer.text.strip(), answer)
    return list(kept.values())[: options.per_problem or None]


def is_clean(answer: GradedSample) -> bool:
    """Return whether a sample is a complete text to fine-tune on.

    It is not cut off, not empty, and without names of special tokens or broken characters.
    """
    return (
        not answer.truncated
        and bool(answer.text.strip())
        and REPLACEMENT not in answer.text
        and not find_special_token(answer.text)
    )


def is_in(language: str | None, answer: GradedSample, think_in_prompt: bool) -> bool:
    """Return whether all words of a sample's thought are of the language, if one is given."""
    if language is None:
        return True
    parsed = parse(answer.text, think_in_prompt)
    if not isinstance(parsed, Parsed):
        return False
    # A thought of numbers alone is in every language.
    return set(word_languages(parsed.thought)) <= {language}


def chat_row(answer: GradedSample, opening: str = "") -> dict[str, Any]:
    """Return a sample as a chat of two messages.

    `opening` is the <think> that the chat template wrote, which becomes part of the answer.
    """
    problem = answer.problem
    content = opening + answer.text
    reward = None if math.isnan(answer.reward) else answer.reward
    return {
        "messages": [
            {"role": "user", "content": problem.prompt},
            {"role": "assistant", "content": content},
        ],
        "task": problem.task,
        "level": problem.level,
        "reward": reward,
    }


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows as .jsonl, atomically. Raises DataError if the file cannot be written."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    try:
        write_atomically(path, "".join(lines))
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror}): name another file with --out."
        ) from error
