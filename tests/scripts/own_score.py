"""A router score of a user's own, named on the command line as
`--model.scoring tests.scripts.own_score:sqrt_softplus`."""

import jax
import jax.numpy as jnp


def sqrt_softplus(logit_BTE: jax.Array) -> jax.Array:
    """Return sqrt(softplus(logit)), the score of V4."""
    return jnp.sqrt(jax.nn.softplus(logit_BTE))
