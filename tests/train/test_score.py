"""Log-probabilities of given tokens."""

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.train.score import log_probs_among


def test_probabilities_among_kept_tokens_are_those_of_the_whole_softmax():
    """And their gradients; in tiles that 7 positions do not fill."""
    random, V = np.random.default_rng(0), 20
    hidden, head = np.float32(random.normal(size=(2, 7, 5))), np.float32(random.normal(size=(5, V)))
    kept, target = random.random((2, 7, V)) < 0.4, random.integers(0, V, (2, 7))
    np.put_along_axis(kept, target[..., None], True, -1)

    def plain(hidden, head):
        found = jax.nn.log_softmax(jnp.where(kept, hidden @ head, -jnp.inf), -1)
        return (found := jnp.take_along_axis(found, target[..., None], -1)[..., 0]).sum(), found

    def tiled(hidden, head):
        return (
            found := log_probs_among(np.packbits(kept, axis=-1), hidden, head, target, rows=6)
        ).sum(), found

    wanted, seen = (
        jax.jit(jax.value_and_grad(form, (0, 1), has_aux=True))(hidden, head)
        for form in (plain, tiled)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), seen, wanted)
