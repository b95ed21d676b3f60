"""The loss against the papers' equations, written down again in NumPy (tests/reference)."""

from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seekjax.config import Config, DataConfig, KernelConfig, TrainConfig
from seekjax.model.transformer import Transformer, logits
from seekjax.train.loss import NextToken, Totals, target_mask
from seekjax.train.state import RunSpec
from sharding.place import unbox
from tests.fixtures import tiny_model

MODEL = tiny_model(vocab=48, layers=1, hidden=512, expert_hidden=32, dense_layers=0, mtp_depth=2)


def made(model, tokens):
    return jax.tree.map(
        lambda x: jax.random.normal(jax.random.key(x.size), x.shape) * 0.1,
        unbox(jax.eval_shape(model.init, jax.random.key(0), tokens)),
    )


@cache
def programs():
    """The loss and the outputs of a model as compiled functions of the batch."""
    config = Config(
        model=MODEL,
        data=DataConfig(sequence=12, mask_documents=True),
        kernel=KernelConfig(attention="plain", experts="loop", vocab_chunk=16),
        train=TrainConfig(balance_loss=0.01),
    )
    model = Transformer(MODEL, config.kernel)
    criterion = NextToken(RunSpec(config), np.ones(MODEL.vocab))

    @jax.jit
    def loss(variables, batch, count):
        state = SimpleNamespace(balance=variables["balance"], frozen={}, step=0)
        return criterion.loss(variables["params"], state, batch, Totals(count, 3))

    @jax.jit
    def output(variables, batch):
        tokens, segment = batch["tokens"], batch["segments"][:, :-1]
        return model.apply(variables, tokens[:, :-1], segment, segment > 0, tokens)

    return model, loss, output


def run(rows):
    model, loss, output = programs()
    tokens = jax.random.randint(jax.random.key(1), (3, 13), 0, MODEL.vocab)
    variables = made(model, tokens[:, :-1])
    segments = np.array(rows, np.int32)
    batch = {"tokens": tokens, "segments": jnp.asarray(segments)}
    count = target_mask(batch, 1, mask_documents=True).sum().astype(jnp.float32)
    total, seen = loss(variables, batch, count)
    return total, seen, output(variables, batch), np.asarray(tokens), segments


def cross_entropy(hidden, head, target, mask):
    logit = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64)
    nll = np.log(np.exp(logit).sum(-1)) - np.take_along_axis(logit, target[..., None], -1)[..., 0]
    return (nll * mask).sum()


def reachable(segments, depth, masked):
    """Which positions have a target `depth` tokens ahead, one by one."""
    mask = np.zeros((3, 12), bool)
    for b in range(3):
        for i in range(13 - depth):
            here, there = segments[b, i], segments[b, i + depth]
            if i < 12 and here and there:
                mask[b, i] = not masked or here == there
    return mask


def rows_with_an_end_and_padding():
    segments = np.ones((3, 13), np.int32)
    segments[0, 5:] = 2
    segments[1, 9:] = 0
    return segments


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_target_is_a_token_and_in_the_same_document_if_they_are_masked(depth, masked):
    segments = rows_with_an_end_and_padding()
    found = target_mask({"segments": segments}, depth, masked)
    np.testing.assert_array_equal(found, reachable(segments, depth, masked))


@pytest.mark.slow
def test_every_depth_predicts_its_own_token_and_all_share_one_divisor():
    """Of masked documents; tests/checkpoint/test_old_runs.py has losses without."""
    total, seen, output, tokens, segments = run(rows_with_an_end_and_padding())
    sums = []
    for depth, hidden in enumerate((output.hidden_BTD, *output.mtp_BTD), 1):
        mask = reachable(segments, depth, masked=True)
        target = np.pad(tokens[:, depth:], ((0, 0), (0, depth - 1)))
        sums.append(cross_entropy(hidden, output.head_DV, target, mask))
        if depth == 1:
            count = mask.sum()
    np.testing.assert_allclose(seen["loss"], sums[0] / count, rtol=2e-6)
    np.testing.assert_allclose(seen["mtp_loss"], (sums[1] + sums[2]) / 2 / count, rtol=2e-6)
    np.testing.assert_allclose(
        total, seen["loss"] + 0.3 * seen["mtp_loss"] + 0.01 * seen["balance_loss"], rtol=1e-6
    )


@pytest.mark.slow
def test_balance_loss_is_one_per_layer_when_tokens_are_spread_evenly():
    _, seen, _output, *_ = run(np.ones((3, 13)))
    layers = sum(np.size(layer["dropped"]) for layer in seen["experts"].values())
    assert layers == 3
    assert 0.9 * layers < seen["balance_loss"] < 2 * layers
    assert all(
        np.allclose(layer["load_E"].sum(-1), 3 * 12 * 2) for layer in seen["experts"].values()
    )


@pytest.mark.slow
def test_no_position_sees_its_future():
    model = Transformer(MODEL, KernelConfig(attention="plain", experts="loop"))
    variables = made(model, jnp.arange(10)[None])
    embed = variables["params"]["embed"]

    def at(
        position, rows
    ):  # token i is id i, so that row i of the embedding is what position i reads
        params = variables["params"] | {"embed": rows}
        return logits(model.apply({**variables, "params": params}, jnp.arange(10)[None]))[
            0, position
        ].sum()

    gradients = jax.jit(
        jax.jacrev(lambda rows: jnp.stack([at(position, rows) for position in (0, 4, 9)]))
    )(embed)
    for position, gradient in zip((0, 4, 9), gradients):
        reached = np.abs(gradient[:10]).max(-1) > 0
        assert reached[: position + 1].all()
        assert not reached[position + 1 :].any()
