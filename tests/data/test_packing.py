"""Packing loses and repeats nothing, and continues from any position."""

import json
from collections import Counter
from itertools import islice, pairwise

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekjax.data.batches import _first_fit
from seekjax.data.packing import Rows, Stream

PAD = -1


def stream(lengths: list[int]) -> tuple[Stream, list[np.ndarray]]:
    """Endless documents of these lengths in turn, every token of every document different; and the
    first thousand of them."""
    starts = np.concatenate([[0], np.cumsum(lengths)])

    def document(index):
        turn, position = divmod(index, len(lengths))
        return (turn * starts[-1] + starts[position] + np.arange(lengths[position])).astype(
            np.int32
        )

    def in_this_thread(dataset):
        return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=0)))

    return Stream(grain.MapDataset.range(10**6).map(document), in_this_thread), [
        document(index) for index in range(1000)
    ]


def rows_of(lengths, window, lanes, packing):
    source, documents = stream(lengths)
    rows = Rows(source, window=window, lanes=lanes, split=packing == "split")
    return iter(
        rows if packing == "split" else _first_fit(rows, window, {"tokens": PAD}, seed=0)
    ), documents


shapes = {
    "lengths": st.lists(st.integers(1, 40), min_size=1, max_size=6),
    "window": st.integers(2, 24),
    "lanes": st.integers(1, 5),
}


def predictions(rows) -> Counter:
    """Every (token, next token) that the rows hold within one document."""
    return Counter(
        (int(a), int(b))
        for row in rows
        for a, b, p, q in zip(
            row["tokens"], row["tokens"][1:], row["segments"], row["segments"][1:]
        )
        if p == q > 0
    )


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["split", "fit"])
@settings(max_examples=25, deadline=None)
@given(**shapes)
def test_every_token_is_predicted_exactly_once(packing, lengths, window, lanes):
    batches, documents = rows_of(lengths, window, lanes, packing)
    rows = list(islice(batches, 192))  # whole groups of first-fit bins
    predicted = predictions(rows)
    assert max(predicted.values(), default=1) == 1, "a prediction is repeated"
    tokens = {int(token) for row in rows for token in row["tokens"][row["segments"] > 0]}
    shown = [index for index, document in enumerate(documents) if int(document[0]) in tokens]
    assert shown == list(range(len(shown))), "a document is skipped"
    unfinished = 0
    for document in documents[: len(shown)]:
        expected = {(int(a), int(b)) for a, b in pairwise(document)}
        missing = len(expected - set(predicted))
        unfinished += missing > 0
    assert unfinished <= lanes, "only the document each lane is reading may be incomplete"


@settings(max_examples=25, deadline=None)
@given(**shapes)
def test_split_rows_are_full_and_follow_each_other(lengths, window, lanes):
    batches, _ = rows_of(lengths, window, lanes, "split")
    rows = list(islice(batches, 60))
    for row in rows:
        assert row["tokens"].shape == row["segments"].shape == (window,)
        assert row["tokens"].dtype == row["segments"].dtype == np.int32
        assert row["segments"][0] == 1
        assert set(np.diff(row["segments"])) <= {0, 1}
    for before, after in zip(rows, rows[lanes:]):
        assert before["tokens"][-1] == after["tokens"][0]


@settings(max_examples=25, deadline=None)
@given(**shapes)
def test_fit_rows_hold_pieces_of_documents_then_padding(lengths, window, lanes):
    batches, _ = rows_of(lengths, window, lanes, "fit")
    for row in islice(batches, 60):
        assert row["tokens"].shape == row["segments"].shape == (window,)
        assert row["tokens"].dtype == row["segments"].dtype == np.int32
        padding = row["segments"] == 0
        assert (np.diff(padding.astype(int)) >= 0).all()
        assert (row["tokens"][padding] == PAD).all()
        assert not padding[0]
        for segment in range(1, row["segments"].max() + 1):
            assert (np.diff(row["tokens"][row["segments"] == segment]) == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["split", "fit"])
@settings(max_examples=25, deadline=None)
@given(stop=st.integers(0, 150), **shapes)
def test_resuming_anywhere_gives_the_same_rows(packing, stop, lengths, window, lanes):
    unbroken, _ = rows_of(lengths, window, lanes, packing)
    list(islice(unbroken, stop))
    state = json.loads(json.dumps(unbroken.get_state()))
    resumed, _ = rows_of(lengths, window, lanes, packing)
    list(islice(resumed, 7))  # an iterator that has been used can be set as well as a fresh one
    resumed.set_state(state)
    assert resumed.get_state() == state
    for expected, row in zip(islice(unbroken, 80), resumed):
        assert (expected["tokens"] == row["tokens"]).all()
        assert (expected["segments"] == row["segments"]).all()
