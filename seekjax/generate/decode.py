"""Sampling from the model with its latent cache: one prefill, then one compiled loop."""

from functools import partial

import jax
import jax.numpy as jnp

from seekjax.model.cache import empty_cache
from seekjax.model.transformer import Transformer, logits


@partial(jax.jit, static_argnums=(0, 4))
def sample(model: Transformer, variables: dict, prompt_BT: jax.Array, key: jax.Array, new: int, temperature: jax.Array | float = 1.0) -> jax.Array:
    """`new` tokens after each prompt, [B, new], drawn from softmax(logits / temperature); temperature 0 takes the likeliest."""
    B, T = prompt_BT.shape

    def draw(output, key):
        logit_BV = logits(output)[:, -1]
        drawn_B = jax.random.categorical(key, logit_BV / jnp.maximum(temperature, 1e-6))
        return jnp.where(temperature > 0, drawn_B, logit_BV.argmax(-1)).astype(jnp.int32)

    def one(carry, i):
        token_B, cache = carry
        output = model.apply(variables, token_B[:, None], cache=cache, start=T + i)
        return (draw(output, jax.random.fold_in(key, i + 1)), output.cache), token_B

    output = model.apply(variables, prompt_BT, cache=empty_cache(model.model, B, T + new, model.kernel.dtype), start=0)
    _, tokens_NB = jax.lax.scan(one, (draw(output, jax.random.fold_in(key, 0)), output.cache), jnp.arange(new))
    return tokens_NB.T
