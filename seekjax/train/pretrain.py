"""Pre-training: batches of packed text, the next-token loss, bits per byte."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seekjax.config import Config
from seekjax.data import (
    Corpus,
    Tokenizer,
    eval_batches,
    exact_batches,
    held_out_text,
    load_corpus,
    load_tokenizer,
    stories,
    train_batches,
    xz_bits_per_byte,
)
from seekjax.data.batches import Batches
from seekjax.data.streams import ProcessBatches
from seekjax.generate.sampling import Sampling
from seekjax.placement import use_mesh
from seekjax.train.held_out import add_up, bits_per_byte, measure_sources
from seekjax.train.lora import make_spec
from seekjax.train.loss import NextToken
from seekjax.train.plots import draw
from seekjax.train.sample import indent, write_sample
from seekjax.train.source import BatchSource, own_rows, process_share
from seekjax.train.state import RunSpec, TrainState
from seekjax.train.step import compile_gradient, compile_steps
from seekjax.train.training import Parts
from sharding.place import put_batch

Measure = Callable[[Any, TrainState, dict[str, jax.Array]], dict[str, jax.Array]]

TEXT_BYTES = 200_000  # of held-out text in the closing figure
SAMPLE_TOKENS = 96  # that the model writes at the end

PROMPT_CHARACTERS = 40  # of a held-out document, that the model goes on from

# How documents of built-in sources begin; those of others are given their own beginning.
PROMPTS = {"stories": "", "arithmetic": "", "stdlib": "def "}


class Pretraining:
    """Pre-training with its corpus and tokenizer read; see train/training.py for the methods."""

    shared_position = False  # each process reads its own share

    def __init__(self, config: Config):
        self.config = config
        self.corpus = load_corpus(config.data)
        self.tokenizer = load_tokenizer(config.data, config.model.vocab, self.corpus)
        if config.init is None and not has_own_tokenizer(config):
            # whatever another model's files say: documents follow others
            self.tokenizer = self.tokenizer.beginning_with(self.tokenizer.eos)

    def manifest(self) -> dict[str, Any]:
        """Return every file read, with its hash."""
        return self.corpus.manifest()

    def build(self, folder: Path) -> Parts:
        """Compile the steps, and open the batches."""
        config = self.config
        spec = make_spec(config)
        step, measure = compile_steps(spec, self.tokenizer.bytes_V)

        def open_stream(number: int, count: int) -> Batches:
            return train_batches(
                config.data,
                self.corpus,
                self.tokenizer,
                batch=config.train.rows,
                seed=config.train.seed,
                process_index=number,
                process_count=count,
            )

        batches = ProcessBatches(open_stream, config.train.rows, **process_share())
        return Parts(
            spec=spec,
            source=BatchSource(config, batches),
            step=step,
            evaluate=HeldOutText(config, self.corpus, self.tokenizer, measure),
            report=PretrainingReport(spec, self.corpus, self.tokenizer, measure),
            gradient=compile_gradient(spec, lambda: NextToken(spec, self.tokenizer.bytes_V)),
        )


def has_own_tokenizer(config: Config) -> bool:
    """Return whether a run reads the tokenizer of its own folder, as an imported model does."""
    tokenizer = Path(config.data.tokenizer).expanduser().resolve()
    return config.out is not None and config.out.resolve() in (tokenizer, tokenizer.parent)


class HeldOutText:
    """Loss and bits per byte on the same held-out batches each time, of every source apart."""

    def __init__(
        self,
        config: Config,
        corpus: Corpus,
        tokenizer: Tokenizer,
        measure: Measure,
    ):
        self.measure = measure
        self.rows = config.train.eval_rows  # of each source
        self.sources: dict[str, list[dict[str, np.ndarray]]] = {}
        for source in corpus.sources:
            if len(source.held_out):
                self.sources[source.name] = eval_batches(
                    config.data,
                    corpus,
                    tokenizer,
                    batch=config.train.rows,
                    count=config.train.eval_rows // config.train.rows,
                    source=source.name,
                    **process_share(),
                )

        # The exactly known entropy of a source, in nats per token, that no model can go below.
        self.entropy: dict[str, float] = {}
        if "stories" in self.sources:
            self.entropy["stories"] = stories.entropy_per_token(tokenizer)

    def __call__(self, state: TrainState) -> tuple[dict[str, float], str]:
        """Return the figures and a sentence of them; neither without held-out text."""
        if not self.sources:
            return {}, ""

        def measure(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
            return self.measure(state.averaged, state, put_batch(batch, "batch"))

        by_source = measure_sources(measure, self.sources)
        record = {}
        for name, sums in by_source.items():
            record[f"loss/{name}"] = sums["nats"] / sums["tokens"]
            record[f"bits_per_byte/{name}"] = bits_per_byte(sums)
            if name in self.entropy:
                record[f"above_entropy/{name}"] = record[f"loss/{name}"] / self.entropy[name] - 1

        total = add_up(by_source.values())
        record["loss"] = total["nats"] / total["tokens"]
        record["bits_per_byte"] = bits_per_byte(total)
        return record, self.sentence(record)

    def sentence(self, record: dict[str, float]) -> str:
        """Return the figures in words, each source apart if there are several."""
        parts = []
        if len(self.sources) > 1:
            parts += [f"{name} {record[f'bits_per_byte/{name}']:.3f}" for name in self.sources]
        for name in self.entropy:
            parts.append(f"{name} {record[f'above_entropy/{name}']:+.1%} over its true entropy")

        text = (
            f"{record['bits_per_byte']:.3f} bits/byte, loss {record['loss']:.3f} on "
            f"{self.rows * len(self.sources)} sequences"
        )
        return f"{text} ({', '.join(parts)})" if parts else text


class PretrainingReport:
    """The words of a pre-training run."""

    def __init__(
        self,
        spec: RunSpec,
        corpus: Corpus,
        tokenizer: Tokenizer,
        measure: Measure,
    ):
        self.spec = spec
        self.corpus = corpus
        self.tokenizer = tokenizer
        self.measure = measure

    def header(self) -> list[str]:
        """Return the line that states what will be read."""
        parts = []
        for source in self.corpus.sources:
            parts.append(f"{source.name} ({len(source.train):,} documents)")
        data = f"data: {', '.join(parts)}; {self.tokenizer.size} token ids"
        return [data, *self.corpus.notes()]

    def extra_metrics(self, metrics: dict[str, float]) -> dict[str, float]:
        """Return the bits per byte of a step's text."""
        sums = {"nats": metrics["loss"] * metrics["tokens"], "bytes": metrics["bytes"]}
        return {"bits_per_byte": bits_per_byte(sums)}

    def progress(self, record: dict[str, Any]) -> str:
        """Return what the progress line shows of a step."""
        return f"loss {record['loss']:.3f}  {record['bits_per_byte']:.3f} bits/byte"

    def finish(self, state: TrainState, folder: Path) -> list[str]:
        """Return bits per byte next to xz, a sample, and where everything is; draw the pictures."""
        lines = [*self.compare_with_xz(state), *self.sample(state)]
        if jax.process_index() == 0:
            lines.append("pictures: " + ", ".join(map(str, draw(folder))))

        prompt = first_prompt(self.corpus)
        command = shlex.join(["seekjax", "generate", str(folder), "--prompt", prompt])
        return [*lines, checkpoint_line(state, folder), f"next: let it write with {command}"]

    def compare_with_xz(self, state: TrainState) -> list[str]:
        """Return bits per byte on held-out text, by the model and by `xz -6` on the same bytes."""
        lines = []
        with use_mesh(self.spec.config.mesh):
            for source in self.corpus.sources:
                if len(source.held_out):
                    text = held_out_text(self.corpus, source.name, TEXT_BYTES)
                    size = len(text.encode())
                    bits = self.nats(text, state) / float(np.log(2)) / size
                    lines.append(
                        f"held-out {source.name}, its first {size:,} bytes: {bits:.3f} bits/byte; "
                        f"xz -6 on the same bytes: {xz_bits_per_byte(text):.3f}"
                    )
        return lines

    def nats(self, text: str, state: TrainState) -> float:
        """Return the summed loss of a text, in which every token is a target once."""
        config = self.spec.config
        batches = exact_batches(text, self.tokenizer, config.data.sequence, config.train.rows)
        own = own_rows(config.train.rows)

        sums = []
        for batch in batches:
            rows = {name: x[own] for name, x in batch.items()}
            sums.append(self.measure(state.averaged, state, put_batch(rows, "batch")))
        return add_up(sums)["nats"]

    def sample(self, state: TrainState) -> list[str]:
        """Return a sample of what the model writes."""
        tokenizer, config = self.tokenizer, self.spec.config
        prompt = first_prompt(self.corpus)
        sampling = Sampling(max_new=SAMPLE_TOKENS, temperature=0.7, seed=config.train.seed)
        ids = [tokenizer.begin, *tokenizer.encode(prompt)]
        written = write_sample(self.spec, state, ids, sampling)
        return ["a sample:", *indent(prompt + tokenizer.decode(written))]


def first_prompt(corpus: Corpus) -> str:
    """Return how a document of the run may begin: the user's own text before a built-in source.

    It is the beginning of the first held-out document of the first source that is not built in, or
    of a training document if that source holds nothing out.
    """
    for source in corpus.sources:
        if source.name not in PROMPTS:
            return beginning((source.held_out if len(source.held_out) else source.train)[0])
    return PROMPTS[corpus.sources[0].name]


def beginning(text: str) -> str:
    """Return whole words from the first line of a text that a terminal can show."""
    for line in text.expandtabs(4).splitlines():
        line = line.strip()
        if not line or not line.isprintable():
            continue
        if len(line) <= PROMPT_CHARACTERS:
            return line
        words, space, _ = line[:PROMPT_CHARACTERS].rpartition(" ")
        return words if space else line[:PROMPT_CHARACTERS]
    return ""


def checkpoint_line(state: TrainState, folder: Path) -> str:
    """Return the closing line that names the last checkpoint."""
    return f"checkpoint: {folder / 'checkpoints' / str(int(state.step))}"
