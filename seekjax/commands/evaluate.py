"""`seekjax eval MODEL --data PATH` or `--task NAME`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from seekjax.commands.common import Flat, keep_compiled
from seekjax.config import DataConfig
from seekjax.data import Corpus, load_corpus
from seekjax.data.corpus import is_named
from seekjax.errors import need
from seekjax.eval.bits import Progress, Sums, measure, rows_of
from seekjax.eval.evaluator import EvalConfig
from seekjax.eval.report import examined, report_path, tell
from seekjax.model.transformer import Transformer
from seekjax.open import need_tokenizer, on_mesh, open_model, weights_fingerprint
from sharding.mesh import MeshConfig

SAVE_EVERY = 10.0  # seconds


@dataclass(frozen=True)
class Eval:
    """Bits per byte and perplexity of a text, or pass@1, pass@k and cons@k on held-out problems of
    tasks."""

    folder: Annotated[
        Path, tyro.conf.Positional, tyro.conf.arg(name="model")
    ]  # a run's folder, or that of a published checkpoint
    # a .txt .jsonl .parquet .arrayrecord file or folder, or stdlib, arithmetic, stories: their
    # held-out documents
    data: str = ""
    documents: int = 0  # only so many; 0 = all, 1,000 of a built-in source
    sequence: int = 256  # tokens per row; the model sees nothing before its row
    batch: int | None = (
        # rows at a time, over the whole mesh; it changes the speed alone. Default: 8 rows of text,
        # 128 samples
        None
    )
    text_field: str = "text"  # column or key that holds the text in .jsonl and .parquet
    progress: Path | None = (
        # remembers how far it came: the same command goes on there; default: eval-DATA.json beside
        # the weights
        None
    )
    questions: Flat[EvalConfig] = field(default_factory=EvalConfig)
    report: Path | None = (
        None  # where the figures of tasks go; default: eval-TASK.json beside the weights
    )
    mesh: MeshConfig = MeshConfig(data=1)  # how many devices split what


def evaluate(argv: list[str]) -> None:
    """The command; raises errors that cli.run turns into one sentence."""
    asked = tyro.cli(Eval, prog="seekjax eval", args=argv, config=(tyro.conf.FlagConversionOff,))
    need(
        bool(asked.data) != bool(asked.questions.task),
        "name either --data, for the bits per byte of a text, or --task, for problems as "
        "countdown:1.",
    )
    keep_compiled()
    with on_mesh(asked.mesh):
        if asked.questions.task:
            opened = open_model(asked.folder)
            seen, rate = examined(opened, asked.questions, asked.batch)
            return tell(
                asked.questions,
                seen,
                rate,
                asked.report or report_path(opened.folder, asked.questions.task),
            )
        sums, seconds = evaluated(asked)
    speed = f"; {sums.tokens / seconds:,.0f} tokens/s" if seconds else "; measured before"
    print(
        f"{asked.data}: {sums.bytes:,} bytes, {sums.bits_per_byte:.4f} bits/byte, "
        f"perplexity {sums.perplexity:.3f} per token{speed}"
    )


def evaluated(asked: Eval) -> tuple[Sums, float]:
    """The sums, and the seconds it took this time."""
    opened = open_model(asked.folder)
    tokenizer = need_tokenizer(opened)
    corpus = load_corpus(
        DataConfig(
            sources=(asked.data,),
            text_field=asked.text_field,
            held_out=0.05 if is_named(asked.data) else 0.0,
        )
    )
    documents, count = chosen(corpus, asked)
    made_for = {
        "weights": weights_fingerprint(opened.folder),
        "dtype": opened.kernel.dtype,
        "corpus": corpus.fingerprint(),
        "documents": count,
        "tokenizer": tokenizer.fingerprint(),
        "begin": opened.begin,
        "sequence": asked.sequence,
    }
    progress = Progress(
        asked.progress or opened.folder / f"eval-{Path(asked.data).stem}.json", made_for
    )
    sums, done = progress.load()
    if done:
        return sums, 0.0
    transformer = Transformer(opened.model, replace(opened.kernel, remat="none", capacity=0.0))
    rows = rows_of(
        (tokenizer.encode(documents[index]) for index in range(count)), opened.begin, asked.sequence
    )
    began = saved = time.perf_counter()
    before = sums.tokens
    for sums in measure(
        transformer, opened.variables, rows, tokenizer.bytes_V, asked.batch or 8, sums
    ):
        if time.perf_counter() - saved > SAVE_EVERY:
            progress.save(sums, False)
            saved = time.perf_counter()
            print(
                f"    {sums.bytes:,} bytes so far: {sums.bits_per_byte:.4f} bits/byte", flush=True
            )
    progress.save(sums, True)
    return sums, (time.perf_counter() - began) * sums.tokens / max(1, sums.tokens - before)


def chosen(corpus: Corpus, asked: Eval) -> tuple[Sequence[str], int]:
    """The documents, and how many of them to measure."""
    [source] = corpus.sources
    built_in = is_named(asked.data)
    documents = source.held_out if built_in else source.train
    return documents, min(asked.documents or (1000 if built_in else len(documents)), len(documents))
