"""The divergence of student and teacher against NumPy, in both directions, whole or of the
most likely tokens and the rest."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekjax.kernels.divergence import divergence, top_k_log_probs
from seekjax.placement import use_mesh
from sharding.mesh import MeshConfig
from tests.reference.divergence import numpy_kl, softmax


@pytest.fixture(scope="module")
def gradients():
    """KL [B, T] and its gradients by hidden states and head, compiled once for each form; logits
    are the head's own rows, D = V."""

    def run(kind, top_k, temperature):
        def kl(hidden, head, other, other_head):
            if top_k:
                teacher = top_k_log_probs(other, other_head, top_k, temperature)
            else:
                teacher = {"hidden": other, "head": other_head}
            kl_BT = divergence(hidden, head, teacher, kind, temperature)
            return kl_BT.sum(), kl_BT

        return jax.jit(jax.value_and_grad(kl, (0, 1, 2), has_aux=True))

    return {
        (kind, top_k): run(kind, top_k, 1.7) for kind in ("forward", "reverse") for top_k in (0, 3)
    }


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["forward", "reverse"]), st.sampled_from([0, 3]))
def test_divergence_and_its_gradients_are_those_of_numpy(gradients, seed, kind, top_k):
    random, V = np.random.default_rng(seed), 11
    hidden, other, head, other_head = (
        np.float32(random.normal(size=shape)) for shape in ((2, 3, 5), (2, 3, 4), (5, V), (4, V))
    )
    p, q = (
        softmax(x.reshape(6, -1).astype(float) @ w / 1.7)
        for x, w in ((other, other_head), (hidden, head))
    )
    (_, kl_BT), (by_hidden, by_head, by_teacher) = gradients[kind, top_k](
        hidden, head, other, other_head
    )
    expected, by_logit = numpy_kl(p, q, kind, top_k)
    np.testing.assert_allclose(kl_BT.reshape(-1), expected, rtol=2e-4, atol=2e-6)
    np.testing.assert_allclose(
        by_hidden.reshape(6, -1), by_logit @ head.T / 1.7, rtol=2e-3, atol=5e-6
    )
    np.testing.assert_allclose(
        by_head, hidden.reshape(6, -1).T @ by_logit / 1.7, rtol=2e-3, atol=5e-6
    )
    assert not np.asarray(by_teacher).any()


@pytest.mark.parametrize("kind", ["forward", "reverse"])
@pytest.mark.parametrize("top_k", [0, 3])
def test_a_student_like_its_teacher_has_nothing_to_learn(gradients, kind, top_k):
    random = np.random.default_rng(0)
    hidden, head = (
        np.float32(5 * random.normal(size=(2, 3, 4))),
        np.float32(random.normal(size=(4, 11))),
    )
    (_, kl_BT), slopes = gradients[kind, top_k](hidden, head, hidden, head)
    assert np.abs(kl_BT).max() < 1e-6
    assert max(np.abs(x).max() for x in slopes) < 2e-5


@pytest.mark.slow
def test_rows_and_a_split_vocabulary_change_nothing(monkeypatch):
    """Tiles of 4 rows, the last filled up, on a mesh that splits sequences and vocabulary; K is
    more than a device's part of the vocabulary."""
    monkeypatch.setattr("seekjax.kernels.divergence.ROWS", 4)
    random = np.random.default_rng(1)
    hidden, other, head, other_head = (
        np.float32(random.normal(size=shape)) for shape in ((4, 5, 6), (4, 5, 8), (6, 16), (8, 16))
    )

    def both(hidden, head):
        teacher_top_k = top_k_log_probs(other, other_head, 6, 1.0)
        of_top_k = divergence(hidden, head, teacher_top_k, "reverse", 1.0)
        teacher = {"hidden": other, "head": other_head}
        of_all = divergence(hidden, head, teacher, "reverse", 1.0)
        return of_top_k.sum() + of_all.sum(), (teacher_top_k, of_top_k, of_all)

    results = []
    for mesh in (MeshConfig(data=1), MeshConfig(data=2, tensor=4)):
        with use_mesh(mesh):
            results.append(jax.jit(jax.value_and_grad(both, (0, 1), has_aux=True))(hidden, head))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *results)

    (_, (on_one, of_top_k, of_all)), _ = results[0]
    (_, (on_eight, _, _)), _ = results[1]
    assert on_one["index"].shape == on_eight["index"].shape
    p = softmax(other @ other_head)
    np.testing.assert_array_equal(on_eight["index"], np.argsort(-p, -1)[..., :6])
    # Outcomes taken together differ less.
    assert (of_top_k <= of_all + 1e-6).all()
