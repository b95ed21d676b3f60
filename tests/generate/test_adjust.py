"""Penalties, biases and masks against the same in NumPy, token by token."""

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.generate.adjust import Adjustments, adjust
from seekjax.generate.sampling import SamplingArrays, apply_sampling

V = 40


def plain(logits, text, prompt, row):
    """The adjusted logits of one row."""
    logits, answer = logits.astype(np.float64), text[prompt:]
    for id in range(V):
        if id in text:
            factor = row["repetition"]
            logits[id] = logits[id] / factor if logits[id] > 0 else logits[id] * factor
        logits[id] -= row["frequency"] * answer.count(id) + row["presence"] * (id in answer)
    for id, bias in row["bias"]:
        logits[id] += bias
    if row["allowed"] is not None:
        logits[[id for id in range(V) if id not in row["allowed"]]] = -np.inf
    return logits


NOTHING = {"repetition": 1.0, "frequency": 0.0, "presence": 0.0, "bias": [], "allowed": None}
ROWS = [
    NOTHING,
    NOTHING | {"repetition": 1.7},
    NOTHING | {"frequency": 0.4, "presence": -1.5},
    NOTHING | {"bias": [(3, 2.5), (39, -100.0)]},
    NOTHING | {"allowed": [0, 31, 32, 39]},
    {"repetition": 0.8, "frequency": -1, "presence": 1, "bias": [(32, 9)], "allowed": [1, 32]},
]


def arrays(rows, prompt_B):
    def column(name):
        return jnp.array([row[name] for row in rows], jnp.float32)

    bias_id_BX, bias_BX = np.full((len(rows), 3), V), np.zeros((len(rows), 3), np.float32)
    allowed_Bx = np.zeros((len(rows), 2), np.uint32)
    for b, row in enumerate(rows):
        for x, (id, bias) in enumerate(row["bias"]):
            bias_id_BX[b, x], bias_BX[b, x] = id, bias
        for id in row["allowed"] or ():
            allowed_Bx[b, id // 32] |= np.uint32(1 << (id % 32))
    return Adjustments(
        jnp.array(prompt_B),
        column("repetition"),
        column("frequency"),
        column("presence"),
        jnp.array(bias_id_BX),
        jnp.array(bias_BX),
        jnp.array([row["allowed"] is not None for row in rows]),
        jnp.array(allowed_Bx),
    )


def test_every_row_has_its_own_adjustments():
    random = np.random.default_rng(0)
    logit_BV = random.normal(size=(len(ROWS), V)).astype(np.float32) * 3
    tokens_BS = random.integers(0, 8, (len(ROWS), 12))
    length_B, prompt_B = np.array([12, 9, 10, 4, 7, 11]), np.array([5, 4, 3, 4, 0, 6])
    run = jax.jit(adjust)
    out_BV = run(logit_BV, jnp.array(tokens_BS), jnp.array(length_B), arrays(ROWS, prompt_B))
    for b, row in enumerate(ROWS):
        text = tokens_BS[b, : length_B[b]].tolist()
        expected = plain(logit_BV[b], text, prompt_B[b], row)
        np.testing.assert_allclose(out_BV[b], expected, atol=2e-5)

    # nothing asked for, nothing changed
    untouched = run(
        logit_BV, jnp.array(tokens_BS), jnp.array(length_B), arrays([NOTHING] * 6, prompt_B)
    )
    assert np.array_equal(untouched, logit_BV)


def test_settings_of_rows_are_those_of_batches():
    """A row with its own temperature, top-k, top-p and min-p gets what it would get alone."""
    random = np.random.default_rng(1)
    rows = [(0, 0, 1, 0), (1, 0, 1, 0), (0.7, 3, 1, 0), (1.3, 0, 0.6, 0), (1, 9, 0.8, 0.1)]
    logit_BV = random.normal(size=(len(rows), V)).astype(np.float32) * 2
    mixed = SamplingArrays(*map(jnp.array, np.array(rows, np.float32).T))
    out_BV = jax.jit(apply_sampling)(logit_BV, mixed)
    for b, row in enumerate(rows):
        alone = SamplingArrays(*map(jnp.float32, row))
        np.testing.assert_allclose(
            out_BV[b], apply_sampling(logit_BV[b : b + 1], alone)[0], atol=1e-6
        )
