"""Different seeds, however long, give different keys."""

import itertools

import jax
import numpy as np

from seekjax.data.batches import short_seed
from seekjax.model.init import init_params
from seekjax.seeds import SHORT, root_key, row_keys
from tests.fixtures import TINY

SEEDS = (0, 1, SHORT - 1, SHORT, SHORT + 1, 2**40, 2**63 - 1)


def test_keys_differ_and_short_seeds_keep_theirs():
    keys = {tuple(jax.random.key_data(root_key(seed)).tolist()) for seed in SEEDS}
    assert len(keys) == len(SEEDS)
    for seed in SEEDS[:3]:
        assert root_key(seed) == jax.random.key(seed)


def test_a_row_draws_as_its_own_seed_does():
    for seed in (3, SHORT - 2, 2**63 - 4):
        rows = row_keys(seed, 4)
        assert all(rows[row] == root_key(seed + row) for row in range(4))


def test_weights_and_data_take_long_seeds():
    shapes, axes = {"w": jax.ShapeDtypeStruct((4, 4), "float32")}, {"w": "embed hidden"}
    weights = [np.asarray(init_params(TINY, shapes, axes, seed)["w"]) for seed in SEEDS]
    for one, other in itertools.combinations(weights, 2):
        assert not np.allclose(one, other)
    short = [short_seed(seed) for seed in SEEDS]
    assert len(set(short)) == len(SEEDS)
    assert max(short) < SHORT
