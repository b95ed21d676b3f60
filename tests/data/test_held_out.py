"""Bits per byte are on exactly the bytes that the compressor gets."""

import itertools
import lzma
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekjax.config import DataConfig
from seekjax.data import (
    DataError,
    exact_batches,
    held_out_text,
    load_corpus,
    load_tokenizer,
    xz_bits_per_byte,
)
from tests.benchmarks.entropy import document_batches

CONFIG = DataConfig(sources=("stories",), tokenizer="byte")
CORPUS = load_corpus(CONFIG)
TOKENIZER = load_tokenizer(CONFIG, 300, CORPUS)


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=200), sequence=st.integers(1, 20), batch=st.integers(1, 5))
def test_every_token_is_a_target_exactly_once(text, sequence, batch):
    batches = exact_batches(text, TOKENIZER, sequence, batch)
    rows = [row for each in batches for row in zip(each["tokens"], each["segments"])]
    assert all(
        each[key].shape == (batch, sequence + 1) and each[key].dtype == np.int32
        for each in batches
        for key in each
    )
    assert not text or rows[0][0][0] == TOKENIZER.eos
    targets = np.concatenate([tokens[1:][segments[1:] > 0] for tokens, segments in rows])
    assert (targets == TOKENIZER.encode(text)).all()
    assert TOKENIZER.bytes_V[targets].sum() == len(text.encode())
    for (before, _), (after, segments) in itertools.pairwise(rows):
        assert not segments.any() or before[-1] == after[0]


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.text(max_size=9), max_size=12),
    sequence=st.integers(40, 60),
    batch=st.integers(1, 4),
)
def test_whole_documents_are_targets_exactly_once(texts, sequence, batch):
    batches = document_batches(texts, TOKENIZER, sequence, batch)
    rows = [row for each in batches for row in zip(each["tokens"], each["segments"])]
    assert all(
        each[key].shape == (batch, sequence + 1) and each[key].dtype == np.int32
        for each in batches
        for key in each
    )
    assert all(tokens[0] == TOKENIZER.eos for tokens, segments in rows if segments.any()), (
        "a row begins with a document"
    )
    targets = [int(token) for tokens, segments in rows for token in tokens[1:][segments[1:] > 0]]
    assert targets == [id for text in texts for id in (*TOKENIZER.encode(text), TOKENIZER.eos)]


def test_a_document_longer_than_a_row_is_refused():
    with pytest.raises(
        DataError,
        match=r"a document has 11 tokens but data.sequence=10; set data.sequence to at least 11",
    ):
        document_batches(["0123456789"], TOKENIZER, 10, 1)


def test_held_out_text_is_held_out_and_of_the_size_asked_for():
    text = held_out_text(CORPUS, "stories", 1000)
    assert len(text.encode()) == 1000
    assert text.startswith(CORPUS.source("stories").held_out[0])


def test_a_character_is_not_cut_in_two(tmp_path):
    (tmp_path / "a.txt").write_text("ü" * 9)
    (tmp_path / "b.txt").write_text("ö" * 9)
    corpus = load_corpus(replace(CONFIG, sources=(str(tmp_path),)))
    assert len(held_out_text(corpus, str(tmp_path), 7).encode()) == 6


def test_nothing_held_out_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    corpus = load_corpus(replace(CONFIG, sources=(str(tmp_path),), held_out=0.0))
    with pytest.raises(DataError, match=r"no held-out documents"):
        held_out_text(corpus, str(tmp_path), 7)


def test_xz_is_what_the_tool_writes():
    text = held_out_text(CORPUS, "stories", 5000)
    assert (
        xz_bits_per_byte(text)
        == 8 * len(lzma.compress(text.encode(), format=lzma.FORMAT_XZ, preset=6)) / 5000
    )
    assert 0.5 < xz_bits_per_byte(text) < 3
