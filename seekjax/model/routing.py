"""Which experts compute which token: the V2 and V3 routers, the balance bias, and measures of the
balance.

A router score of one's own needs no change here: `--model.scoring my_module:my_score` names a
function from float32 logits [B, T, E] to positive scores of the same shape.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from seekjax.config import ModelConfig
from seekjax.registry import Registry
from sharding.rules import local

Score = Callable[[Array], Array]


def softmax(logit_BTE: Array) -> Array:
    """Score experts against each other (V2 equation 22)."""
    return jax.nn.softmax(logit_BTE, -1)


def sigmoid(logit_BTE: Array) -> Array:
    """Score every expert by itself (V3 equation 15)."""
    return jax.nn.sigmoid(logit_BTE)


SCORES: Registry[Score] = Registry(
    "router score",
    {"softmax": softmax, "sigmoid": sigmoid},
)


def affinity(logit_BTE: Array, model: ModelConfig) -> Array:
    """Return how well each expert suits each token, by the model's router score."""
    return SCORES.find(model.scoring)(logit_BTE)


def choose(score_BTE: Array, bias_E: Array, model: ModelConfig) -> Array:
    """Choose the K experts of each token (V3 equation 16, V2 section 2.2.2).

    The bias decides which experts are chosen and never how much they count. A token chooses among
    the experts of its best groups, a group's score being the sum of its two best experts (V3) or
    its best one (V2). Of equal scores the lower index wins.
    """
    biased_BTE = jax.lax.stop_gradient(score_BTE + bias_E)
    allowed_BTE = within_groups(biased_BTE, model)
    _, choice_BTK = top_k(allowed_BTE, model.experts_per_token)
    return choice_BTK


def within_groups(biased_BTE: Array, model: ModelConfig) -> Array:
    """Return the biased scores, -inf for experts outside the token's best groups."""
    G, limit = model.expert_groups, model.groups_per_token
    if limit == G:
        return biased_BTE

    biased_BTGe = by_group(biased_BTE, G)
    _, best_BTg = top_k(group_scores(biased_BTGe, model), limit)
    open_BTgG = best_BTg[..., None] == jnp.arange(G)
    open_BTG = open_BTgG.any(-2)
    allowed_BTGe = jnp.where(open_BTG[..., None], biased_BTGe, -jnp.inf)
    return allowed_BTGe.reshape(biased_BTE.shape)


def group_scores(biased_BTGe: Array, model: ModelConfig) -> Array:
    """Return how well each group suits each token, [B, T, G]: by its two best experts (V3) or its
    best one (V2).
    """
    if model.group_score == "max":
        return biased_BTGe.max(-1)
    best_BTG2, _ = top_k(biased_BTGe, 2)
    return best_BTG2.sum(-1)


def top_k(x_BTX: Array, k: int) -> tuple[Array, Array]:
    """Return the k largest of the last axis, and where they are; of equal ones the first.

    Each device sorts its own tokens: XLA gathers those of all devices for a `jax.lax.top_k` that
    is left to it.
    """

    def body(x_btX: Array) -> tuple[Array, Array]:
        value_btK, index_btK = jax.lax.top_k(x_btX, k)
        return value_btK, index_btK

    token = "batch sequence" + " -" * (x_BTX.ndim - 2)
    return local(body, (token,), (token, token))(x_BTX)


def by_group(x_BTE: Array, groups: int) -> Array:
    """Return the values of experts by the group they are in, with an axis more."""
    return x_BTE.reshape(*x_BTE.shape[:-1], groups, -1)


def gates(score_BTE: Array, choice_BTK: Array, model: ModelConfig) -> Array:
    """Return how much each chosen expert counts, [B, T, K] (V3 equations 12-13)."""
    # A masked sum: its gradient needs no scatter
    chosen_BTKE = choice_BTK[..., None] == jnp.arange(model.experts)
    gate_BTK = jnp.where(chosen_BTKE, score_BTE[..., None, :], 0).sum(-1)

    if model.renormalise:
        gate_BTK = gate_BTK / (gate_BTK.sum(-1, keepdims=True) + 1e-20)
    return gate_BTK * model.route_scale


def route(
    score_BTE: Array,
    bias_E: Array,
    model: ModelConfig,
) -> tuple[Array, Array]:
    """Return the K experts of each token, and their gates."""
    choice_BTK = choose(score_BTE, bias_E, model)
    return choice_BTK, gates(score_BTE, choice_BTK, model)


def count_choices(choice_BTK: Array, mask_BT: Array, experts: int) -> Array:
    """Count the unmasked tokens of each sequence that chose each expert, [B, E] in float32."""
    chosen_BTKE = choice_BTK[..., None] == jnp.arange(experts)
    chosen_BTE = chosen_BTKE.sum(-2).astype(jnp.float32)
    mask_BT = mask_BT.astype(jnp.float32)
    return jnp.einsum("BTE,BT->BE", chosen_BTE, mask_BT)


def sequence_balance(
    score_BTE: Array,
    choice_BTK: Array,
    mask_BT: Array | None = None,
) -> Array:
    """Return sum_i f_i P_i of each sequence, [B] (V3 equations 17-20 without alpha); 1 if balanced.

    f_i = E / (K T) * how often expert i is in choice_BTK; P_i = mean over tokens of the normalised
    score. Which choice is counted is `balance_loss`'s to say.
    """
    if mask_BT is None:
        mask_BT = jnp.ones(score_BTE.shape[:2], bool)
    f_BE, P_BE = _frequency_and_score(score_BTE, choice_BTK, mask_BT)
    return (f_BE * P_BE).sum(-1)


def _frequency_and_score(
    score_BTE: Array,
    choice_BTK: Array,
    mask_BT: Array,
) -> tuple[Array, Array]:
    """The f_i and P_i of `sequence_balance`, [B, E]."""
    E, K = score_BTE.shape[-1], choice_BTK.shape[-1]
    tokens_B = jnp.maximum(mask_BT.sum(-1), 1).astype(jnp.float32)

    share_BTE = score_BTE / score_BTE.sum(-1, keepdims=True)
    sum_BE = jnp.einsum("BTE,BT->BE", share_BTE, mask_BT.astype(jnp.float32))
    P_BE = sum_BE / tokens_B[:, None]

    count_BE = count_choices(choice_BTK, mask_BT, E)
    f_BE = count_BE * E / (K * tokens_B[:, None])
    return f_BE, P_BE


def group_balance(
    score_BTE: Array,
    choice_BTK: Array,
    mask_BT: Array,
    groups: int,
) -> Array:
    """Return sum_i f'_i P'_i over the groups of each sequence, [B] (V2 equations 26-28).

    f'_i is the mean over the group's experts of the f_j of `sequence_balance`, P'_i the sum of P_j.
    """
    f_BE, P_BE = _frequency_and_score(score_BTE, choice_BTK, mask_BT)
    f_BG = by_group(f_BE, groups).mean(-1)
    P_BG = by_group(P_BE, groups).sum(-1)
    return (f_BG * P_BG).sum(-1)


def send_balance(
    score_BTE: Array,
    choice_BTK: Array,
    mask_BT: Array,
    groups: int,
    limit: int,
) -> Array:
    """Return sum_i f''_i P''_i over the groups of each sequence, [B] (V2 equations 29-31).

    f''_i = G / (M T) * how many tokens visit group i, of at most M = `limit` each; P''_i is the sum
    of the group's P_j.
    """
    _, P_BE = _frequency_and_score(score_BTE, choice_BTK, mask_BT)
    P_BG = by_group(P_BE, groups).sum(-1)

    size = score_BTE.shape[-1] // groups
    visits_BTKG = choice_BTK[..., None] // size == jnp.arange(groups)
    sent_BTG = visits_BTKG.any(-2).astype(jnp.float32)
    sent_BG = jnp.einsum("BTG,BT->BG", sent_BTG, mask_BT.astype(jnp.float32))
    tokens_B = jnp.maximum(mask_BT.sum(-1), 1).astype(jnp.float32)
    f_BG = sent_BG * groups / (limit * tokens_B[:, None])
    return (f_BG * P_BG).sum(-1)


def balance_loss(score_BTE: Array, choice_BTK: Array, mask_BT: Array, model: ModelConfig) -> Array:
    """Return the balance loss of each sequence by the model's settings, without alpha, [B].

    `choice_BTK` are the experts that tokens visit.
    """
    counted_BTK = choice_BTK
    if model.balance_choice == "bare":
        _, counted_BTK = top_k(score_BTE, model.experts_per_token)
    loss_B = sequence_balance(score_BTE, counted_BTK, mask_BT)

    groups = model.expert_groups
    if model.group_balance:
        of_groups_B = group_balance(score_BTE, counted_BTK, mask_BT, groups)
        loss_B += model.group_balance * of_groups_B
    if model.send_balance:
        limit = model.groups_per_token
        sent_B = send_balance(score_BTE, choice_BTK, mask_BT, groups, limit)
        loss_B += model.send_balance * sent_B
    return loss_B


def update_bias(
    bias_E: Array,
    load_E: Array,
    rate: Array | float,
) -> Array:
    """Return b + gamma sign(mean load - load): overloaded experts become less likely to be chosen
    (2408.15664, V3 section 2.1.2).
    """
    mean_E = load_E.mean(-1, keepdims=True)
    return bias_E + rate * jnp.sign(mean_E - load_E)


def device_load(load_E: Array, devices: int) -> Array:
    """Return the load of each device of those that split the experts: the sum over its experts.

    In a step all devices wait for the one with the most rows, whichever experts these are for.
    """
    return load_E.reshape(*load_E.shape[:-1], devices, -1).sum(-1)


def max_violation(load_E: Array) -> Array:
    """Return MaxVio = (largest load - mean load) / mean load; 0 if balanced (2408.15664).

    Of the loads of experts, or of devices.
    """
    mean = load_E.mean(-1)
    return (load_E.max(-1) - mean) / jnp.maximum(mean, 1e-9)


def load_entropy(load_E: Array) -> Array:
    """Return the entropy of the shares of load over its maximum, log E.

    It is 1 if the load is balanced, and 0 if one expert computes everything.
    """
    total_E = load_E.sum(-1, keepdims=True)
    share_E = load_E / jnp.maximum(total_E, 1e-9)
    entropy = jax.scipy.special.entr(share_E).sum(-1)
    return entropy / jnp.log(load_E.shape[-1])
