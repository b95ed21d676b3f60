"""The corpus of a run: its sources, each split into training and held-out documents."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from seekjax.config import DataConfig
from seekjax.console import progress
from seekjax.data.files import DocumentFile
from seekjax.data.listing import count_files, name_files, open_path
from seekjax.data.sources import SOURCES
from seekjax.data.split import Split, hash_fraction, held_out_mask
from seekjax.errors import DataError, SeekjaxError, need
from seekjax.registry import did_you_mean, is_foreign
from seekjax.storage import text_sha256

SAMPLED = 100  # documents of each side that the fingerprint of a `Split` covers
EMPTY = 2.0  # in place of the hash fraction of an empty document


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
    notes: tuple[str, ...] = ()  # sentences on what was left out


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

    def left_out(self) -> list[str]:
        """Return sentences on what lies in the sources and is not read."""
        return [note for source in self.sources for note in source.notes]

    def notes(self) -> list[str]:
        """Return lines on what a run of this corpus does not read, or cannot measure."""
        lines = [f"    {note}" for note in self.left_out()]
        if sum([len(source.held_out) for source in self.sources]) == 0:
            lines.append(
                "    nothing is held out, so there will be no held-out figures: data.held_out is "
                "0, or there is only one document or question"
            )
        return lines

    def manifest(self) -> dict:
        """Return a JSON-serialisable record of what was read, for the run folder."""
        sources = []
        for source in self.sources:
            record = {
                "name": source.name,
                "weight": source.weight,
                "train": len(source.train),
                "held_out": len(source.held_out),
                "files": list(source.files),
            }
            if source.notes:
                record["left_out"] = list(source.notes)
            sources.append(record)
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
    need_distinct(config.sources, "data.sources", "use data.weights to give one more weight.")
    need(
        0 <= config.held_out < 1,
        f"data.held_out={config.held_out} is not a share; choose a number from 0 to below 1.",
        DataError,
    )

    weights = _normalised_weights(config)
    sources = [_load(name, weight, config) for name, weight in zip(config.sources, weights)]
    return Corpus(tuple(_with_shared_files(sources)))


def need_distinct(names: Sequence[str], field: str, advice: str) -> None:
    """Raise DataError if the names of sources name one file, folder or function twice."""
    first: dict[str | Path, str] = {}
    for name in names:
        source = name if is_named(name) else Path(name).expanduser().resolve()
        need(
            source not in first,
            f"{field} names a source twice, as {first.get(source)} and {name}; {advice}",
            DataError,
        )
        first[source] = name


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


def _with_shared_files(sources: Sequence[Source]) -> Iterator[Source]:
    """Yield the sources with a note on files that an earlier source has too: they count twice."""
    first: dict[Path, str] = {}
    for source in sources:
        shared = []
        for facts in () if is_named(source.name) else source.files:
            file = Path(facts["name"]).expanduser().resolve()
            if file in first:
                shared.append(facts["name"])
            first.setdefault(file, source.name)

        if shared:
            note = f"{source.name}: has {count_files(shared)} of another source too"
            source = replace(source, notes=(*source.notes, f"{note} ({name_files(shared)})"))
        yield source


def _load(name: str, weight: float, config: DataConfig) -> Source:
    """Return a source with both of its sides."""
    if not is_named(name):
        listing = open_path(_path(name), config.text_field)
        return _split_by_hash(name, weight, listing.files, config.held_out, listing.notes)

    documents = _call(name, config)
    if isinstance(documents, Split):
        facts = _sample_facts(name, documents)
        return Source(name, weight, documents.train, documents.held_out, (facts,))
    return _split_by_hash(name, weight, documents, config.held_out, [])


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
    notes: list[str],
) -> Source:
    """Read every document, which checks it, and assign it to one side by its hash.

    Empty documents are left out, and counted in a note.
    """
    fractions = []
    facts = []
    with progress(f"reading {name}") as show:
        for number, shard in enumerate(shards):
            show(number / len(shards), f"{number:,} of {len(shards):,} files")
            if isinstance(shard, DocumentFile):
                shard_fractions, shard_facts = _read_file(shard)
            else:
                shard_fractions, shard_facts = _read_shard(shard, f"{name} shard {number}")
            fractions.append(shard_fractions)
            facts.append(shard_facts)

    sizes = [len(shard_fractions) for shard_fractions in fractions]
    numbers = np.repeat(np.arange(len(sizes)), sizes)
    rows = np.concatenate([np.arange(size) for size in sizes])
    locations = np.stack([numbers, rows], axis=1)
    fractions = np.concatenate(fractions)

    full = fractions < EMPTY
    need(
        full.any(),
        f"{name} is empty: it has no document with text in it; leave it out of data.sources, or "
        "put text into it.",
        DataError,
    )
    held_out = np.zeros(len(full), bool)
    held_out[full] = held_out_mask(fractions[full], share)
    train = full & ~held_out

    # Count the documents of each shard on each side, for the manifest.
    train_counts = np.bincount(numbers[train], minlength=len(facts))
    held_out_counts = np.bincount(numbers[held_out], minlength=len(facts))
    for shard_facts, train_count, held_out_count in zip(facts, train_counts, held_out_counts):
        shard_facts["train"] = int(train_count)
        shard_facts["held_out"] = int(held_out_count)

    # Say what is left out.
    empty = [shard["name"] for shard in facts if shard["train"] + shard["held_out"] == 0]
    if empty:
        notes = [
            *notes,
            f"{name}: left out {count_files(empty)} without text ({name_files(empty)})",
        ]
    if not full.all():
        notes = [*notes, f"{name}: left out empty documents, {(~full).sum():,} of them"]

    return Source(
        name=name,
        weight=weight,
        train=Documents(shards, locations[train]),
        held_out=Documents(shards, locations[held_out]),
        files=tuple(facts),
        notes=tuple(notes),
    )


def _read_file(file: DocumentFile) -> tuple[np.ndarray, dict]:
    """Return the hash fractions of a file's documents, and its facts for the manifest.

    The fraction of an empty document is EMPTY.
    """
    fractions = np.array([hash_fraction(text) if text else EMPTY for text in file])
    return fractions, file.facts()


def _read_shard(shard: Sequence[str], name: str) -> tuple[np.ndarray, dict]:
    """Return the hash fractions of the documents of a user's own shard, and its facts."""
    fractions = []
    sha256 = hashlib.sha256()
    size = 0

    for row in range(len(shard)):
        text = shard[row]
        data = _encoded(text, f"{name} document {row}")
        fractions.append(hash_fraction(text) if text else EMPTY)
        sha256.update(f"{len(data)} ".encode())  # so that the cuts between documents count
        sha256.update(data)
        size += len(data)

    return np.array(fractions), {"name": name, "bytes": size, "sha256": sha256.hexdigest()}


def _encoded(text: object, where: str) -> bytes:
    """Return a document in UTF-8. Raises DataError if it is not text."""
    if not isinstance(text, str):
        raise DataError(f"{where} is of type {type(text).__name__}; a document must be a str.")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} holds half a character (\\u{ord(text[error.start]):04x}); repair it."
        ) from error


def _sample_facts(name: str, split: Split) -> dict:
    """Return a record of the first documents, which tells another version of a generator."""
    need(
        len(split.train),
        f"{name} has no training documents; leave it out of data.sources.",
        DataError,
    )

    sample = []
    for index in range(SAMPLED):
        for side in (split.train, split.held_out):
            if index < len(side):
                _encoded(side[index], f"{name} document {index}")
                sample.append(side[index])

    need(any(sample), f"{name} has only empty documents; leave it out of data.sources.", DataError)
    return {"name": f"{len(sample)} documents of {name}", "sha256": text_sha256("".join(sample))}
