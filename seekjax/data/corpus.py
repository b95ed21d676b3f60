"""What is read: the sources of a run, each split into training and held-out documents."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from seekjax.config import DataConfig
from seekjax.data.files import DocumentFile, open_path
from seekjax.data.sources import arithmetic, stdlib, stories
from seekjax.data.sources.generated import Generated
from seekjax.errors import DataError
from seekjax.registry import did_you_mean

BUILT_IN = ("stdlib", "arithmetic", "stories")
EPOCH = 1_000_000  # documents of a generated source in an epoch
HELD_OUT = 20_000  # its held-out documents


@dataclass(frozen=True)
class Source:
    """One source. Its two sequences of documents are random access, safe to read from threads, and
    picklable."""

    name: str
    weight: float  # share of the documents drawn from it
    train: Sequence[str]
    held_out: Sequence[str]
    files: tuple[
        dict, ...
        # of every file: name, bytes, sha256, and its documents on each side. Of a generator: the
        # hash
        # of a sample
    ]


@dataclass(frozen=True)
class Corpus:
    """All sources of a run."""

    sources: tuple[Source, ...]

    def source(self, name: str) -> Source:
        """The source of that name, as written in data.sources."""
        for source in self.sources:
            if source.name == name:
                return source
        raise DataError(
            f"the corpus has no source {name!r}; it has "
            f"{', '.join(source.name for source in self.sources)}."
        )

    def manifest(self) -> dict:
        """What exactly was read, JSON-able: saved in the run folder."""
        return {
            "sources": [
                {
                    "name": source.name,
                    "weight": source.weight,
                    "train": len(source.train),
                    "held_out": len(source.held_out),
                    "files": list(source.files),
                }
                for source in self.sources
            ]
        }

    def fingerprint(self) -> str:
        """A hash of the documents, their split and their weights; file names do not matter, so a
        corpus may move."""
        content = [
            [
                source.weight,
                len(source.train),
                len(source.held_out),
                [{**file, "name": ""} for file in source.files],
            ]
            for source in self.sources
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Documents:
    """Some of the documents of some files, by place."""

    files: Sequence[DocumentFile]
    places: np.ndarray  # int64 [documents, 2]: file, row

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> str:
        file, row = map(int, self.places[index])
        return self.files[file][row]


def load_corpus(config: DataConfig) -> Corpus:
    """Resolves data.sources and reads every document once, so that bad input is found before
    training starts.

    Raises:
        DataError: a source that is unknown, empty, damaged or not text; weights that do not match.
    """
    if not config.sources:
        raise DataError(
            f"data.sources is empty; name at least one of {', '.join(BUILT_IN)} or a path."
        )
    if len(set(config.sources)) != len(config.sources):
        raise DataError(
            f"data.sources names a source twice in {config.sources}; use data.weights to "
            "give one more weight."
        )
    if not 0 <= config.held_out < 1:
        raise DataError(
            f"data.held_out={config.held_out} is not a share; choose a number from 0 to below 1."
        )
    weights = _shares(config)
    return Corpus(
        tuple(_load(name, weight, config) for name, weight in zip(config.sources, weights))
    )


def is_held_out(text: str, share: float) -> bool:
    """Which side of the split a document is on: a hash of its text decides, so copies stay together
    and other documents do not matter."""
    return _score(text) < share


def _score(text: str) -> float:
    """A number from 0 to 1 that depends on the text alone, spread evenly."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


def _shares(config: DataConfig) -> list[float]:
    weights = config.weights or (1.0,) * len(config.sources)
    if len(weights) != len(config.sources):
        raise DataError(
            f"data.weights has {len(weights)} numbers for {len(config.sources)} sources; "
            "give one per source, or none."
        )
    if min(weights) <= 0:
        raise DataError(
            f"data.weights={config.weights} must be positive; leave a source out of "
            "data.sources instead of giving it no weight."
        )
    return [weight / sum(weights) for weight in weights]


def _load(name: str, weight: float, config: DataConfig) -> Source:
    if name == "stories":
        # Held-out stories are fresh draws, not other strings: only then is the true entropy the
        # floor on both sides.
        return _generated(name, weight, stories.generate, None, None)
    if name == "arithmetic":
        share = (
            config.held_out or 0.05
        )  # keeping some problems back costs nothing where there is no end of them
        return _generated(
            name,
            weight,
            arithmetic.generate,
            *(partial(_on_side, held_out=side, share=share) for side in (False, True)),
        )
    files = stdlib.files() if name == "stdlib" else open_path(_path(name), config.text_field)
    return _split(name, weight, files, config.held_out)


def _on_side(text: str, held_out: bool, share: float) -> bool:
    return is_held_out(text, share) == held_out


def _generated(
    name: str,
    weight: float,
    generate: Callable,
    keep_train: Callable | None,
    keep_held_out: Callable | None,
) -> Source:
    train = Generated(generate, f"{name}/train", EPOCH, keep_train)
    held_out = Generated(generate, f"{name}/held out", HELD_OUT, keep_held_out)
    sample = "".join(
        train[index] + held_out[index] for index in range(100)
    ).encode()  # tells another version of the generator
    return Source(
        name,
        weight,
        train,
        held_out,
        ({"name": f"200 documents of {name}", "sha256": hashlib.sha256(sample).hexdigest()},),
    )


def _path(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.exists():
        raise DataError(
            f"{name} does not exist{did_you_mean(name, BUILT_IN)} data.sources takes "
            f"{', '.join(BUILT_IN)} or paths: check the path."
        )
    return path


def _split(name: str, weight: float, files: Sequence[DocumentFile], share: float) -> Source:
    """Reads every document, which checks it, and sends it to one side."""
    scores = [np.array([_score(text) for text in file]) for file in files]
    held_out = _held_out(np.concatenate(scores), share)
    sides = np.split(held_out, np.cumsum([len(score) for score in scores])[:-1])
    about = tuple(_about(file, side) for file, side in zip(files, sides))
    places = np.array(
        [(index, row) for index, side in enumerate(sides) for row in range(len(side))], np.int64
    )
    return Source(
        name, weight, Documents(files, places[~held_out]), Documents(files, places[held_out]), about
    )


def _held_out(scores: np.ndarray, share: float) -> np.ndarray:
    """Bool [documents]. Of a few documents all may fall on one side; then the nearest to the border
    changes over."""
    held_out = scores < share
    if share and not held_out.any():
        held_out[scores.argmin()] = True
    if held_out.all():
        held_out[scores.argmax()] = False
    return held_out


def _about(file: DocumentFile, held_out: np.ndarray) -> dict:
    with file.path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "name": file.name,
        "bytes": file.path.stat().st_size,
        "sha256": sha256,
        "train": int((~held_out).sum()),
        "held_out": int(held_out.sum()),
    }
