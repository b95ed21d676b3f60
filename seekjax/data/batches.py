"""From documents to batches with Grain: shuffle, repeat, mix, share out, tokenize, pack, batch."""

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
from seekjax.errors import DataError

LANES = 64  # documents read side by side
BINS = 64  # rows that packing=fit fills at a time
AHEAD = 64  # documents tokenized before they are needed


class Batches(grain.DatasetIterator):
    """Batches whose position knows the settings it was saved under, and refuses others."""

    def __init__(self, batches: grain.DatasetIterator, made_for: dict):
        super().__init__(batches)
        self._batches, self._made_for = batches, made_for
        weakref.finalize(
            self, batches.close
        )  # also at exit: workers that nobody closed would leave shared memory behind

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._batches)

    def get_state(self) -> dict:
        return {"made_for": self._made_for, "position": self._batches.get_state()}

    def set_state(self, state: dict) -> None:
        for name, value in self._made_for.items():
            if state["made_for"].get(name) != value:
                raise DataError(
                    "the saved data position belongs to "
                    f"{name}={state['made_for'].get(name)} but this run has "
                    f"{name}={value}; "
                    "restore that setting, or start a new run from the weights."
                )
        self._batches.set_state(state["position"])


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
    """Endless training batches of this process, int32 [batch / process_count, sequence + 1]
    "tokens" and "segments".

    Segments count the documents within a row from 1; 0 is padding. `get_state()` is JSON-able and
    exact: `set_state` continues with the very next row, also under another batch size or number of
    workers. Processes read disjoint documents. With workers, call it under `if __name__ ==
    "__main__"`, because worker processes import the main module.

    Raises:
        DataError: settings that do not fit together; from set_state, a position saved with other data or settings.
    """
    documents = _tokens(_mixed(corpus, seed), tokenizer)
    if config.fim_rate:
        documents = documents.random_map(_fill_in_the_middle(config.fim_rate, tokenizer), seed=seed)
    # Many more documents than lanes, or several lanes would read the same one in different epochs.
    lanes = min(
        LANES, max(1, sum(len(source.train) for source in corpus.sources) // process_count // 4)
    )
    rows = Rows(
        Stream(documents[process_index::process_count], _Reader(config.workers)),
        window=config.sequence + 1,
        lanes=lanes,
        split=config.packing == "split",
    )
    if config.packing == "fit":
        rows = _first_fit(rows, config.sequence + 1, {"tokens": tokenizer.pad}, seed)
    made_for = {
        "sequence": config.sequence,
        "packing": config.packing,
        "seed": seed,
        "fim_rate": config.fim_rate,
        "process": f"{process_index} of {process_count}",
        "tokenizer": tokenizer.fingerprint(),
        "corpus": corpus.fingerprint(),
    }
    return Batches(
        iter(rows.batch(_rows_per_process(batch, process_count), drop_remainder=True)), made_for
    )


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
    """Endless training batches of samples that are tokens already: dicts of equally long arrays, at
    most sequence + 1, with the keys of `fill`.

    Whole samples share rows of int32 [batch / process_count, sequence + 1] beside their "segments";
    `fill` says what follows the last. The position is exact, and refuses other settings than those
    of `made_for` and these.
    """
    samples = _mixed(corpus, seed)[process_index::process_count].to_iter_dataset(
        grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD)
    )
    rows = _first_fit(samples, sequence + 1, fill, seed)
    made_for = fingerprint | {
        "sequence": sequence,
        "seed": seed,
        "process": f"{process_index} of {process_count}",
        "corpus": corpus.fingerprint(),
    }
    return Batches(
        iter(rows.batch(_rows_per_process(batch, process_count), drop_remainder=True)), made_for
    )


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
    """The same `count` held-out batches every time, always packed by splitting, without FIM; a
    small held-out split is repeated.

    Every process packs all rows and keeps its own, so that the loss does not depend on how many
    processes there are.

    Raises:
        DataError: there is no such source, or nothing is held out.
    """
    sources = [corpus.source(source)] if source else corpus.sources
    for each in sources:
        if not len(each.held_out):
            raise DataError(
                f"source {each.name!r} has no held-out documents; set data.held_out above "
                "0 or give it more documents."
            )
    documents = grain.MapDataset.mix(
        [grain.MapDataset.source(each.held_out).seed(0).shuffle().repeat() for each in sources],
        [each.weight for each in sources],
    )
    rows = iter(
        Rows(
            Stream(_tokens(documents, tokenizer), _Reader(0)),
            window=config.sequence + 1,
            lanes=1,
            split=True,
        )
    )
    own = _rows_per_process(batch, process_count)
    batches = [
        stack([next(rows) for _ in range(batch)][process_index * own :][:own]) for _ in range(count)
    ]
    rows.close()
    return batches


def stack(rows: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Rows to a batch."""
    return {key: np.stack([row[key] for row in rows]) for key in ("tokens", "segments")}


def _rows_per_process(batch: int, process_count: int) -> int:
    if batch % process_count:
        raise DataError(
            f"a batch of {batch} rows cannot be shared by {process_count} processes; make "
            f"train.batch a multiple of {process_count}."
        )
    return batch // process_count


def _tokens(documents: grain.MapDataset, tokenizer: Tokenizer) -> grain.MapDataset:
    """Each document as int32 ids that end with end-of-document."""
    return documents.map(lambda text: np.append(tokenizer.encode(text), np.int32(tokenizer.eos)))


@dataclass(frozen=True)
class _Reader:
    """Reads a dataset in order, ahead of use: in a thread, or in worker processes. The order does
    not depend on which."""

    workers: int

    def __call__(self, documents: grain.MapDataset) -> grain.DatasetIterator:
        read = documents.to_iter_dataset(
            grain.ReadOptions(num_threads=1, prefetch_buffer_size=AHEAD)
        )
        if self.workers:
            if (
                not flags.FLAGS.is_parsed()
            ):  # Grain's workers read absl's flags, which only an absl program has parsed
                flags.FLAGS.mark_as_parsed()
            read = read.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.workers))
        return iter(read)


@dataclass(frozen=True)
class _FillInTheMiddle(grain.transforms.RandomMap):
    """Turns a share of documents into prefix, suffix, middle (V3 section 4.1):
    <begin>prefix<hole>suffix<end>middle<eos>."""

    rate: float
    prefix: int
    hole: int
    end: int

    def random_map(self, tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.rate:
            return tokens
        body, eos = tokens[:-1], tokens[-1:]
        first, second = np.sort(rng.integers(0, len(body) + 1, 2))
        return np.concatenate(
            [
                [self.prefix],
                body[:first],
                [self.hole],
                body[second:],
                [self.end],
                body[first:second],
                eos,
            ]
        ).astype(np.int32)


def _fill_in_the_middle(rate: float, tokenizer: Tokenizer) -> _FillInTheMiddle:
    ids = (tokenizer.fim_prefix, tokenizer.fim_hole, tokenizer.fim_end)
    if None in ids:
        raise DataError(
            f"data.fim_rate={rate} needs a tokenizer with DeepSeek's three FIM tokens; "
            "set it to 0 or use data.tokenizer=bpe."
        )
    return _FillInTheMiddle(rate, *ids)


def _mixed(corpus: Corpus, seed: int) -> grain.MapDataset:
    """All sources, each in an order of its own and without end."""
    return grain.MapDataset.mix(
        [
            grain.MapDataset.source(source.train).seed(seed + index).shuffle().repeat()
            for index, source in enumerate(corpus.sources)
        ],
        [source.weight for source in corpus.sources],
    )


def _first_fit(
    rows: grain.IterDataset, window: int, fill: dict[str, int], seed: int
) -> grain.IterDataset:
    """Whole documents into the first of several rows with room for them; the rest of a row is
    `fill`, segment 0."""
    packed = grain.experimental.FirstFitPackIterDataset(
        rows,
        length_struct=dict.fromkeys(fill, window),
        num_packing_bins=BINS,
        seed=seed,
        padding_struct=fill,
    )
    return packed.map(
        lambda row: {name: row[name] for name in fill} | {"segments": row["tokens_segment_ids"]}
    )
