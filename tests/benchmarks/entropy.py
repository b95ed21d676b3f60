"""How near the loss on generated stories comes to their exact entropy: `python
tests/benchmarks/entropy.py [--train.steps N ...]`.

Trains a small model on whole stories and measures it on 1,000 held-out ones, beside -log p of the
same stories under the grammar.
"""

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

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
from seekjax.data import document_batches
from seekjax.data.sources import stories
from seekjax.train.loop import fit
from sharding.mesh import make_mesh
from sharding.place import put_batch
from sharding.rules import use

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


def main(config: Config):
    config = replace(config, out=config.out or Path(mkdtemp()))
    fitted = fit(config)
    stage = fitted.stage
    held_out = stage.corpus.source("stories").held_out
    texts = [held_out[i] for i in range(1000)]
    with use(make_mesh(config.mesh)):
        seen = [
            stage.measure(fitted.state.params, fitted.state, put_batch(batch, "batch sequence"))
            for batch in document_batches(
                texts, stage.tokenizer, config.data.sequence, config.train.batch
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
