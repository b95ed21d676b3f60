"""How near the loss on generated stories comes to their exact entropy: `python
tests/benchmarks/entropy.py [--train.steps N ...]`.

Trains a small model on whole stories and measures it on 1,000 held-out ones, beside -log p of the
same stories under the grammar.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import tyro

from seekjax.config import (
    Config,
    DataConfig,
    KernelConfig,
    ModelConfig,
    OptimizerConfig,
    Piece,
    TrainConfig,
)
from seekjax.data import DataError, Tokenizer
from seekjax.data.batches import stack
from seekjax.data.held_out import padded_row
from seekjax.data.sources import stories
from seekjax.placement import use_mesh
from seekjax.train.loop import fit
from sharding.place import put_batch

CONFIG = Config(
    model=ModelConfig(
        vocab=512,
        embed=64,
        layers=3,
        heads=4,
        q_latent=32,
        kv_latent=32,
        nope=16,
        rotary=16,
        value=16,
        hidden=256,
        expert_hidden=64,
        experts=8,
        experts_per_token=2,
        mtp_depth=0,
        init_std=0.1,
    ),
    data=DataConfig(sources=("stories",), sequence=128),
    optimizer=OptimizerConfig(
        learning_rate=1e-2,
        schedule=(
            Piece(until=0.5, to=1.0),
            Piece(until=1.0, to=0.02, shape="cosine"),
        ),
    ),
    kernel=KernelConfig(remat="product"),
    train=TrainConfig(
        steps=600, batch=16, log_every=50, eval_every=600, save_every=600, balance_rate=0.01
    ),
)


def document_batches(
    texts: Sequence[str], tokenizer: Tokenizer, sequence: int, batch: int
) -> list[dict[str, np.ndarray]]:
    """Return batches, int32 [batch, sequence + 1], of whole documents: no row begins inside one.

    Every token of every document, and the end-of-document after it, is a target (with a segment
    above 0) exactly once, so the summed loss compares with -sum(stories.log_prob(text)). Rows of
    `eval_batches` begin anywhere, which costs a model a little more than the entropy.

    Raises:
        DataError: a document is longer than `sequence`, its end included.
    """
    rows = []
    for text in texts:
        tokens = [*tokenizer.encode(text), tokenizer.eos]
        if len(tokens) > sequence:
            raise DataError(
                f"a document has {len(tokens)} tokens but data.sequence={sequence}; set "
                f"data.sequence to at least {len(tokens)}."
            )
        if not rows or len(rows[-1]) + len(tokens) > sequence + 1:
            rows.append([tokenizer.eos])
        rows[-1] += tokens

    # Empty rows complete the last batch.
    while len(rows) % batch:
        rows.append([])

    padded = [padded_row(row, sequence + 1, tokenizer.pad) for row in rows]
    return [stack(padded[start : start + batch]) for start in range(0, len(padded), batch)]


def main(config: Config):
    config = replace(config, out=config.out or Path(mkdtemp()))
    fitted = fit(config)
    training, report = fitted.training, fitted.parts.report
    held_out = training.corpus.source("stories").held_out
    texts = [held_out[i] for i in range(1000)]
    with use_mesh(config.mesh):
        seen = [
            report.measure(fitted.state.params, fitted.state, put_batch(batch, "batch sequence"))
            for batch in document_batches(
                texts, training.tokenizer, config.data.sequence, config.train.batch
            )
        ]
    tokens = sum(float(one["tokens"]) for one in seen)
    loss, true = (
        sum(float(one["nats"]) for one in seen) / tokens,
        -sum(map(stories.log_prob, texts)) / tokens,
    )
    print(
        f"loss {loss:.4f} nats per token, true entropy of these stories {true:.4f}: "
        f"{loss / true - 1:+.1%}"
    )


if __name__ == "__main__":
    main(tyro.cli(Config, default=CONFIG, args=sys.argv[1:]))
