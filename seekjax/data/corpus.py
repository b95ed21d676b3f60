"""The corpus of a run: its sources, each split into training and held-out documents."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seekjax.config import DataConfig
from seekjax.data.files import DocumentFile, open_path
from seekjax.data.sources import SOURCES
from seekjax.data.split import Split, hash_fraction, held_out_mask
from seekjax.errors import DataError, SeekjaxError, need
from seekjax.registry import did_you_mean, is_foreign
from seekjax.storage import file_sha256, text_sha256

SAMPLED = 100  # documents of each side that the fingerprint of a `Split` covers


@dataclass(frozen=True)
class Source:
    """One source. Its two sequences have random access, are safe to read from threads, and can be
    pickled.
    """

    name: str
    weight: float  # share of the documents drawn from it
    train: Sequence
    held_out: Sequence
    # Facts for the manifest, of each file: name, bytes, sha256, and its documents on each side; of
    # a source that is split already: name and sha256 of a sample of its documents.
    files: tuple[dict, ...]


@dataclass(frozen=True)
class Corpus:
    """All sources of a run."""

    sources: tuple[Source, ...]

    def source(self, name: str) -> Source:
        """Return the source of that name, as written in data.sources."""
        for source in self.sources:
            if source.name == name:
                return source

        names = ", ".join([source.name for source in self.sources])
        raise DataError(f"the corpus has no source {name!r}; it has {names}.")

    def manifest(self) -> dict:
        """Return a JSON-serialisable record of what was read, for the run folder."""
        sources = []
        for source in self.sources:
            sources.append(
                {
                    "name": source.name,
                    "weight": source.weight,
                    "train": len(source.train),
                    "held_out": len(source.held_out),
                    "files": list(source.files),
                }
            )
        return {"sources": sources}

    def fingerprint(self) -> str:
        """Return a hash of the documents, their split and their weights.

        File names do not count, so that a corpus may move to another folder.
        """
        content = []
        for source in self.sources:
            unnamed = [{**facts, "name": ""} for facts in source.files]
            content.append([source.weight, len(source.train), len(source.held_out), unnamed])
        return text_sha256(json.dumps(content, sort_keys=True))


@dataclass(frozen=True)
class Documents(Sequence[str]):
    """Some of the documents of several shards, by their locations."""

    shards: Sequence[Sequence[str]]
    locations: np.ndarray  # int64 [documents, 2]: shard, row

    def __len__(self) -> int:
        return len(self.locations)

    def __getitem__(self, index: int) -> str:
        shard, row = map(int, self.locations[index])
        return self.shards[shard][row]


def load_corpus(config: DataConfig) -> Corpus:
    """Open data.sources and read every document once, to find bad input before training starts.

    Raises:
        DataError: a source is unknown, empty, damaged or not text, or the weights do not match.
        ConfigError: a source `module:name` cannot be imported.
    """
    need(
        config.sources,
        f"data.sources is empty; name at least one of {', '.join(SOURCES)} or a path.",
        DataError,
    )
    need(
        len(set(config.sources)) == len(config.sources),
        f"data.sources names a source twice in {config.sources}; use data.weights to give one more "
        "weight.",
        DataError,
    )
    need(
        0 <= config.held_out < 1,
        f"data.held_out={config.held_out} is not a share; choose a number from 0 to below 1.",
        DataError,
    )

    weights = _normalised_weights(config)
    sources = [_load(name, weight, config) for name, weight in zip(config.sources, weights)]
    return Corpus(tuple(sources))


def is_named(source: str) -> bool:
    """Return whether a source is a function, built-in or from outside, instead of a path."""
    return source in SOURCES or (is_foreign(source) and not Path(source).exists())


def _normalised_weights(config: DataConfig) -> list[float]:
    """Return the share of documents drawn from each source."""
    weights = config.weights or (1.0,) * len(config.sources)

    need(
        len(weights) == len(config.sources),
        f"data.weights has {len(weights)} numbers for {len(config.sources)} sources; give one per "
        "source, or none.",
        DataError,
    )
    need(
        min(weights) > 0,
        f"data.weights={config.weights} must be positive; leave a source out of data.sources "
        "instead of giving it a weight of 0.",
        DataError,
    )

    total = sum(weights)
    return [weight / total for weight in weights]


def _load(name: str, weight: float, config: DataConfig) -> Source:
    """Return a source with both of its sides."""
    if is_named(name):
        documents = _call(name, config)
    else:
        documents = open_path(_path(name), config.text_field)

    if isinstance(documents, Split):
        facts = _sample_facts(name, documents)
        return Source(name, weight, documents.train, documents.held_out, (facts,))
    return _split_by_hash(name, weight, documents, config.held_out)


def _call(name: str, config: DataConfig) -> Split | Sequence[Sequence[str]]:
    """Return the documents of a data source that is a function. Raises DataError if it fails."""
    load = SOURCES.find(name)
    try:
        documents = load(config)
    except SeekjaxError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise DataError(
            f"the data source {name} fails ({type(error).__name__}: {error}); repair it, or leave "
            "it out of data.sources."
        ) from error

    if isinstance(documents, Split):
        return documents

    shards = list(documents) if isinstance(documents, Sequence) else []
    need(
        shards and not any(isinstance(shard, str) for shard in shards),
        f"the data source {name} must return a list of shards, each a sequence of documents, or a "
        "Split; return [documents] for a single shard.",
        DataError,
    )
    return shards


def _path(name: str) -> Path:
    """Return the path that a source names. Raises DataError if it does not exist."""
    path = Path(name).expanduser()

    if not path.exists():
        raise DataError(
            f"{name} does not exist{did_you_mean(name, SOURCES)} data.sources takes "
            f"{', '.join(SOURCES)}, module:name or paths: check the path."
        )
    return path


def _split_by_hash(
    name: str,
    weight: float,
    shards: Sequence[Sequence[str]],
    share: float,
) -> Source:
    """Read every document, which checks it, and assign it to one side by its hash."""
    fractions = []
    facts = []
    for number, shard in enumerate(shards):
        if isinstance(shard, DocumentFile):
            shard_fractions, shard_facts = _read_file(shard)
        else:
            shard_fractions, shard_facts = _read_shard(shard, f"{name} shard {number}")
        fractions.append(shard_fractions)
        facts.append(shard_facts)

    sizes = [len(shard_fractions) for shard_fractions in fractions]
    need(sum(sizes), f"{name} has no documents; leave it out of data.sources.", DataError)
    held_out = held_out_mask(np.concatenate(fractions), share)

    # Count the documents of each shard on each side, for the manifest.
    ends = np.cumsum(sizes)
    for shard_facts, shard_held_out in zip(facts, np.split(held_out, ends[:-1])):
        shard_facts["train"] = int((~shard_held_out).sum())
        shard_facts["held_out"] = int(shard_held_out.sum())

    numbers = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.concatenate([np.arange(size) for size in sizes])
    locations = np.stack([numbers, rows], axis=1)

    train = Documents(shards, locations[~held_out])
    kept = Documents(shards, locations[held_out])
    return Source(name, weight, train, kept, tuple(facts))


def _read_file(file: DocumentFile) -> tuple[np.ndarray, dict]:
    """Return the hash fractions of a file's documents, and its facts for the manifest."""
    fractions = np.array([hash_fraction(text) for text in file])
    facts = {
        "name": file.name,
        "bytes": file.path.stat().st_size,
        "sha256": file_sha256(file.path),
    }
    return fractions, facts


def _read_shard(shard: Sequence[str], name: str) -> tuple[np.ndarray, dict]:
    """Return the hash fractions of the documents of a user's own shard, and its facts."""
    fractions = []
    sha256 = hashlib.sha256()
    size = 0

    for row in range(len(shard)):
        text = shard[row]
        need(
            isinstance(text, str),
            f"{name} document {row} is of type {type(text).__name__}; a document must be a str.",
            DataError,
        )
        fractions.append(hash_fraction(text))

        data = text.encode()
        sha256.update(f"{len(data)} ".encode())  # so that the cuts between documents count
        sha256.update(data)
        size += len(data)

    return np.array(fractions), {"name": name, "bytes": size, "sha256": sha256.hexdigest()}


def _sample_facts(name: str, split: Split) -> dict:
    """Return a record of the first documents, which tells another version of a generator."""
    sample = []
    for index in range(SAMPLED):
        for side in (split.train, split.held_out):
            if index < len(side):
                sample.append(side[index])

    need(
        len(split.train),
        f"{name} has no training documents; leave it out of data.sources.",
        DataError,
    )
    need(
        all(isinstance(text, str) for text in sample),
        f"the data source {name} has a document that is not a str; convert it to text.",
        DataError,
    )
    return {"name": f"{len(sample)} documents of {name}", "sha256": text_sha256("".join(sample))}
