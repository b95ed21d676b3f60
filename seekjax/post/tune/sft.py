"""Supervised fine-tuning on the assistant's turns (R1: 2501.12948, section 2.3)."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.config import Config, SftConfig
from seekjax.data import Corpus, DataError
from seekjax.errors import ConfigError, need
from seekjax.generate.sampling import Sampling
from seekjax.post.samples.batches import HeldOut, held_out_samples, load_format, training_batches
from seekjax.post.samples.corpus import load_samples
from seekjax.post.samples.template import ChatFormat
from seekjax.post.tune.esft import ChoosingSource
from seekjax.post.tune.report import closing_lines, data_lines, of_sources
from seekjax.train.held_out import add_up, bits_per_byte, measure_sources
from seekjax.train.lora import Chosen, make_spec
from seekjax.train.loss import NextToken, Totals
from seekjax.train.plots import draw
from seekjax.train.sample import write_sample
from seekjax.train.source import BatchSource
from seekjax.train.state import RunSpec, TrainState
from seekjax.train.step import compile_eval, compile_gradient, compile_text_train
from seekjax.train.training import Parts
from sharding.place import put_batch

SAMPLE_TOKENS = 128  # that the model writes at the end
SAMPLE_LINES = 8  # of these tokens' text that are shown


class AnswerTokens(NextToken):
    """The next-token loss over the tokens that a batch marks as trained, and how many those are."""

    def metrics(self, batch: dict[str, jax.Array], totals: Totals) -> dict[str, jax.Array]:
        """Return further figures: "trained", a share of the tokens; "filled", one of the rows."""
        targets = batch["segments"][..., 1:]
        held = (targets > 0).sum()
        return super().metrics(batch, totals) | {
            "trained": totals.tokens / jnp.maximum(held, 1),
            "filled": held / targets.size,
        }


class FineTuning:
    """The train.training.Training of `python train.py sft`."""

    shared_position = False  # each process reads its own share

    def __init__(self, config: Config):
        self.sft = check(config)
        self.config = config
        self.packed = pack_whole(config)
        self.chat_format = load_format(self.packed, config.init, self.sft)
        self.tokenizer = self.chat_format.tokenizer
        self.corpus = load_samples(
            self.sft,
            config.data,
            config.train.seed,
            self.chat_format,
            "sft",
            attempts=self.sft.attempts,
        )

    def manifest(self) -> dict[str, Any]:
        """Return what exactly is read, for data.json."""
        return self.corpus.manifest()

    def build(self, folder: Path) -> Parts:
        """Compile on the mesh in use."""
        config = self.packed
        open_batches = partial(
            training_batches, config, self.corpus, self.chat_format, self.sft.language
        )
        if self.sft.expert_share:
            spec = Chosen(config)
            source = ChoosingSource(spec, self.sft, open_batches, folder)
        else:
            spec = make_spec(config)
            source = BatchSource(config, open_batches())

        bytes_V = self.tokenizer.bytes_V
        held_out = held_out_samples(config, self.corpus, self.tokenizer.pad)
        self.chat_format.chat.save(folder, jax.process_index() == 0)
        return Parts(
            spec=spec,
            source=source,
            step=compile_text_train(spec, AnswerTokens, bytes_V),
            evaluate=HeldOutAnswers(held_out, compile_eval(spec, bytes_V)),
            report=SftReport(spec, self.corpus, self.chat_format),
            gradient=compile_gradient(spec, lambda: AnswerTokens(spec, bytes_V)),
        )


def pack_whole(config: Config) -> Config:
    """Return the config of a run on samples, which share rows whole and do not see each other."""
    data = replace(config.data, mask_documents=True, packing="fit")
    return replace(config, data=data)


class HeldOutAnswers:
    """Loss on the answers of held-out samples, of every source apart."""

    def __init__(self, held_out: HeldOut, measure: Callable[..., dict[str, jax.Array]]):
        self.held_out = held_out
        self.measure = measure

    def __call__(self, state: TrainState) -> tuple[dict[str, float], str]:
        """Return the held-out figures, and a sentence of them."""
        if not self.held_out:
            return {}, ""

        def measure(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
            return self.measure(state.averaged, state, put_batch(batch, "batch"))

        by_source = measure_sources(measure, self.held_out)
        record = {}
        for name, sums in by_source.items():
            record[f"loss/{name}"] = sums["nats"] / sums["tokens"]
        total = add_up(by_source.values())
        record["loss"] = total["nats"] / total["tokens"]
        record["bits_per_byte"] = bits_per_byte(total)

        parts = of_sources("loss", record, list(by_source), 3)
        sentence = f"loss {record['loss']:.3f} on {int(total['tokens']):,} tokens of answers"
        return record, f"{sentence} ({parts})" if parts else sentence


class SftReport:
    """The words of a fine-tuning run."""

    def __init__(self, spec: RunSpec, corpus: Corpus, chat_format: ChatFormat):
        self.spec = spec
        self.corpus = corpus
        self.chat_format = chat_format

    def header(self) -> list[str]:
        """Return the lines that state what will be read and trained."""
        sequence, tokenizer = self.spec.config.data.sequence, self.chat_format.tokenizer
        data = data_lines(self.corpus, "samples", sequence, tokenizer.size)
        return [*data, *self.spec.trained()]

    def extra_metrics(self, metrics: dict[str, float]) -> dict[str, float]:
        """Return the bits per byte of the answers of a step."""
        sums = {"nats": metrics["loss"] * metrics["tokens"], "bytes": metrics["bytes"]}
        return {"bits_per_byte": bits_per_byte(sums)}

    def progress(self, record: dict[str, Any]) -> str:
        """Return what the progress line shows of a step."""
        return (
            f"loss {record['loss']:.3f}  learns {record['trained']:.0%} of tokens, rows "
            f"{record['filled']:.0%} full"
        )

    def finish(self, state: TrainState, folder: Path) -> list[str]:
        """Return a sample and the closing lines of a run; draws its plots into the folder."""
        lines = self.sample(state) if jax.process_count() == 1 else []
        if jax.process_index() == 0:
            lines.append(f"pictures: {', '.join(map(str, draw(folder)))}")
        return [*lines, *closing_lines(state, folder)]

    def sample(self, state: TrainState) -> list[str]:
        """Return a held-out question, if there is one, and what the model answers."""
        sources = self.corpus.sources
        held_out = [source for source in sources if len(source.held_out)]
        sample = held_out[0].held_out[0] if held_out else sources[0].train[0]
        prompt = sample["tokens"][: int(sample["trained"].argmax())]

        tokenizer = self.chat_format.tokenizer
        sampling = Sampling(max_new=SAMPLE_TOKENS, temperature=0.0, stop_ids=tokenizer.stops)
        ids = write_sample(self.spec, state, prompt.tolist(), sampling)
        if ids and ids[-1] in tokenizer.stops:
            ids = ids[:-1]
        answer = tokenizer.decode(ids, special=True).splitlines()
        answer = [line for line in answer if line.strip()] or ["(nothing)"]

        lines = ["a sample:"]
        lines += [f"    asked: {line}" for line in tokenizer.decode(prompt).splitlines()]
        lines += [f"    answers: {line}" for line in answer[:SAMPLE_LINES]]
        if len(answer) > SAMPLE_LINES:
            lines.append("    ...")
        return lines


def check(config: Config) -> SftConfig:
    """Return the settings. Raises ConfigError or DataError if they do not fit each other."""
    sft, model = config.sft, config.model
    if sft is None:
        raise ConfigError("fine-tuning needs settings: sft is None.")
    check_start(config, "fine-tuning")

    # Chosen experts
    need(
        not sft.expert_share or model.layers > model.dense_layers,
        "sft.expert_share chooses among experts, and this model has none.",
    )
    need(
        not (sft.expert_share and config.lora.rank),
        "sft.expert_share and lora.rank both set what is trained: choose one.",
    )
    return sft


def check_start(config: Config, kind: str) -> None:
    """Raise ConfigError or DataError if a run on chats has no tokenizer, or asks for workers."""
    need(
        config.init is not None or config.data.tokenizer != "bpe",
        f"{kind} starts from a model: name the folder of a run or of a published checkpoint with "
        "--init.",
        DataError,
    )
    need(
        not config.data.workers,
        "data.workers is for pre-training's text: chats are rendered in this process, set it to 0.",
    )
