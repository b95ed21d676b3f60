"""From documents to batches with Grain: shuffle, repeat, mix, divide among processes, tokenize,
pack, batch.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import grain
import numpy as np
from absl import flags

from seekjax.config import DataConfig
from seekjax.data.corpus import Corpus
from seekjax.data.packing import Rows, Stream
from seekjax.data.tokenizer import Tokenizer
from seekjax.data.worker import begin_worker, signals_held_back
from seekjax.errors import DataError, need
from seekjax.seeds import short_seed

LANES = 64  # documents read side by side
BINS = 64  # rows that packing=fit fills at a time
AHEAD = 64  # documents tokenized before they are needed
READ_AHEAD = grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD)


class Batches(grain.DatasetIterator):
    """An iterator over batches, whose position is saved with a fingerprint of its settings.

    `get_state` is JSON-serialisable. `set_state` refuses a position saved under other settings.
    """

    def __init__(self, batches: grain.DatasetIterator, fingerprint: dict):
        super().__init__(batches)
        self._batches = batches
        self._fingerprint = fingerprint
        self._started = False
        # Runs at exit too: worker processes that are never closed would leave shared memory behind.
        weakref.finalize(self, batches.close)

    def __next__(self) -> dict[str, np.ndarray]:
        if self._started:
            return next(self._batches)

        # Workers are started for the first batch.
        self._started = True
        with signals_held_back():
            return next(self._batches)

    def get_state(self) -> dict:
        """Return the position and the settings that it belongs to."""
        # Checkpoints hold the fingerprint under the key "made_for".
        return {"made_for": self._fingerprint, "position": self._batches.get_state()}

    def set_state(self, state: dict) -> None:
        """Continue from a saved position. Raises DataError if its settings differ from these."""
        saved = state["made_for"]
        different = []
        for name, value in self._fingerprint.items():
            if saved.get(name) != value:
                different.append(_difference(name, saved.get(name), value))
        need(
            not different,
            f"the saved position in the data belongs to other settings ({'; '.join(different)}): "
            "restore them, or start a new run from the weights with --init and another --out.",
            DataError,
        )
        self._batches.set_state(state["position"])


# The fields of the config behind an entry of a fingerprint that is a hash.
HASHED = {
    "tokenizer": "data.tokenizer makes other tokens than before",
    "corpus": "data.sources, data.text_field, data.weights or data.held_out, or the documents "
    "themselves, are not those of before",
    "template": "the chat template is another one",
}


def _difference(name: str, saved: object, value: object) -> str:
    """Return what differs between a saved position and these settings, by fields of the config."""
    if name in HASHED:
        return HASHED[name]
    if name == "process":
        return f"the number of processes, {saved} before and {value} now"
    return f"{FIELDS.get(name, name)} was {saved} and is {value}"


FIELDS = {"seed": "train.seed"} | {
    name: f"data.{name}" for name in ("sequence", "packing", "fim_rate")
}


def train_batches(
    config: DataConfig,
    corpus: Corpus,
    tokenizer: Tokenizer,
    *,
    batch: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Return endless training batches of this process.

    A batch is {"tokens", "segments"}, each int32 [batch / process_count, sequence + 1]. Segments
    count the documents within a row from 1; 0 is padding.

    `get_state` is exact: `set_state` continues with the very next row, also with another batch size
    or number of workers. Processes read disjoint documents. With workers, call this function under
    `if __name__ == "__main__"`, because worker processes import the main module.

    Raises:
        DataError: the settings do not fit together; from set_state, the position was saved with
            other data or settings.
    """
    documents = _tokenize(mix_training(corpus, seed), tokenizer)
    if config.fim_rate:
        transform = _fill_in_the_middle(config.fim_rate, tokenizer)
        documents = documents.random_map(transform, seed=short_seed(seed))

    # With nearly as many lanes as documents, several lanes would read one document in different
    # epochs.
    size = sum(len(source.train) for source in corpus.sources)
    lanes = min(LANES, max(1, size // process_count // 4))

    rows = Rows(
        Stream(documents[process_index::process_count], _Reader(config.workers)),
        window=config.sequence + 1,
        lanes=lanes,
        split=config.packing == "split",
    )
    if config.packing == "fit":
        rows = _first_fit(rows, config.sequence + 1, {"tokens": tokenizer.pad}, seed)

    batches = rows.batch(_rows_per_process(batch, process_count), drop_remainder=True)
    fingerprint = {
        "sequence": config.sequence,
        "packing": config.packing,
        "seed": seed,
        "fim_rate": config.fim_rate,
        "process": f"{process_index} of {process_count}",
        "tokenizer": tokenizer.fingerprint(),
        "corpus": corpus.fingerprint(),
    }
    return Batches(iter(batches), fingerprint)


def sample_batches(
    corpus: Corpus,
    fill: dict[str, int],
    *,
    sequence: int,
    batch: int,
    seed: int,
    fingerprint: dict,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """Return endless training batches of samples that are tokenized already.

    A sample is a dict of equally long arrays, at most sequence + 1, with the keys of `fill`. Whole
    samples share rows, int32 [batch / process_count, sequence + 1], with their "segments"; `fill`
    is the value of each key after the last sample. The position is exact, and belongs to the
    settings in `fingerprint` and to these.
    """
    own_samples = mix_training(corpus, seed)[process_index::process_count]
    rows = _first_fit(own_samples.to_iter_dataset(READ_AHEAD), sequence + 1, fill, seed)
    batches = rows.batch(_rows_per_process(batch, process_count), drop_remainder=True)

    settings = {
        "sequence": sequence,
        "seed": seed,
        "process": f"{process_index} of {process_count}",
        "corpus": corpus.fingerprint(),
    }
    return Batches(iter(batches), fingerprint | settings)


def eval_batches(
    config: DataConfig,
    corpus: Corpus,
    tokenizer: Tokenizer,
    *,
    batch: int,
    count: int,
    process_index: int = 0,
    process_count: int = 1,
    source: str | None = None,
) -> list[dict[str, np.ndarray]]:
    """Return the same `count` held-out batches every time, packed by splitting, without FIM.

    A small held-out split is repeated. Every process packs all rows and keeps its own, so that the
    loss does not depend on the number of processes.

    Raises:
        DataError: the corpus has no such source, or its held-out side is empty.
    """
    sources = [corpus.source(source)] if source else corpus.sources
    for each in sources:
        need(
            len(each.held_out),
            f"source {each.name!r} has no held-out documents; set data.held_out above 0 or give it "
            "more documents.",
            DataError,
        )

    sides = [each.held_out for each in sources]
    weights = [each.weight for each in sources]
    documents = _mix(sides, weights, seeds=[0] * len(sides))
    packed = Rows(
        Stream(_tokenize(documents, tokenizer), _Reader(workers=0)),
        window=config.sequence + 1,
        lanes=1,
        split=True,
    )
    rows = iter(packed)

    own_rows = _rows_per_process(batch, process_count)
    start = process_index * own_rows
    batches = []
    for _ in range(count):
        all_rows = [next(rows) for _ in range(batch)]
        batches.append(stack(all_rows[start : start + own_rows]))

    rows.close()
    return batches


def mix_training(corpus: Corpus, seed: int) -> grain.MapDataset:
    """Return the training sides of all sources, mixed by weight, without end.

    Each source has a shuffled order of its own, which changes with every epoch.
    """
    sides = [source.train for source in corpus.sources]
    weights = [source.weight for source in corpus.sources]
    seeds = range(seed, seed + len(sides))
    return _mix(sides, weights, seeds)


def _mix(
    sides: Sequence[Sequence],
    weights: Sequence[float],
    seeds: Sequence[int],
) -> grain.MapDataset:
    """Return the documents of several sources, shuffled, repeated, and interleaved by weight."""
    shuffled = []
    for documents, seed in zip(sides, seeds):
        shuffled.append(grain.MapDataset.source(documents).seed(seed).shuffle().repeat())
    return grain.MapDataset.mix(shuffled, weights)


def stack(rows: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return rows as a batch."""
    return {key: np.stack([row[key] for row in rows]) for key in ("tokens", "segments")}


def _rows_per_process(batch: int, process_count: int) -> int:
    need(
        batch % process_count == 0,
        f"a batch of {batch} rows cannot be shared by {process_count} processes; make train.batch "
        f"a multiple of {process_count}.",
        DataError,
    )
    return batch // process_count


def _tokenize(documents: grain.MapDataset, tokenizer: Tokenizer) -> grain.MapDataset:
    """Return each document as int32 ids that end with end-of-document."""
    return documents.map(lambda text: np.append(tokenizer.encode(text), np.int32(tokenizer.eos)))


@dataclass(frozen=True)
class _Reader:
    """Reads a dataset in order and ahead of use: in a thread, or in worker processes.

    The order does not depend on the number of workers.
    """

    workers: int

    def __call__(self, documents: grain.MapDataset) -> grain.DatasetIterator:
        dataset = documents.to_iter_dataset(READ_AHEAD)

        if self.workers:
            # Grain's workers read absl's flags, which only a program run by absl has parsed.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(num_workers=self.workers)
            dataset = dataset.mp_prefetch(options, begin_worker)

        return iter(dataset)


@dataclass(frozen=True)
class _FillInTheMiddle(grain.transforms.RandomMap):
    """Turns a share of documents into prefix, suffix, middle (V3 section 4.1).

    Such a document becomes <begin>prefix<hole>suffix<end>middle<eos>.
    """

    rate: float
    prefix: int
    hole: int
    end: int

    def random_map(self, tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the document, rearranged or as it was."""
        if rng.random() >= self.rate:
            return tokens

        body, eos = tokens[:-1], tokens[-1:]
        first, second = np.sort(rng.integers(0, len(body) + 1, 2))
        prefix, middle, suffix = body[:first], body[first:second], body[second:]

        rearranged = [[self.prefix], prefix, [self.hole], suffix, [self.end], middle, eos]
        return np.concatenate(rearranged).astype(np.int32)


def _fill_in_the_middle(rate: float, tokenizer: Tokenizer) -> _FillInTheMiddle:
    """Return the transform for a tokenizer. Raises DataError if it lacks the FIM tokens."""
    prefix, hole, end = tokenizer.fim_prefix, tokenizer.fim_hole, tokenizer.fim_end
    if prefix is None or hole is None or end is None:
        raise DataError(
            f"data.fim_rate={rate} needs a tokenizer with DeepSeek's three FIM tokens; set it to 0 "
            "or use data.tokenizer=bpe."
        )
    return _FillInTheMiddle(rate, prefix, hole, end)


def _first_fit(
    rows: grain.IterDataset,
    window: int,
    fill: dict[str, int],
    seed: int,
) -> grain.IterDataset:
    """Pack whole documents, each into the first of several rows with room for it.

    The rest of a row is `fill`, with segment 0.
    """
    packed = grain.experimental.FirstFitPackIterDataset(
        rows,
        length_struct=dict.fromkeys(fill, window),
        num_packing_bins=BINS,
        seed=short_seed(seed),
        padding_struct=fill,
    )

    def with_segments(row: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        kept = {name: row[name] for name in fill}
        return kept | {"segments": row["tokens_segment_ids"]}

    return packed.map(with_segments)
