"""Which experts compute which token: the V2 and V3 routers, the balance bias, and measures of the
balance.

A router score of one's own needs no change here: `--model.scoring my_module:my_score` names a
function from float32 logits [B, T, E] to positive scores of the same shape.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from seekjax.config import ModelConfig
from seekjax.registry import Registry

Score = Callable[[jax.Array], jax.Array]


def softmax(logit_BTE: jax.Array) -> jax.Array:
    """Score experts against each other (V2 equation 22)."""
    return jax.nn.softmax(logit_BTE, -1)


def sigmoid(logit_BTE: jax.Array) -> jax.Array:
    """Score every expert by itself (V3 equation 15)."""
    return jax.nn.sigmoid(logit_BTE)


SCORES: Registry[Score] = Registry("router score", {"softmax": softmax, "sigmoid": sigmoid})


def affinity(logit_BTE: jax.Array, model: ModelConfig) -> jax.Array:
    """Return how well each expert suits each token, by the model's router score."""
    return SCORES.find(model.scoring)(logit_BTE)


def choose(score_BTE: jax.Array, bias_E: jax.Array, model: ModelConfig) -> jax.Array:
    """Choose the K experts of each token (V3 equation 16, V2 section 2.2.2).

    The bias decides which experts are chosen and never how much they count. A token chooses among
    the experts of its best groups, a group's score being the sum of its two best experts (V3) or
    its best one (V2). Of equal scores the lower index wins.
    """
    G, limit = model.expert_groups, model.groups_per_token
    biased_BTE = jax.lax.stop_gradient(score_BTE + bias_E)

    # Experts outside the token's best groups score -inf
    if limit < G:
        biased_BTGe = biased_BTE.reshape(*biased_BTE.shape[:-1], G, -1)
        if model.group_score == "top2":
            group_BTG = jax.lax.top_k(biased_BTGe, 2)[0].sum(-1)
        else:
            group_BTG = biased_BTGe.max(-1)
        best_BTg = jax.lax.top_k(group_BTG, limit)[1]
        open_BTG = (best_BTg[..., None] == jnp.arange(G)).any(-2)
        biased_BTGe = jnp.where(open_BTG[..., None], biased_BTGe, -jnp.inf)
        biased_BTE = biased_BTGe.reshape(biased_BTE.shape)

    return jax.lax.top_k(biased_BTE, model.experts_per_token)[1]


def gates(score_BTE: jax.Array, choice_BTK: jax.Array, model: ModelConfig) -> jax.Array:
    """Return how much each chosen expert counts, [B, T, K] (V3 equations 12-13)."""
    # A masked sum: its gradient needs no scatter
    chosen_BTKE = choice_BTK[..., None] == jnp.arange(model.experts)
    gate_BTK = jnp.where(chosen_BTKE, score_BTE[..., None, :], 0).sum(-1)

    if model.renormalise:
        gate_BTK = gate_BTK / (gate_BTK.sum(-1, keepdims=True) + 1e-20)
    return gate_BTK * model.route_scale


def route(
    score_BTE: jax.Array, bias_E: jax.Array, model: ModelConfig
) -> tuple[jax.Array, jax.Array]:
    """Return the K experts of each token, and their gates."""
    choice_BTK = choose(score_BTE, bias_E, model)
    return choice_BTK, gates(score_BTE, choice_BTK, model)


def count_choices(choice_BTK: jax.Array, mask_BT: jax.Array, experts: int) -> jax.Array:
    """Count the unmasked tokens of each sequence that chose each expert, [B, E] in float32."""
    chosen_BTE = (choice_BTK[..., None] == jnp.arange(experts)).sum(-2)
    return jnp.einsum("BTE,BT->BE", chosen_BTE.astype(jnp.float32), mask_BT.astype(jnp.float32))


def sequence_balance(
    score_BTE: jax.Array, choice_BTK: jax.Array, mask_BT: jax.Array | None = None
) -> jax.Array:
    """Return sum_i f_i P_i of each sequence, [B] (V3 equations 17-20 without alpha); 1 if balanced.

    f_i = E / (K T) * how often expert i is in choice_BTK; P_i = mean over tokens of the normalised
    score. By the letter of equation 18, the choice is the top K of the bare scores, with neither
    bias nor groups.
    """
    if mask_BT is None:
        mask_BT = jnp.ones(score_BTE.shape[:2], bool)
    E, K = score_BTE.shape[-1], choice_BTK.shape[-1]
    tokens_B = jnp.maximum(mask_BT.sum(-1), 1).astype(jnp.float32)

    share_BTE = score_BTE / score_BTE.sum(-1, keepdims=True)
    P_BE = jnp.einsum("BTE,BT->BE", share_BTE, mask_BT.astype(jnp.float32)) / tokens_B[:, None]
    f_BE = count_choices(choice_BTK, mask_BT, E) * E / (K * tokens_B[:, None])
    return (f_BE * P_BE).sum(-1)


def update_bias(bias_E: jax.Array, load_E: jax.Array, rate: jax.Array | float) -> jax.Array:
    """Return b + gamma sign(mean load - load): overloaded experts become less likely to be chosen
    (2408.15664, V3 section 2.1.2).
    """
    return bias_E + rate * jnp.sign(load_E.mean(-1, keepdims=True) - load_E)


def max_violation(load_E: jax.Array) -> jax.Array:
    """Return MaxVio = (largest load - mean load) / mean load; 0 if balanced (2408.15664)."""
    mean = load_E.mean(-1)
    return (load_E.max(-1) - mean) / jnp.maximum(mean, 1e-9)


def load_entropy(load_E: jax.Array) -> jax.Array:
    """Return the entropy of the shares of load over its maximum, log E.

    It is 1 if the load is balanced, and 0 if one expert computes everything.
    """
    share_E = load_E / jnp.maximum(load_E.sum(-1, keepdims=True), 1e-9)
    return jax.scipy.special.entr(share_E).sum(-1) / jnp.log(load_E.shape[-1])
