"""Updates that go bad inside the step: skipped whole, on every device alike. No model: a quadratic
shows all of it."""

from functools import partial

import jax
import numpy as np
import pytest

from seekjax.config import Config, TrainConfig
from seekjax.placement import use_mesh
from seekjax.train import skip
from seekjax.train.schedule import average_decay
from seekjax.train.step import BATCH, train_step
from sharding.mesh import MeshConfig
from sharding.place import put_batch
from sharding.rules import sharding
from tests.train.quadratic import AXES, Quadratic, batch, quadratic


def start():
    return quadratic()[0].first()


def kept(state):
    """All that a skipped update leaves as it is."""
    _, adam, _, _, recent = state.opt_state
    return jax.tree.leaves((state.params, state.balance, state.ema, adam, recent))


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30])
def test_an_update_that_is_not_finite_is_skipped_whole(poison):
    step = quadratic()[1]
    before, _ = step(start(), batch(0))
    after, metrics = step(before, batch(1, poison))
    assert metrics["skipped"] == 1
    assert not np.isfinite(metrics["grad_norm"])
    assert int(after.step) == 2
    for old, new in zip(kept(before), kept(after), strict=True):
        np.testing.assert_array_equal(old, new)

    # The next one is made, with the rate of its step.
    later, metrics = step(after, batch(2))
    assert metrics["skipped"] == 0
    assert all(np.isfinite(x).all() for x in kept(later)[:-1])
    assert not np.array_equal(later.params["w"], after.params["w"])
    assert int(later.opt_state[-2].count) == int(later.step)


def test_devices_skip_alike():
    """One bad row, on one of eight devices, leaves the parts of the weights on all of them."""
    with use_mesh(MeshConfig(data=2, fsdp=4)):
        state = start()
        places = jax.tree.map(lambda axes: sharding(axes), AXES)
        everywhere = jax.tree.map(lambda _: sharding(""), state)
        everywhere = everywhere.replace(params=places, ema=places)
        state = jax.device_put(state, everywhere)
        step = jax.jit(
            partial(train_step, quadratic()[0], Quadratic()),
            out_shardings=(everywhere, sharding("")),
        )
        after, metrics = step(state, put_batch(batch(1, np.nan), BATCH))
    assert metrics["skipped"] == 1
    for old, new in zip(kept(state), kept(after), strict=True):
        for shard_old, shard_new in zip(old.addressable_shards, new.addressable_shards):
            np.testing.assert_array_equal(shard_old.data, shard_new.data)


def test_the_norms_of_the_parameters_make_the_norm_of_the_gradient():
    state = start()
    _, metrics = quadratic()[1](state, batch(0))
    assert skip.names(state.params) == ["norm", "w"]
    np.testing.assert_allclose(
        np.sqrt((metrics["grad_norms"] ** 2).sum()), metrics["grad_norm"], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("loss", "norm", "spike"),
    [
        (2.0, 1.0, False),
        (2.0, 4.9, False),
        (2.0, 5.1, True),
        (2.4, 1.0, False),
        (2.6, 1.0, True),
        (-9.0, 0.1, False),
    ],
)
def test_a_spike_is_far_above_recent_updates(loss, norm, spike):
    """Losses of 1.9, 2.0 and 2.1 deviate from their median by 0.1; all norms are 1."""
    losses = np.full(skip.WINDOW, np.nan, np.float32)
    losses[-skip.LEAST :] = np.resize([1.9, 2.1, 1.9, 2.1, 2.0], skip.LEAST)
    recent = np.stack([losses, np.where(np.isnan(losses), np.nan, np.float32(1))])
    assert bool(skip.is_spike(loss, norm, skip.Recent(recent), 5.0)) == spike

    # With fewer there is nothing to compare with.
    recent[:, -skip.LEAST] = np.nan
    assert not skip.is_spike(loss, norm, skip.Recent(recent), 5.0)


def test_the_step_skips_a_spike():
    step, state = quadratic()[1], start()
    for seed in range(skip.LEAST):
        state, metrics = step(state, batch(seed))
        assert metrics["skipped"] == 0
    after, metrics = step(state, batch(99, 1e3))
    assert metrics["skipped"] == 1
    assert np.isfinite(metrics["grad_norm"])
    np.testing.assert_array_equal(after.params["w"], state.params["w"])


def test_a_short_average_forgets_the_first_weights():
    """After 300 steps with a decay of 0.999 the first weights count for nothing, and the average is
    that of the last tenth."""
    decay = average_decay(Config(train=TrainConfig(ema=0.999)))
    rates = np.array(jax.vmap(decay)(np.arange(300)))
    weights = [np.prod(rates[step + 1 :]) * (1 - rates[step]) for step in range(300)]
    first = np.prod(rates)
    assert first < 1e-9
    np.testing.assert_allclose(first + sum(weights), 1, rtol=1e-5)
    assert 300 - np.dot(weights, np.arange(300)) < 35
    assert decay(100_000) == np.float32(0.999)
    assert average_decay(Config(train=TrainConfig(ema=0.5)))(300) == 0.5
