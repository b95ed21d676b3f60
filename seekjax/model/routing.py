"""Who computes which token: the V2 and V3 routers, the balance bias, and what is measured of the
balance."""

import jax
import jax.numpy as jnp

from seekjax.config import ModelConfig


def affinity(logit_BTE: jax.Array, model: ModelConfig) -> jax.Array:
    """How well each expert suits each token: softmax (V2 equation 22) or sigmoid (V3 equation 15)
    of float32 logits."""
    return (
        jax.nn.softmax(logit_BTE, -1) if model.scoring == "softmax" else jax.nn.sigmoid(logit_BTE)
    )


def choose(score_BTE: jax.Array, bias_E: jax.Array, model: ModelConfig) -> jax.Array:
    """The K experts of each token (V3 equation 16, V2 section 2.2.2).

    The bias decides who is chosen and never how much they count. A token chooses among the experts
    of its best groups, a group's score being the sum of its two best experts (V3) or its best one
    (V2); ties go to the lower index.
    """
    G, limit = model.expert_groups, model.groups_per_token
    biased_BTE = jax.lax.stop_gradient(score_BTE + bias_E)
    if limit < G:
        biased_BTGe = biased_BTE.reshape(*biased_BTE.shape[:-1], G, -1)
        group_BTG = (
            jax.lax.top_k(biased_BTGe, 2)[0].sum(-1)
            if model.group_score == "top2"
            else biased_BTGe.max(-1)
        )
        open_BTG = (jax.lax.top_k(group_BTG, limit)[1][..., None] == jnp.arange(G)).any(-2)
        biased_BTE = jnp.where(open_BTG[..., None], biased_BTGe, -jnp.inf).reshape(biased_BTE.shape)
    return jax.lax.top_k(biased_BTE, model.experts_per_token)[1]


def gates(score_BTE: jax.Array, choice_BTK: jax.Array, model: ModelConfig) -> jax.Array:
    """How much each chosen expert counts, [B, T, K] (V3 equations 12-13)."""
    chosen_BTKE = choice_BTK[..., None] == jnp.arange(
        model.experts
    )  # a masked sum: its gradient needs no scatter
    gate_BTK = jnp.where(chosen_BTKE, score_BTE[..., None, :], 0).sum(-1)
    if model.renormalise:
        gate_BTK = gate_BTK / (gate_BTK.sum(-1, keepdims=True) + 1e-20)
    return gate_BTK * model.route_scale


def route(
    score_BTE: jax.Array, bias_E: jax.Array, model: ModelConfig
) -> tuple[jax.Array, jax.Array]:
    """The K experts of each token, and their gates."""
    choice_BTK = choose(score_BTE, bias_E, model)
    return choice_BTK, gates(score_BTE, choice_BTK, model)


def count_choices(choice_BTK: jax.Array, mask_BT: jax.Array, experts: int) -> jax.Array:
    """How many unmasked tokens of each sequence chose each expert, [B, E] in float32."""
    chosen_BTE = (choice_BTK[..., None] == jnp.arange(experts)).sum(-2)
    return jnp.einsum("BTE,BT->BE", chosen_BTE.astype(jnp.float32), mask_BT.astype(jnp.float32))


def sequence_balance(
    score_BTE: jax.Array, choice_BTK: jax.Array, mask_BT: jax.Array | None = None
) -> jax.Array:
    """sum_i f_i P_i of each sequence, [B] (V3 equations 17-20 without alpha); 1 when balanced.

    f_i = E / (K T) * how often expert i is in choice_BTK; P_i = mean over tokens of the normalised
    score. By the letter of equation 18, the choice is the top K of the bare scores: neither bias
    nor groups are in it.
    """
    mask_BT = jnp.ones(score_BTE.shape[:2], bool) if mask_BT is None else mask_BT
    E, K = score_BTE.shape[-1], choice_BTK.shape[-1]
    tokens_B = jnp.maximum(mask_BT.sum(-1), 1).astype(jnp.float32)
    share_BTE = score_BTE / score_BTE.sum(-1, keepdims=True)
    P_BE = jnp.einsum("BTE,BT->BE", share_BTE, mask_BT.astype(jnp.float32)) / tokens_B[:, None]
    f_BE = count_choices(choice_BTK, mask_BT, E) * E / (K * tokens_B[:, None])
    return (f_BE * P_BE).sum(-1)


def update_bias(bias_E: jax.Array, load_E: jax.Array, rate: jax.Array | float) -> jax.Array:
    """B + gamma sign(mean load - load): overloaded experts become less likely to be chosen
    (2408.15664, V3 section 2.1.2)."""
    return bias_E + rate * jnp.sign(load_E.mean(-1, keepdims=True) - load_E)


def max_violation(load_E: jax.Array) -> jax.Array:
    """MaxVio = (largest load - mean load) / mean load; 0 when balanced (2408.15664)."""
    mean = load_E.mean(-1)
    return (load_E.max(-1) - mean) / jnp.maximum(mean, 1e-9)


def load_entropy(load_E: jax.Array) -> jax.Array:
    """Entropy of the shares of load over its maximum, log E: 1 when balanced, 0 when one expert
    does everything."""
    share_E = load_E / jnp.maximum(load_E.sum(-1, keepdims=True), 1e-9)
    return jax.scipy.special.entr(share_E).sum(-1) / jnp.log(load_E.shape[-1])
