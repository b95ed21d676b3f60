"""What extending the context is worth: bits per byte by position, and a line planted far back.

    python train.py tiny_long
    python -m tests.benchmarks.long_context runs/tiny_long
    python -m tests.benchmarks.long_context runs/needle needle    # see planted.py

Both are measured before and after each phase, on held-out documents of Python's standard library.
The planted line is ours: `session_key = "..."` with a value of random syllables. A text ends with
the beginning of the same line, and the figure is how many bits fewer the value costs than after the
same text with another value planted. The values are drawn anew: one that costs less was read where
it was planted. The models of tiny_long were not trained on such lines, those of `needle` were.
Results: tests/benchmarks/results/, long_context.md and needle.md with their pictures
"""

import random
import sys
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from seekjax.config import DataConfig
from seekjax.data import Tokenizer, load_corpus
from seekjax.model.transformer import Transformer
from seekjax.open import OpenedModel, need_tokenizer, open_model
from seekjax.train.score import nll
from tests.benchmarks.planted import LINE, draw_word

RESULTS = Path(__file__).parent / "results"
STEPS = ("base", "1k", "4k")
LENGTHS = (256, 1024, 4096)
# Where positions are cut for the figure.
EDGES = (0, 32, 64, 128, 256, 512, 1024, 2048, 4096)
ROWS = 12  # at most, of held-out documents of at least the longest length
TEXTS = 8  # that a line is planted in, at each length and depth
DEPTHS = (0.1, 0.5, 0.9)


@partial(jax.jit, static_argnums=0)
def bits(model: Transformer, variables: dict, tokens_BX: jax.Array) -> jax.Array:
    """Return -log2 p of tokens 1..T, [B, T]."""
    output = model.apply(variables, tokens_BX[:, :-1])
    nats_BT = nll(output.hidden_BTD, output.head_DV, tokens_BX[:, 1:], 8192)
    return nats_BT / jnp.log(2.0)


def long_documents(tokenizer: Tokenizer) -> list[np.ndarray]:
    """Return held-out documents as tokens, each at least one row long and cut to it."""
    documents = load_corpus(DataConfig()).source("stdlib").held_out
    rows = []
    for index in range(len(documents)):
        tokens = np.asarray(tokenizer.encode(documents[index]), np.int32)
        if len(tokens) >= LENGTHS[-1] and len(rows) < ROWS:
            rows.append(np.append(np.int32(tokenizer.begin), tokens[: LENGTHS[-1]]))
    return rows


def measure(opened: OpenedModel, rows: Sequence[np.ndarray]) -> np.ndarray:
    """Return -log2 p of each row's tokens after the first, one row at a time."""
    model = Transformer(opened.model, opened.kernel)
    return np.stack([np.asarray(bits(model, opened.variables, row[None]))[0] for row in rows])


def by_position(
    opened: OpenedModel, rows: Sequence[np.ndarray], bytes_V: np.ndarray
) -> list[float]:
    """Return bits per byte between EDGES."""
    bits_BT = measure(opened, rows)
    size_BT = bytes_V[np.stack(rows)[:, 1:]]
    figures = []
    for first, end in pairwise(EDGES):
        figures.append(bits_BT[:, first:end].sum() / size_BT[:, first:end].sum())
    return figures


def planted(
    tokenizer: Tokenizer, document: np.ndarray, length: int, depth: float, seed: int
) -> tuple[list[np.ndarray], int]:
    """Return a text with a line in it and its value again at the end, the same text with another
    value in the line, and how many tokens the value has; texts have `length` + 1 tokens.
    """
    chosen = random.Random(seed)
    value, other = draw_word(chosen), draw_word(chosen)
    begin, end = tokenizer.encode(LINE), tokenizer.encode(value)

    texts = []
    for word in (value, other):
        line = [*begin, *tokenizer.encode(word), *tokenizer.encode('"\n')]
        room = length - len(line) - len(begin) - len(end)
        cut = round(depth * room)
        text = [tokenizer.begin, *document[:cut], *line, *document[cut:room], *begin, *end]
        texts.append(np.asarray(text, np.int32))
    return texts, len(end)


def saved_bits(
    opened: OpenedModel, documents: Sequence[np.ndarray], length: int, depth: float
) -> np.ndarray:
    """Return the bits that a planted value saves, of each text."""
    tokenizer = need_tokenizer(opened)
    saved = []
    for seed in range(TEXTS):
        document = documents[seed % len(documents)][1:]
        texts, size = planted(tokenizer, document, length, depth, seed)
        with_it, without = measure(opened, texts)[:, -size:].sum(1)
        saved.append(without - with_it)
    return np.asarray(saved)


def main(runs: Path, results: str = "long_context") -> None:
    """Measure, draw, and write the results under a name."""
    names, positions, needles = [], [], []
    documents: list[np.ndarray] = []
    for step in STEPS:
        opened = open_model(runs / step)
        tokenizer = need_tokenizer(opened)
        documents = long_documents(tokenizer)
        names.append(f"{step}: trained at {LENGTHS[STEPS.index(step)]:,}")
        positions.append(by_position(opened, documents, np.asarray(tokenizer.bytes_V)))
        needles.append(
            [
                [saved_bits(opened, documents, length, depth) for depth in DEPTHS]
                for length in LENGTHS
            ]
        )
        print(names[-1], np.round(positions[-1], 3), flush=True)
        print(np.round(np.mean(needles[-1], -1), 2), flush=True)
    saved = np.asarray(needles)
    text = report(names, positions, saved, len(documents), results)
    (RESULTS / f"{results}.md").write_text(text)
    draw(names, positions, saved, RESULTS / f"{results}.png")


def report(
    names: list[str], positions: list[list[float]], saved: np.ndarray, rows: int, results: str
) -> str:
    """Return both tables in Markdown."""
    spans = [f"{first}-{end}" for first, end in pairwise(EDGES)]
    lines = [
        "# A longer context, in small",
        "",
        f"    python -m tests.benchmarks.long_context RUNS {results}",
        "",
        f"Bits per byte of {rows} held-out documents by position (tokens):",
        "",
        "| after step | " + " | ".join(spans) + " |",
        "|---|" + "---|" * len(spans),
    ]
    for name, figures in zip(names, positions):
        lines.append(f"| {name} | " + " | ".join(f"{x:.3f}" for x in figures) + " |")

    lines += [
        "",
        "Bits that a planted value saves at the end of a text (mean over texts and depths, standard "
        f"error; {TEXTS} texts at {len(DEPTHS)} depths):",
        "",
        "| after step | " + " | ".join(f"{length:,} tokens" for length in LENGTHS) + " |",
        "|---|" + "---|" * len(LENGTHS),
    ]
    for name, of_step in zip(names, saved.reshape(len(names), len(LENGTHS), -1)):
        cells = [f"{x.mean():+.2f} ± {x.std(ddof=1) / len(x) ** 0.5:.2f}" for x in of_step]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"![picture]({results}.png)", ""])


def draw(names: list[str], positions: list[list[float]], saved: np.ndarray, path: Path) -> None:
    """Draw both figures side by side."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    middles = [(first + end) / 2 for first, end in pairwise(EDGES)]
    for name, figures in zip(names, positions):
        left.plot(middles, figures, marker="o", markersize=3, label=name)
    left.set(xscale="log", xlabel="position (tokens)", ylabel="bits per byte")
    left.legend(frameon=False, fontsize=8)

    width = 0.8 / len(names)
    for index, (name, of_step) in enumerate(zip(names, saved)):
        flat = of_step.reshape(len(LENGTHS), -1)
        error = flat.std(-1, ddof=1) / flat.shape[1] ** 0.5
        place = np.arange(len(LENGTHS)) + (index - 1) * width
        right.bar(place, flat.mean(-1), width, yerr=error, label=name)
    right.set_xticks(range(len(LENGTHS)), [f"{length:,}" for length in LENGTHS])
    right.set(xlabel="length of the text (tokens)", ylabel="bits saved by the planted line")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
