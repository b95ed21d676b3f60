"""A recipe of reinforcement from outside: `--grpo.recipe tests.scripts.own_recipe:TEMPERED`.

Its advantage, ratio, surrogate and average are functions of this file, each in one line of the
recipe.
"""

import jax.numpy as jnp
from jax.lax import stop_gradient

from seekjax.config import Objective
from seekjax.post.rl.objective import Surrogate


def ranked(reward_PG, valid_PG):
    """Better minus worse samples of the group, as a share of it: the size of rewards is ignored."""
    both_PGG = valid_PG[:, :, None] & valid_PG[:, None, :]
    sign_PGG = jnp.where(both_PGG, jnp.sign(reward_PG[:, :, None] - reward_PG[:, None, :]), 0)
    return sign_PGG.sum(2) / jnp.maximum(valid_PG.sum(1, keepdims=True), 1)


def halved(log_ratio_BT, length_B):
    """The square root of the ratio."""
    return log_ratio_BT / 2


def unclipped(objective, ratio_BT, logp_BT, advantage_B1):
    """r A: no bound."""
    never_BT = jnp.zeros(ratio_BT.shape, bool)
    return Surrogate(ratio_BT * advantage_B1, never_BT, never_BT)


def longest(value_B, length_B, totals):
    """Sum over tokens, divided by the longest completion of the micro-batch."""
    return value_B.sum() / (stop_gradient(length_B.max()) * totals.sequences)


TEMPERED = Objective(
    advantage="tests.scripts.own_recipe:ranked",
    ratio="tests.scripts.own_recipe:halved",
    surrogate="tests.scripts.own_recipe:unclipped",
    average="tests.scripts.own_recipe:longest",
    kl=0.0,
    mask_ratio=0.0,
)
