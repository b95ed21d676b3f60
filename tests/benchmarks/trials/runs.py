"""The runs that trials interrupt: the smallest that have every part."""

import hashlib
import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.commands.arguments import parse
from seekjax.config import Config
from seekjax.post.kinds import fit
from tests.benchmarks.trials import pretrain_config, reinforce_config
from tests.benchmarks.trials.children import Report, Work, finish
from tests.fixtures import save_run

PRETRAIN = Path(pretrain_config.__file__)
REINFORCE = Path(reinforce_config.__file__)
WORDS = ("red", "green", "blue", "one", "two", "three", "over", "under", "stone", "river", "bird")


def make_corpus(folder: Path, documents: int = 60, words: int = 60) -> Path:
    """Write text files that are the same every time, and return their folder."""
    rng = random.Random(0)
    folder.mkdir(parents=True)
    for number in range(documents):
        text = " ".join([rng.choice(WORDS) for _ in range(words)])
        (folder / f"{number:03d}.txt").write_text(f"document {number}: {text}\n")
    return folder


def train_words(out: Path, data: Path, *more: object) -> list[str]:
    """Return the words of `seekjax train` of the pre-training run."""
    return [str(word) for word in (PRETRAIN, "--out", out, "--data.sources", data, *more)]


def reinforce_words(out: Path, base: Path, *more: object) -> list[str]:
    """Return the words of `seekjax train` of the reinforcement run."""
    return [str(word) for word in (REINFORCE, "--out", out, "--init", base, *more)]


class Whole(NamedTuple):
    """A run that nothing has harmed, which several parts measure others by."""

    folder: Path
    start: Path  # the data, or the model that it starts from
    digest: str  # of its last state


@cache
def pretrained(shared: Path) -> Whole:
    """Return the unbroken run of pre-training, made once in this folder."""
    data = make_corpus(shared / "data")
    return _whole(train_words(shared / "pretrained", data), shared / "pretrained", data)


@cache
def reinforced(shared: Path) -> Whole:
    """Return the unbroken run of reinforcement, made once in this folder."""
    base = make_base(shared / "base", shared / "base.log")
    return _whole(reinforce_words(shared / "reinforced", base), shared / "reinforced", base)


def _whole(words: list[str], folder: Path, start: Path) -> Whole:
    child = finish(fitting(words), folder.with_suffix(".log"))
    if child.status:
        raise RuntimeError(f"the unbroken run fails: {child.last_line()}")
    return Whole(folder, start, digest_of(child.reported))


def fitting(words: list[str]) -> Work:
    """Return the work of a training command without its closing sample and pictures.

    At the end it reports the digest of the state.
    """

    def work(report: Report) -> None:
        fitted = fit(parse(words, "train.py"))
        report(f"digest {digest(fitted.state)}")

    return work


def digest(tree: Any) -> str:
    """Return a hash of every array of a state."""
    hashed = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        hashed.update(np.asarray(leaf).tobytes())
    return hashed.hexdigest()


def digest_of(words: list[str]) -> str:
    """Return the digest that a child reported last, or "" if it reported none."""
    digests = [word for word in words if word.startswith("digest")]
    return digests[-1] if digests else ""


def make_base(folder: Path, log: Path) -> Path:
    """Write a run with random weights to start reinforcement from, and return its folder."""

    def work(report: Report) -> None:
        save_run(base_config(), folder)

    folder.mkdir(parents=True)
    child = finish(work, log)
    if child.status:
        raise RuntimeError(f"no base model: {child.last_line()}")
    return folder


def base_config() -> Config:
    """Return the config of the model that reinforcement starts from: of bytes, without a corpus."""
    config = pretrain_config.config
    return replace(config, data=replace(config.data, tokenizer="byte"))
