"""A data source from outside the package is named on the command line, and is as reproducible as
the built-in ones."""

import json
import pickle
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from seekjax.config import DataConfig
from seekjax.data import (
    SOURCES,
    DataError,
    eval_batches,
    held_out_text,
    load_corpus,
    load_tokenizer,
    train_batches,
)
from seekjax.errors import ConfigError

OWN = "tests.scripts.own_source"
CONFIG = DataConfig(
    sources=(f"{OWN}:proverbs", f"{OWN}:Rockets", "stories"),
    held_out=0.2,
    sequence=32,
    tokenizer="byte",
)


@pytest.fixture(scope="module")
def corpus():
    return load_corpus(CONFIG)


def start(corpus, **changes):
    config = replace(CONFIG, **changes)
    tokenizer = load_tokenizer(config, 300, corpus)
    return train_batches(config, corpus, tokenizer, batch=4, seed=0)


def test_shards_are_split_by_hash_and_nothing_is_lost(corpus):
    source = corpus.source(f"{OWN}:proverbs")
    assert len(source.train) + len(source.held_out) == 70
    assert len(set(source.train) | set(source.held_out)) == 70
    assert 5 < len(source.held_out) < 25
    assert [facts["name"] for facts in source.files] == [
        f"{OWN}:proverbs shard 0",
        f"{OWN}:proverbs shard 1",
    ]
    assert sum(facts["train"] for facts in source.files) == len(source.train)
    assert sum(facts["held_out"] for facts in source.files) == len(source.held_out)


def test_a_source_that_is_split_keeps_its_sides(corpus):
    source = corpus.source(f"{OWN}:Rockets")
    assert len(source.train) == 500
    assert len(source.held_out) == 50
    assert not set(source.train) & set(source.held_out)


@pytest.mark.parametrize("packing", ["split", "fit"])
def test_a_position_in_own_sources_resumes_exactly(corpus, packing):
    unbroken = start(corpus, packing=packing)
    list(islice(unbroken, 13))
    state = json.loads(json.dumps(unbroken.get_state()))
    expected = list(islice(unbroken, 20))

    resumed = start(load_corpus(CONFIG), packing=packing)
    resumed.set_state(state)
    for before, after in zip(expected, islice(resumed, 20), strict=True):
        np.testing.assert_array_equal(before["tokens"], after["tokens"])
        np.testing.assert_array_equal(before["segments"], after["segments"])


@pytest.mark.slow
def test_worker_processes_read_own_sources(corpus):
    expected = list(islice(start(corpus), 4))
    with_worker = start(corpus, workers=1)
    batches = list(islice(with_worker, 4))
    with_worker.close()
    for one_process, two_processes in zip(expected, batches, strict=True):
        np.testing.assert_array_equal(one_process["tokens"], two_processes["tokens"])


def test_an_own_source_can_be_evaluated_apart(corpus):
    name = f"{OWN}:proverbs"
    tokenizer = load_tokenizer(CONFIG, 300, corpus)
    [batch] = eval_batches(CONFIG, corpus, tokenizer, batch=4, count=1, source=name)
    assert batch["tokens"].shape == (4, 33)
    assert held_out_text(corpus, name, 100) in "".join(corpus.source(name).held_out)


def test_the_fingerprint_covers_an_own_source(corpus, monkeypatch):
    assert load_corpus(CONFIG).fingerprint() == corpus.fingerprint()
    assert pickle.loads(pickle.dumps(corpus)).fingerprint() == corpus.fingerprint()

    def changed(config):
        return [["Look before you leap."] * 40, ["Still waters run deep."] * 30]

    monkeypatch.setattr(f"{OWN}.proverbs", changed)
    other = load_corpus(CONFIG)
    assert other.fingerprint() != corpus.fingerprint()
    with pytest.raises(
        DataError, match=r"other settings .data.sources, .* or the documents themselves"
    ):
        start(other).set_state(start(corpus).get_state())


def test_a_path_with_a_colon_is_a_path(tmp_path, monkeypatch):
    (tmp_path / "a:b").mkdir()
    (tmp_path / "a:b" / "c.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    [source] = load_corpus(DataConfig(sources=("a:b",))).sources
    assert list(source.train) == ["text"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unsharded", r"must return a list of shards.*return \[documents\]"),
        ("nothing", "must return a list of shards"),
        ("bytes_for_text", "shard 0 document 0 is of type bytes; a document must be a str"),
        ("fails", "own_source:fails fails .KeyError: 'an index of documents'.; repair it"),
    ],
)
def test_a_source_that_breaks_its_contract_is_refused(name, message):
    with pytest.raises(DataError, match=message):
        load_corpus(DataConfig(sources=(f"{OWN}:{name}",)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{OWN}:missing", "does not define missing"),
        ("no_such_module:source", "data source no_such_module:source cannot be imported"),
    ],
)
def test_a_source_that_does_not_exist_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        load_corpus(DataConfig(sources=(name,)))


def test_the_built_in_sources_are_a_registry():
    assert set(SOURCES) == {"stdlib", "arithmetic", "stories"}
    with pytest.raises(DataError, match="takes stdlib, arithmetic, stories, module:name or paths"):
        load_corpus(DataConfig(sources=("nowhere",)))
