"""Supervised fine-tuning as a stage of the loop: pre-training's next-token loss on what the
assistant says (R1: 2501.12948, section 2.3)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.config import Config
from seekjax.data import DataError, load_tokenizer
from seekjax.data.batches import sample_batches
from seekjax.data.chat import load_chat
from seekjax.errors import need
from seekjax.generate.generator import Generator
from seekjax.generate.sampling import Sampling
from seekjax.post.samples.chats import Form
from seekjax.post.samples.solutions import load_samples, whole_rows
from seekjax.post.tune.esft import Chosen, Experts
from seekjax.train.lora import make_plan
from seekjax.train.loss import NextToken
from seekjax.train.plots import draw
from seekjax.train.pretrain import Pretraining, stacked
from seekjax.train.state import TrainState
from seekjax.train.step import compile_steps, compile_train
from sharding.place import put_batch


class Answers(NextToken):
    """The next-token loss over the tokens that batches say are trained on, and how many those
    are."""

    def metrics(self, batch: dict[str, jax.Array], totals: Any) -> dict[str, jax.Array]:
        held = (batch["segments"][..., 1:] > 0).sum()
        return super().metrics(batch, totals) | {
            "trained": totals.tokens / jnp.maximum(held, 1),
            "filled": held / batch["segments"][..., 1:].size,
        }


class FineTuning(Pretraining):
    """The stage of `python train.py sft`; see train.stage.Stage for the methods."""

    def __init__(self, config: Config):
        check(config)
        self.learn_form(
            replace(config, data=replace(config.data, mask_documents=True, packing="fit"))
        )
        self.corpus = load_samples(self.config, self.form)

    def learn_form(self, config: Config) -> None:
        """The tokenizer and the template of the model that is tuned."""
        self.config, home = config, config.init.expanduser() if config.init else Path()
        self.tokenizer = load_tokenizer(config.data, config.model.vocab, None)
        self.form = Form(load_chat(home, self.tokenizer, config.post.template), self.tokenizer)
        self.process = {"process_index": jax.process_index(), "process_count": jax.process_count()}

    def about(self) -> list[str]:
        kinds = [
            f"{source.name} ({len(source.train):,} samples, {len(source.held_out):,} held out)"
            if source.name in self.config.post.chats
            else f"{source.name} (endless)"
            for source in self.corpus.sources
        ]
        return self.said(", ".join(kinds))

    def said(self, sources: str) -> list[str]:
        """What is read, what was left out, and what learns where that is not all."""
        long = sum(
            file.get("too_long", 0) for source in self.corpus.sources for file in source.files
        )
        dropped = (
            f"; {long:,} longer than data.sequence {self.config.data.sequence} left out"
            if long
            else ""
        )
        return [
            f"data: {sources}{dropped}; {self.tokenizer.size} token ids",
            *([f"learning: {self.plan.about()}"] if self.config.lora.rank else []),
        ]

    def open(self, folder: Path) -> None:
        config, train, post = self.config, self.config.train, self.config.post
        made_for = {
            "tokenizer": self.tokenizer.fingerprint(),
            "template": self.form.fingerprint(),
            "language": post.language,
        }
        fill = {"tokens": self.tokenizer.pad, "trained": 0}
        self.samples = lambda: sample_batches(
            self.corpus,
            fill,
            sequence=config.data.sequence,
            batch=train.rows,
            seed=train.seed,
            fingerprint=made_for,
            **self.process,
        )
        self.batches = self.samples()
        self.held_out = {
            source.name: self.rows_of(source.held_out)
            for source in self.corpus.sources
            if len(source.held_out)
        }
        self.plan = Chosen(config) if post.expert_share else make_plan(config)
        self.experts = Experts(self, folder) if post.expert_share else None
        self.step, self.measure = (
            compile_train(self.plan, Answers(self.plan, self.tokenizer.bytes_V)),
            compile_steps(self.plan, self.tokenizer.bytes_V)[1],
        )
        self.form.chat.save(folder, jax.process_index() == 0)

    def rows_of(self, samples: Any) -> list[dict[str, np.ndarray]]:
        """Held-out batches of these samples."""
        train = self.config.train
        return self.shared(
            whole_rows(
                samples,
                train.eval_batches * (train.rows),
                self.config.data.sequence + 1,
                self.tokenizer.pad,
            )
        )

    def shared(self, rows: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """Rows as batches, of which this process keeps its part; the last is filled up with empty
        rows."""
        size = self.config.train.rows
        empty = {"tokens": np.full_like(rows[0]["tokens"], self.tokenizer.pad)}
        rows = rows + [{name: empty.get(name, np.zeros_like(x)) for name, x in rows[0].items()}] * (
            -len(rows) % size
        )
        own = size // self.process["process_count"]
        mine = slice(own * self.process["process_index"], own * (self.process["process_index"] + 1))
        return [stacked(rows[at : at + size][mine]) for at in range(0, len(rows), size)]

    def batch(self, step: int, state: TrainState) -> dict[str, jax.Array]:
        if self.experts:
            self.experts.choose(step, state)
        return super().batch(step, state)

    def describe(self, record: dict[str, Any]) -> str:
        return (
            f"loss {record['loss']:.3f}  learns {record['trained']:.0%} of tokens, rows "
            f"{record['filled']:.0%} full"
        )

    def evaluate(self, state: TrainState) -> tuple[dict[str, float], str]:
        """Loss on what the assistant says in held-out samples, of every source apart; from the
        moving average of the weights, where one is kept."""
        record, total, params = {}, np.zeros(3), state.params if state.ema is None else state.ema
        for name, batches in self.held_out.items():
            seen = [
                self.measure(params, state, put_batch(batch, "batch sequence")) for batch in batches
            ]
            sums = np.sum(
                [[float(one[key]) for key in ("nats", "tokens", "bytes")] for one in seen], 0
            )
            total, record[f"loss/{name}"] = total + sums, sums[0] / sums[1]
        if not record:
            return {}, "nothing: data.held_out is 0, or there is a single conversation"
        nats, tokens, size = total
        record |= {"loss": nats / tokens, "bits_per_byte": nats / np.log(2) / max(size, 1)}
        parts = [f"{name} {record[f'loss/{name}']:.3f}" for name in self.held_out]
        return record, f"loss {record['loss']:.3f} on {int(tokens):,} tokens of answers" + (
            f" ({', '.join(parts)})" if len(parts) > 1 else ""
        )

    def finish(self, state: TrainState, folder: Path) -> list[str]:
        lines = self.talk(state) if jax.process_count() == 1 else []
        if jax.process_index() == 0:
            lines.append(f"pictures: {', '.join(str(path) for path in draw(folder))}")
        return [
            *lines,
            f"checkpoint: {folder / 'checkpoints' / str(int(state.step))}",
            f"next: talk with it: seekjax chat {folder}",
        ]

    def talk(self, state: TrainState, new: int = 128) -> list[str]:
        """A question of the held-out side, and what the model answers."""
        source = next(
            (source for source in self.corpus.sources if len(source.held_out)),
            self.corpus.sources[0],
        )
        sample = (source.held_out if len(source.held_out) else source.train)[0]
        prompt = sample["tokens"][: int(sample["trained"].argmax())]
        params = self.plan.weights(state.params if state.ema is None else state.ema, state.frozen)
        variables = jax.tree.map(
            jnp.asarray, jax.device_get({"params": params, "balance": state.balance})
        )
        generator = Generator(self.config.model, variables, self.config.kernel, draft=False)
        [row] = generator(
            [prompt.tolist()],
            Sampling(max_new=new, temperature=0.0, stop_ids=(self.tokenizer.eos,)),
        )
        ended = row.ids[-1:] == [self.tokenizer.eos]
        text = self.tokenizer.decode(row.ids[:-1] if ended else row.ids, special=True)
        lines = [line for line in text.splitlines() if line.strip()] or ["(nothing)"]
        return [
            "a sample:",
            *("    asked: " + line for line in self.tokenizer.decode(prompt).splitlines()),
            *("    answers: " + line for line in lines[:8]),
            *(["    ..."] if len(lines) > 8 else []),
        ]


def check(config: Config) -> None:
    """Raise ConfigError or DataError for settings that do not fit each other."""
    post, model = config.post, config.model
    if config.init is None and config.data.tokenizer == "bpe":
        raise DataError(
            "fine-tuning starts from a model: name the folder of a run or of a published "
            "checkpoint with --init."
        )
    need(0 <= post.attempts <= 1, f"post.attempts is {post.attempts}: it is a share, from 0 to 1.")
    need(
        0 <= post.expert_share <= 1,
        f"post.expert_share is {post.expert_share}: it is a share, from 0 (off) to 1.",
    )
    need(
        not post.expert_share or model.layers > model.dense_layers,
        "post.expert_share chooses among experts, and this model has none.",
    )
    need(
        not (post.expert_share and config.lora.rank),
        "post.expert_share and lora.rank both say what learns: choose one.",
    )
    need(
        not config.data.workers,
        "data.workers is for pre-training's text: chats are rendered in this process, set it to 0.",
    )
