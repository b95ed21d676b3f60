"""Where redundant experts are placed: the published example, and what holds for every load."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharding.replicate import balanced_packing, place_experts, replicate

# deepseek-ai/EPLB, the example of its README: two layers of twelve experts
LOADS = [
    [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
    [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
]
PUBLISHED = [
    [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
    [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
]


@pytest.mark.parametrize(("load", "expected"), list(zip(LOADS, PUBLISHED)))
def test_the_published_example(load, expected):
    placement = place_experts(np.array(load), physical=16, devices=8, nodes=2, groups=4)
    assert placement.logical_P.tolist() == expected


shapes = st.sampled_from(
    # experts, physical, devices, nodes, groups
    [
        (8, 12, 4, 1, 1),
        (8, 8, 8, 1, 1),
        (16, 24, 8, 2, 4),
        (16, 32, 8, 4, 4),
        (16, 24, 8, 2, 1),
        (12, 16, 4, 2, 3),
    ]
)


@settings(max_examples=100, deadline=None)
@given(shape=shapes, seed=st.integers(0, 2**16), skew=st.sampled_from([0, 1, 3]))
def test_every_placement_is_whole_and_no_worse_than_none(shape, seed, skew):
    experts, physical, devices, nodes, groups = shape
    random = np.random.default_rng(seed)
    load_E = random.uniform(size=experts) ** (1 + skew) * 1000
    placement = place_experts(load_E, physical, devices, nodes, groups)

    # Every place holds one expert, and every expert has a place.
    assert placement.logical_P.shape == (physical,)
    assert set(placement.logical_P) == set(range(experts))
    np.testing.assert_array_equal(
        placement.copies_E, np.bincount(placement.logical_P, minlength=experts)
    )
    for expert, places in enumerate(placement.physical_EC):
        copies = placement.copies_E[expert]
        assert (placement.logical_P[places[:copies]] == expert).all()
        assert (places[copies:] == -1).all()
        assert len(set(places[:copies])) == copies

    # No load is lost. Devices get closer to their mean than the heaviest pack of a bad packing.
    load_D = placement.device_load(load_E, devices)
    assert load_D.sum() == pytest.approx(load_E.sum())
    heaviest_place = (load_E / placement.copies_E).max()
    if groups % nodes or nodes == 1:
        assert load_D.max() <= load_D.mean() + heaviest_place + 1e-9
        assert heaviest_place <= load_E.max()

    # Hierarchical: a group stays within one node.
    if groups % nodes == 0 and nodes > 1:
        node_P = np.arange(physical) // (physical // nodes)
        for group in range(groups):
            in_group_P = placement.logical_P // (experts // groups) == group
            assert len(set(node_P[in_group_P])) == 1


@given(st.lists(st.integers(0, 50), min_size=4, max_size=12), st.integers(0, 12))
def test_copies_go_to_the_heaviest(load, more):
    """No expert's copies have more load each than it would take to give another one a copy."""
    load_X = np.array(load, float)
    items, copies_X = replicate(load_X, len(load) + more)
    np.testing.assert_array_equal(np.bincount(items, minlength=len(load)), copies_X)
    assert copies_X.min() >= 1
    if more:
        before = np.array([load_X[i] / (c - 1) for i, c in enumerate(copies_X) if c > 1])
        assert (load_X / copies_X).max() <= before.min() + 1e-9


@given(st.lists(st.integers(0, 50), min_size=8, max_size=8))
def test_packs_are_equally_full(load):
    packs = balanced_packing(np.array(load, float), 4)
    assert packs.shape == (4, 2)
    assert sorted(packs.reshape(-1)) == list(range(8))


def test_numbers_that_do_not_divide_are_refused():
    load_E = np.ones(8)
    with pytest.raises(ValueError, match="8 experts do not fit into 6 places"):
        place_experts(load_E, 6, 2)
    with pytest.raises(ValueError, match="10 places of experts cannot be split into 4"):
        place_experts(load_E, 10, 4)
