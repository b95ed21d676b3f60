"""Pre-training as a stage of the loop: batches of packed text, the next-token loss, bits per
byte."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from seekjax.config import Config
from seekjax.data import eval_batches, load_corpus, load_tokenizer, stories, train_batches
from seekjax.train import finish
from seekjax.train.lora import make_plan
from seekjax.train.schedule import batch_at
from seekjax.train.state import TrainState
from seekjax.train.step import BATCH, compile_steps
from sharding.place import put_batch


class Pretraining:
    """The stage of `python train.py tiny`; see train.stage.Stage for the methods."""

    alike = False  # each reads its own share

    def __init__(self, config: Config):
        self.config = config
        self.corpus = load_corpus(config.data)
        self.tokenizer = load_tokenizer(config.data, config.model.vocab, self.corpus)
        self.process = {"process_index": jax.process_index(), "process_count": jax.process_count()}

    def about(self) -> list[str]:
        return [
            "data: "
            f"{', '.join(f'{source.name} ({len(source.train):,} documents)' for source in self.corpus.sources)}; "
            ""
            f"{self.tokenizer.size} token ids"
        ]

    def manifest(self) -> dict[str, Any]:
        return self.corpus.manifest()

    def open(self, folder: Path) -> None:
        train = self.config.train
        self.plan = make_plan(self.config)
        self.batches = train_batches(
            self.config.data,
            self.corpus,
            self.tokenizer,
            batch=train.rows,
            seed=train.seed,
            **self.process,
        )
        self.held_out = HeldOut(self)
        self.step, self.measure = compile_steps(self.plan, self.tokenizer.bytes_V)

    def batch(self, step: int, state: TrainState) -> dict[str, jax.Array]:
        train = self.config.train
        micro = batch_at(train, step) // (train.rows)
        return put_batch(stacked([next(self.batches) for _ in range(micro)]), BATCH)

    def tokens(self, step: int) -> int:
        return batch_at(self.config.train, step) * self.config.data.sequence

    def position(self) -> Any:
        return self.batches.get_state()

    def seek(self, position: Any) -> None:
        self.batches.set_state(position)

    def derive(self, metrics: dict[str, float]) -> dict[str, float]:
        return {
            "bits_per_byte": metrics["loss"]
            * metrics["tokens"]
            / np.log(2)
            / max(metrics["bytes"], 1)
        }

    def describe(self, record: dict[str, Any]) -> str:
        return f"loss {record['loss']:.3f}  {record['bits_per_byte']:.3f} bits/byte"

    def evaluate(self, state: TrainState) -> tuple[dict[str, float], str]:
        return self.held_out(state)

    def finish(self, state: TrainState, folder: Path) -> list[str]:
        return finish.finish(self, state, folder)


def stacked(batches: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Micro-batches as one array with a leading axis."""
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


class HeldOut:
    """Loss and bits per byte on the same held-out batches each time, of every source apart."""

    def __init__(self, stage: Pretraining):
        config, self.stage = stage.config, stage
        batch = config.train.rows
        self.sources = {
            source.name: eval_batches(
                config.data,
                stage.corpus,
                stage.tokenizer,
                batch=batch,
                count=config.train.eval_batches,
                source=source.name,
                **stage.process,
            )
            for source in stage.corpus.sources
            if len(source.held_out)
        }
        self.floor = (
            {"stories": stories.entropy_per_token(stage.tokenizer)}
            if "stories" in self.sources
            else {}
        )

    def __call__(self, state: TrainState) -> tuple[dict[str, float], str]:
        """From the moving average of the weights, where one is kept."""
        record, total, params = {}, np.zeros(3), state.params if state.ema is None else state.ema
        for name, batches in self.sources.items():
            seen = [
                self.stage.measure(params, state, put_batch(batch, "batch sequence"))
                for batch in batches
            ]
            nats, tokens, size = sums = np.sum(
                [[float(one[key]) for key in ("nats", "tokens", "bytes")] for one in seen], 0
            )
            total += sums
            record[f"loss/{name}"], record[f"bits_per_byte/{name}"] = (
                nats / tokens,
                nats / np.log(2) / size,
            )
            if name in self.floor:
                record[f"above_entropy/{name}"] = nats / tokens / self.floor[name] - 1
        nats, tokens, size = total
        record |= {"loss": nats / tokens, "bits_per_byte": nats / np.log(2) / size}
        parts = (
            [f"{name} {record[f'bits_per_byte/{name}']:.3f}" for name in self.sources]
            if len(self.sources) > 1
            else []
        )
        parts += [
            f"{name} {record[f'above_entropy/{name}']:+.1%} over its true entropy"
            for name in self.floor
        ]
        return record, f"{record['bits_per_byte']:.3f} bits/byte, loss {record['loss']:.3f}" + (
            f" ({', '.join(parts)})" if parts else ""
        )
