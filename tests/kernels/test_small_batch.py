"""The form for a handful of tokens agrees with all experts on all tokens, and with sorted rows,
alone and on a mesh."""

from contextlib import nullcontext
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seekjax.config import KernelConfig
from seekjax.errors import ConfigError
from seekjax.kernels.small_batch import experts_every, experts_small_batch
from seekjax.model.experts import EXCHANGES, check_trainable, mixture
from seekjax.placement import use_mesh
from sharding.mesh import MeshConfig

E, D, F, K = 8, 16, 12, 3


def drawn(tokens, seed=0, batch=1):
    random = np.random.default_rng(seed)
    x_BTD = random.normal(size=(batch, tokens, D))
    choice_BTK = np.stack([random.permutation(E)[:K] for _ in range(batch * tokens)]).reshape(
        batch, tokens, K
    )
    gate_BTK = random.random((batch, tokens, K))
    weights = [random.normal(size=shape) / 4 for shape in ((E, D, F), (E, D, F), (E, F, D))]
    return [
        jnp.asarray(a, jnp.int32 if a is choice_BTK else jnp.float32)
        for a in (x_BTD, choice_BTK, gate_BTK, *weights)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, 2, 11, 40])
def test_the_loop_over_experts_in_use_is_the_sum_over_all(tokens):
    x_BTD, choice_BTK, gate_BTK, *weights = drawn(tokens)
    mix_ME = jnp.where(choice_BTK[0][..., None] == jnp.arange(E), gate_BTK[0][..., None], 0).sum(1)
    np.testing.assert_allclose(
        jax.jit(experts_small_batch)(x_BTD[0], mix_ME, *weights),
        experts_every(x_BTD[0], mix_ME, *weights),
        atol=1e-5,
    )
    assert not np.any(experts_small_batch(x_BTD[0], mix_ME * 0, *weights))


def test_weights_of_experts_nobody_chose_are_not_read():
    x_BTD, choice_BTK, gate_BTK, *weights = drawn(1)
    poisoned = [w.at[np.setdiff1d(np.arange(E), choice_BTK)].set(jnp.nan) for w in weights]
    mix_ME = jnp.where(choice_BTK[0][..., None] == jnp.arange(E), gate_BTK[0][..., None], 0).sum(1)
    np.testing.assert_array_equal(
        jax.jit(experts_small_batch)(x_BTD[0], mix_ME, *poisoned),
        jax.jit(experts_small_batch)(x_BTD[0], mix_ME, *weights),
    )


def dispatched(arrays, dispatch):
    kernel = KernelConfig(dispatch=dispatch, experts="loop")
    return jax.jit(lambda *a: mixture(*a[:3], a[3:], kernel))(*arrays)


@cache
def of_sorted_rows():
    y_BTD, _ = dispatched(drawn(2, batch=8), "static")
    return y_BTD


@pytest.mark.mesh
@pytest.mark.parametrize(
    "mesh", [None, MeshConfig(data=2, expert=2, tensor=2), MeshConfig(data=1, expert=8)], ids=str
)
def test_small_batch_dispatch_equals_sorted_dispatch(mesh):
    arrays, expected = drawn(2, batch=8), of_sorted_rows()
    with use_mesh(mesh) if mesh else nullcontext():
        y_BTD, dropped = dispatched(arrays, "small_batch")
    np.testing.assert_allclose(y_BTD, expected, atol=1e-5)
    assert dropped == 0


def test_the_older_name_of_the_exchange_still_opens():
    assert EXCHANGES.find("few") is EXCHANGES.find("small_batch")


@pytest.mark.parametrize("dispatch", ["few", "small_batch"])
def test_what_has_no_gradient_is_not_trained(dispatch):
    with pytest.raises(ConfigError, match=f"kernel.dispatch {dispatch} is for decoding"):
        check_trainable(dispatch)


def test_an_unknown_exchange_is_refused_before_anything_compiles():
    with pytest.raises(ConfigError, match="did you mean 'static'"):
        check_trainable("statc")
    check_trainable("auto")
    check_trainable("ragged")
