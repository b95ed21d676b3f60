"""The side of a text is fixed for ever, copies stay together, and neither side stays empty."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seekjax.data.split import hash_fraction, held_out_mask, is_held_out


@given(st.text(), st.floats(0, 1))
def test_the_hash_is_blake2b_and_decides_the_side(text, share):
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    assert hash_fraction(text) == int(digest, 16) / 16**16
    assert is_held_out(text, share) == (hash_fraction(text) < share)


def test_the_fractions_are_spread_evenly():
    fractions = [hash_fraction(f"text {index}") for index in range(10_000)]
    counts, _ = np.histogram(fractions, bins=10, range=(0, 1))
    assert counts.min() > 850
    assert counts.max() < 1150


@given(
    st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20, unique=True),
    st.floats(0.001, 0.999),
)
def test_each_side_has_a_text_and_only_the_nearest_moves(fractions, share):
    fractions = np.array(fractions)
    held_out = held_out_mask(fractions, share)
    by_hash = fractions < share
    moved = held_out != by_hash

    assert not held_out.all()
    assert held_out.any() or len(fractions) == 1
    assert moved.sum() <= 1
    if moved.any():
        distance = np.abs(fractions - share)
        assert distance[moved] == distance.min()


@pytest.mark.parametrize("size", [1, 2, 50])
def test_a_share_of_zero_holds_nothing_out(size):
    assert not held_out_mask(np.linspace(0, 0.9, size), 0).any()
