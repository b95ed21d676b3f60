# %% [markdown]
# # 2 · Experts and balance
#
# **After this notebook you will be able to**
#
# * compute by hand which experts a token visits and how much each one counts, with the router of V2
#   (softmax) and the router of V3 (sigmoid, with groups and a bias);
# * measure whether experts are balanced (load, MaxVio), and watch a small model with no balancing,
#   with an auxiliary loss, and with V3's bias;
# * show what the bias does to the *choice* of experts, and that it does nothing to their *weights*.
#
# 30 minutes to read, half a minute to run on a laptop. You need: what a feed-forward layer of a
# transformer is, softmax and sigmoid. [Notebook 1](01_latent_attention.ipynb) is not needed.
#
# Papers: [DeepSeekMoE](https://arxiv.org/abs/2401.06066), V2 is
# [DeepSeek-V2](https://arxiv.org/abs/2405.04434), V3 is
# [DeepSeek-V3](https://arxiv.org/abs/2412.19437), and
# [2408.15664](https://arxiv.org/abs/2408.15664) is where the bias comes from. The letters behind a
# name are axes: `score_BTE` has **B** sequences, **T** tokens and **E** experts; **K** are the
# experts chosen for a token, **G** the groups.

# %%
import os
from dataclasses import replace

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from configs import v3
from seekjax.config import DataConfig, ModelConfig
from seekjax.data.sources import SOURCES
from seekjax.model.count import parameters
from seekjax.model.experts import MixtureOfExperts
from seekjax.model.module import rms_norm
from seekjax.model.routing import choose, gates, max_violation, route, sigmoid, softmax
from seekjax.notebook import BLUE, GREEN, ORANGE, RED, check, legend_beside, set_look, show_source
from sharding.place import unbox

set_look()
FULL = os.environ.get("SEEKJAX_NOTEBOOKS") == "full"  # longer training, over three seeds

# %% [markdown]
# ## The idea in words
#
# A hospital with 256 specialists is a very able hospital, and a patient still sees only a few of
# them. At the door a **router** looks at the patient and names the specialists; a general doctor
# (the **shared expert**) sees everyone. A mixture of experts does this for each token: it has the
# parameters of all experts and pays for the few that the token visits.
#
# In V3 a token visits 8 of 256 routed experts in each layer. It has 671 billion parameters; one
# token uses 37 billion.

# %%
count = parameters(v3.config.model)
active = count.active_without_embedding  # of the embedding a token reads one row
print(f"V3 has {count.total / 1e9:.0f} billion parameters; a token uses {active / 1e9:.1f} billion")
assert round(count.total / 1e9) == 671  # V3 abstract
assert round(active / 1e9) == 37  # V3 abstract

# %% [markdown]
# **The trouble.** Experts live on different devices, and all wait for the slowest. Say 16 tokens go
# to 4 experts with a load of 10, 4, 2 and 0 tokens. Balanced, each would have 4, and the layer would
# take the time of 4 tokens. It takes the time of 10. And the last expert learns nothing.
#
# The measure for it is **MaxVio** (2408.15664): by how much the largest load exceeds the mean.
#
# $$\mathrm{MaxVio} = \frac{\max_i \mathrm{load}_i - \overline{\mathrm{load}}}{\overline{\mathrm{load}}}$$

# %%
show_source(max_violation)
load_E = jnp.array([10.0, 4.0, 2.0, 0.0])
print("MaxVio:", max_violation(load_E))
assert max_violation(load_E) == (10 - 4) / 4
assert max_violation(jnp.full(4, 4.0)) == 0  # balanced

# %% [markdown]
# ## Two routers
#
# Each expert has a vector $e_i$, and $u_t^\top e_i$ says how well it suits the token's state $u_t$.
# V2 and V3 turn these numbers into scores in two ways:
#
# $$s_{i,t} = \mathrm{Softmax}_i(u_t^\top e_i) \;\text{(V2 equation 22)} \qquad\qquad
# s_{i,t} = \mathrm{Sigmoid}(u_t^\top e_i) \;\text{(V3 equation 15)}$$
#
# With softmax, experts share out one whole: if one gains, all others lose. With sigmoid, each
# expert is judged by itself. See what happens when one expert suits the token better than before:

# %%
show_source(softmax, sigmoid)

# %%
before_BTE = jnp.array([[[1.0, 0.5, 1.5, 0.0, -1.0, 0.2, -0.5, -2.0]]])
after_BTE = before_BTE.at[..., 0].add(2.0)  # expert 0 gains

figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), sharex=True)
for axis, router in zip(axes, (softmax, sigmoid)):
    axis.bar(np.arange(8) - 0.2, router(before_BTE)[0, 0], 0.38, color=BLUE, label="before")
    axis.bar(np.arange(8) + 0.2, router(after_BTE)[0, 0], 0.38, color=RED, label="expert 0 gains")
    axis.set(title=router.__name__, xlabel="expert", ylabel="score", ylim=(0, 1))
legend_beside(axes[1])
plt.show()

others = slice(1, None)
assert (softmax(after_BTE)[..., others] < softmax(before_BTE)[..., others]).all()
assert (sigmoid(after_BTE)[..., others] == sigmoid(before_BTE)[..., others]).all()

# %% [markdown]
# ## From scores to weights
#
# The token visits the `K` experts with the highest scores. How much each counts is its **gate**:
#
# $$h_t' = u_t + \sum_{\text{shared}} \mathrm{FFN}^{(s)}_i(u_t)
# + \sum_{\text{chosen}} g_{i,t}\, \mathrm{FFN}^{(r)}_i(u_t)
# \quad\text{(V2 equation 20, V3 equation 12)}$$
#
# V2 takes the scores as they are, times 16. V3 makes the gates of a token sum to 1 and multiplies
# by 2.5 (equation 13): $g_{i,t} = 2.5\; s_{i,t} / \sum_{\text{chosen}} s_{j,t}$.

# %%
show_source(gates)

# %%
as_v3 = ModelConfig(experts=8, experts_per_token=2, expert_groups=1, groups_per_token=1)
as_v2 = replace(as_v3, scoring="softmax", group_score="max", renormalise=False, route_scale=16.0)
no_bias_E = jnp.zeros(8)

for name, model, score_BTE in (
    ("V2", as_v2, softmax(before_BTE)),
    ("V3", as_v3, sigmoid(before_BTE)),
):
    choice_BTK, gate_BTK = route(score_BTE, no_bias_E, model)
    print(f"{name}: experts {choice_BTK[0, 0]}, gates {gate_BTK[0, 0]}")
    score_E = np.asarray(score_BTE[0, 0])  # the same in NumPy
    best_K = np.argsort(-score_E)[:2]
    share = 1 if name == "V2" else score_E[best_K].sum()
    np.testing.assert_array_equal(choice_BTK[0, 0], best_K)
    np.testing.assert_allclose(
        gate_BTK[0, 0], score_E[best_K] / share * model.route_scale, rtol=1e-6
    )

# %% [markdown]
# ## Groups: not everywhere at once
#
# V3 spreads the 256 experts of a layer over 8 nodes (computers with 8 GPUs each). Sending a token to
# another node is slow, so a token may visit at most 4 nodes. The experts of a node are a **group**:
# first choose groups, then experts within them.
#
# How good is a group? V2 says: as good as its **best** expert. V3 says: as good as its **two best**
# together ("the sum of the highest $K_r/M$ affinity scores", section 2.1.2, with 8/4 = 2). The
# function knows both:

# %%
show_source(choose)

# %% [markdown]
# In numbers: 8 experts in 4 groups of two. A token may visit 2 groups and 3 experts.

# %%
score_BTE = jnp.array([[[0.90, 0.00, 0.60, 0.55, 0.50, 0.45, 0.20, 0.10]]])
grouped = replace(as_v3, expert_groups=4, groups_per_token=2, experts_per_token=3)
chosen = {
    "V2: best of a group": choose(score_BTE, no_bias_E, replace(grouped, group_score="max")),
    "V3: two best of a group": choose(score_BTE, no_bias_E, grouped),
}

figure, axes = plt.subplots(2, 1, figsize=(8, 2.6))
for axis, (name, choice_BTK) in zip(axes, chosen.items()):
    height = np.asarray(score_BTE[0])
    axis.imshow(height, cmap="Blues", vmin=0, vmax=1.5, aspect="auto")
    for expert in range(8):
        text = f"{height[0, expert]:.2f}"
        axis.text(expert, 0, text, ha="center", va="center")
    for expert in np.asarray(choice_BTK[0, 0]):
        box = plt.Rectangle((expert - 0.47, -0.46), 0.94, 0.92, fill=False, color=RED, linewidth=3)
        axis.add_patch(box)
    for edge in (1.5, 3.5, 5.5):
        axis.axvline(edge, color="black")
    axis.set(yticks=[], xticks=[0.5, 2.5, 4.5, 6.5], xticklabels=[f"group {g}" for g in range(4)])
    axis.set_title(name, fontsize=10, loc="left")
    axis.grid(False)
plt.show()

# %% [markdown]
# V2 takes groups 0 and 1 (best experts 0.90 and 0.60). V3 takes groups 1 and 2, whose two best sum to
# 1.15 and 0.95; group 0 has 0.90 only. So V3 does not visit the best expert of all, because a visit
# to its node would be for one expert alone.

# %%
assert sorted(chosen["V2: best of a group"][0, 0].tolist()) == [0, 2, 3]
assert sorted(chosen["V3: two best of a group"][0, 0].tolist()) == [2, 3, 4]

# %% [markdown]
# At V3's size, with random scores: how many nodes does a token visit with and without the limit?

# %%
random_BTE = sigmoid(jax.random.normal(jax.random.key(0), (1, 2000, 256)))
v3_model = v3.config.model
limits = {"no limit": replace(v3_model, groups_per_token=8), "limit of 4, as in V3": v3_model}

figure, axis = plt.subplots(figsize=(8, 2.8))
for shift, (name, model) in zip((-0.2, 0.2), limits.items()):
    node_BTK = choose(random_BTE, jnp.zeros(256), model) // 32  # 32 experts a node
    visited_T = np.array([len(set(node_K)) for node_K in node_BTK[0].tolist()])
    share = np.bincount(visited_T, minlength=9) / len(visited_T)
    axis.bar(
        np.arange(9) + shift, 100 * share, 0.38, label=f"{name}:\n{visited_T.mean():.1f} on average"
    )
    assert visited_T.max() <= model.groups_per_token
axis.set(xlabel="nodes that a token visits", ylabel="% of tokens", xlim=(0.5, 8.5))
legend_beside(axis)
plt.show()

# %% [markdown]
# ## Three ways to balance
#
# **None.** An expert that is chosen more often learns more, gets better, and is chosen more often.
#
# **Auxiliary loss** (V2 and before; V3 equations 17 to 20 as a small safeguard). For each sequence
# count how often expert $i$ is chosen, $f_i$ (1 if balanced), and take its mean score share, $P_i$:
#
# $$\mathcal{L}_{\mathrm{Bal}} = \alpha \sum_i f_i P_i, \qquad
# f_i = \frac{E}{K T} \sum_t \mathbf{1}[i \text{ chosen by } t], \qquad
# P_i = \frac1T \sum_t \frac{s_{i,t}}{\sum_j s_{j,t}}$$
#
# It is 1 (times $\alpha$) if balanced and larger if the popular experts have high scores. Its
# gradient pushes the scores of popular experts down, and with them **what the model wanted to say
# with those scores**. Two goals pull at the same weights.
#
# **Bias** (2408.15664; V3 equation 16). Choose experts by $s_{i,t} + b_i$, and after each step move
# each bias a little, up if the expert had less than the mean load, down if it had more:
#
# $$b_i \leftarrow b_i + \gamma\, \mathrm{sign}(\overline{\mathrm{load}} - \mathrm{load}_i)$$
#
# No gradient, no second goal.

# %%
from seekjax.model.routing import count_choices, sequence_balance, update_bias

show_source(sequence_balance, update_bias)

# %%
score_BTE = sigmoid(jax.random.normal(jax.random.key(1), (1, 64, 8)))
choice_BTK = choose(score_BTE, no_bias_E, as_v3)

share_TE = np.asarray(score_BTE[0] / score_BTE[0].sum(-1, keepdims=True))
f_E = np.bincount(np.asarray(choice_BTK).ravel(), minlength=8) * 8 / (2 * 64)
P_E = share_TE.mean(0)
np.testing.assert_allclose(sequence_balance(score_BTE, choice_BTK)[0], (f_E * P_E).sum(), rtol=1e-5)

even_BTK = jnp.arange(128).reshape(1, 64, 2) % 8  # each expert equally often
np.testing.assert_allclose(sequence_balance(score_BTE, even_BTK)[0], 1, rtol=1e-5)
favoured_BTE = score_BTE.at[..., 0].set(0.99)  # every token likes expert 0
favoured_BTK = choose(favoured_BTE, no_bias_E, as_v3)
print("balanced: 1.000; a favourite:", sequence_balance(favoured_BTE, favoured_BTK)[0])
assert sequence_balance(favoured_BTE, favoured_BTK)[0] > 1.2

# %% [markdown]
# ## A small model, balanced three ways
#
# The model guesses the next byte of two kinds of text from the last four bytes: stories, and sums
# with their solutions. It is an embedding, one layer of seekjax's own `MixtureOfExperts` (16 routed
# experts, 2 for each token, and a shared one), and a head. This is all of it:

# %%
T, WINDOW, BATCH = 64, 4, 16
model = ModelConfig(
    vocab=128, embed=64, expert_hidden=32, experts=16, experts_per_token=2,
    expert_groups=1, groups_per_token=1,
)  # fmt: skip
experts = MixtureOfExperts(model)
mask_BT = jnp.ones((BATCH, T), bool)
ones_D = jnp.ones(model.embed)


def loss_and_load(params, bias_E, byte_BX, alpha):
    embedded = [params["embedding"][j][byte_BX[:, j : j + T]] for j in range(WINDOW)]
    x_BTD = sum(embedded)
    variables = {"params": params["experts"], "balance": {"bias": bias_E}}
    y_BTD, report = experts.apply(variables, rms_norm(x_BTD, ones_D, 1e-6), mask_BT)
    logit_BTV = rms_norm(x_BTD + y_BTD, ones_D, 1e-6) @ params["head"]

    nll_BT = optax.softmax_cross_entropy_with_integer_labels(logit_BTV, byte_BX[:, WINDOW:])
    load_BE = count_choices(report["choice_BTK"], mask_BT, model.experts)
    loss = nll_BT.mean() + alpha * report["balance_loss"] / BATCH
    return loss, (nll_BT.mean(), load_BE)


# %% [markdown]
# One step: the gradient and Adam for the weights; the load for the bias. `alpha` turns the auxiliary
# loss on, `gamma` the bias.

# %%
optimizer = optax.adam(3e-3)


@jax.jit
def step(params, bias_E, moments, byte_BX, alpha, gamma):
    gradient = jax.grad(loss_and_load, has_aux=True)
    grads, (nll, load_BE) = gradient(params, bias_E, byte_BX, alpha)
    updates, moments = optimizer.update(grads, moments)
    params = optax.apply_updates(params, updates)
    bias_E = update_bias(bias_E, load_BE.sum(0), gamma)
    load_2E = load_BE.reshape(2, BATCH // 2, -1).sum(1)  # of the stories, of the sums
    return params, bias_E, moments, nll, load_2E


def text_of(source, documents):
    text = SOURCES[source](DataConfig(sources=(source,))).train
    together = "".join([text[i] for i in range(documents)])
    return np.frombuffer(together.encode(), np.uint8).astype(np.int32)


texts = [text_of("stories", 800), text_of("arithmetic", 4000)]
for text in texts:
    print(repr(bytes(text[:56].astype(np.uint8)).decode()))

# %%


def first_weights(random):
    x_BTD = jax.ShapeDtypeStruct((BATCH, T, model.embed), jnp.float32)
    shapes = unbox(jax.eval_shape(experts.init, jax.random.key(0), x_BTD, mask_BT))["params"]
    shapes = {"experts": shapes} | {
        "embedding": jax.ShapeDtypeStruct((WINDOW, model.vocab, model.embed), jnp.float32),
        "head": jax.ShapeDtypeStruct((model.embed, model.vocab), jnp.float32),
    }
    return jax.tree.map(lambda x: random.normal(0, 0.1, x.shape).astype(np.float32), shapes)


def draw_batch(random):
    rows = []
    for text in texts:
        start = random.integers(0, len(text) - T - WINDOW, (BATCH // 2, 1))
        rows.append(text[start + np.arange(T + WINDOW)])
    return np.concatenate(rows)


# %%


def train(alpha, gamma, steps, seed=0):
    random = np.random.default_rng(seed)
    params, bias_E, losses, loads = first_weights(random), jnp.zeros(model.experts), [], []
    moments = optimizer.init(params)
    for _ in range(steps):
        batch = draw_batch(random)
        params, bias_E, moments, nll, load_2E = step(params, bias_E, moments, batch, alpha, gamma)
        losses.append(nll)
        loads.append(load_2E)
    return {"bias_E": bias_E, "loss": np.array(losses), "load_S2E": np.array(loads)}


# %%
STEPS, SEEDS = (800, 3) if FULL else (100, 1)
WAYS = {
    "none": (0.0, 0.0),
    "auxiliary loss": (0.1, 0.0),
    "bias": (0.0, 0.003),
}
runs = {}
for name, (alpha, gamma) in WAYS.items():
    runs[name] = [train(alpha, gamma, STEPS, seed) for seed in range(SEEDS)]

# %% [markdown]
# **The load of each expert over time**, of ten steps together, as a multiple of the mean: white is
# the mean, blue is less, red is more. (A single small batch is never quite even: experts are chosen
# by the text that happens to be in it.)

# %%
tens = {}  # the load of ten steps together
for name, seeds in runs.items():
    load_SE = seeds[0]["load_S2E"].sum(1)
    tens[name] = load_SE.reshape(-1, 10, model.experts).sum(1)

figure, axes = plt.subplots(3, 1, figsize=(8, 6.5), sharex=True)
for axis, (name, load_SE) in zip(axes, tens.items()):
    image = axis.imshow(
        load_SE.T / load_SE.mean(), aspect="auto", cmap="RdBu_r", vmin=0, vmax=2,
        extent=(0, STEPS, -0.5, 15.5), origin="lower", interpolation="nearest",
    )  # fmt: skip
    axis.set(ylabel="expert")
    axis.set_title(name, loc="left", fontsize=10)
    axis.grid(False)
axes[-1].set(xlabel="step")
figure.colorbar(image, ax=axes, label="load / mean load", shrink=0.6)
plt.show()

# %% [markdown]
# **MaxVio over time**, of the same ten steps:

# %%
figure, axis = plt.subplots(figsize=(8, 3.6))
for (name, load_SE), colour in zip(tens.items(), (BLUE, ORANGE, GREEN)):
    step_S = np.arange(len(load_SE)) * 10 + 5
    axis.plot(step_S, max_violation(load_SE), color=colour, label=name)
axis.set(xlabel="step", ylabel="MaxVio", ylim=(0, None))
legend_beside(axis)
plt.show()

# %%


def late(name, of):
    """The mean of a figure over seeds, from the load of the last 50 steps [2, E]."""
    return float(np.mean([of(run["load_S2E"][-50:].sum(0)) for run in runs[name]]))


violation = {name: late(name, lambda load_2E: max_violation(load_2E.sum(0))) for name in runs}
for name, value in violation.items():
    loss = [run["loss"][-50:].mean() for run in runs[name]]
    print(f"{name:15} MaxVio {value:.2f}, loss {np.mean(loss):.4f} (seeds: {np.round(loss, 4)})")
assert violation["bias"] < 0.2  # 2408.15664 table 2: 0.72 with an auxiliary loss, 0.04 with bias
assert violation["none"] > 3 * violation["bias"]
assert violation["none"] > 3 * violation["auxiliary loss"]

# %% [markdown]
# Without balancing, the busiest expert has about twice the mean, for good, and others next to
# nothing. Both ways of balancing work. The losses differ by less than a percent: this model is too
# small to show what balancing costs. At 1 and 3 billion parameters 2408.15664 (table 2) measures a
# better perplexity with the bias: 9.50 against 9.56, and 7.92 against 7.97.
#
# There is a difference that you *can* see here. The auxiliary loss asks for balance within **each
# sequence**; the bias asks for it over the **whole batch**. So with the bias an expert may take
# stories or sums for its subject:

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True)
for axis, name in zip(axes, ("auxiliary loss", "bias")):
    load_2E = runs[name][0]["load_S2E"][-50:].sum(0)
    share_2E = load_2E / load_2E.sum() * model.experts  # together 1 if balanced
    order = np.argsort(share_2E[0] - share_2E[1])
    axis.bar(range(16), share_2E[0][order], color=BLUE, label="from stories")
    axis.bar(range(16), share_2E[1][order], bottom=share_2E[0][order], color=RED, label="from sums")
    axis.set(title=name, xlabel="experts, sorted by subject", xticks=[])
axes[0].set(ylabel="load / mean load")
legend_beside(axes[1])
plt.show()


def subject(load_2E):
    """0 if each expert has as much of each text as it should; 1 if each has one text alone."""
    return np.abs(load_2E[0] - load_2E[1]).sum() / load_2E.sum()


specialised = {name: late(name, subject) for name in runs}
print({name: round(value, 2) for name, value in specialised.items()})
assert specialised["bias"] > 1.5 * specialised["auxiliary loss"]

# %% [markdown]
# V3 finds the same in its section 4.5.3 (figure 9): experts specialise more in domains with the
# bias than with the auxiliary loss. It keeps an auxiliary loss with a tiny $\alpha = 0.0001$, to
# prevent an extreme imbalance within one sequence.

# %% [markdown]
# ## The bias decides who, never how much
#
# In V3 equation 16 the bias stands in the choice alone:
#
# $$g'_{i,t} = \begin{cases} s_{i,t} & s_{i,t} + b_i \in \mathrm{Topk}(\{s_{j,t} + b_j\}, K) \\
# 0 & \text{otherwise} \end{cases}$$
#
# One token, with a bias that lifts expert 3 and lowers expert 2:

# %%
score_BTE = sigmoid(before_BTE)
bias_E = jnp.array([0.0, 0.0, -0.2, 0.25, 0.0, 0.0, 0.0, 0.0])
figure, axis = plt.subplots(figsize=(8, 3))
axis.bar(np.arange(8) - 0.2, score_BTE[0, 0], 0.38, color=BLUE, label="score: makes the gate")
axis.bar(
    np.arange(8) + 0.2, score_BTE[0, 0] + bias_E, 0.38, color=ORANGE, label="score + bias: chooses"
)
for name, b_E, height in (("without bias", no_bias_E, 0.93), ("with bias", bias_E, 1.02)):
    choice_BTK, gate_BTK = route(score_BTE, b_E, as_v3)
    print(f"{name}: experts {choice_BTK[0, 0]}, gates {gate_BTK[0, 0]}")
    axis.plot(choice_BTK[0, 0], [height] * 2, "v" if b_E is no_bias_E else "^", color="black",
              markersize=9, linestyle="", label=f"chosen {name}")  # fmt: skip
axis.set(xlabel="expert", ylabel="score", ylim=(0, 1.1))
legend_beside(axis)
plt.show()

# %% [markdown]
# The gates of the experts that were chosen with the bias are made from their scores without it. So
# **what the bias does to the gates of given experts is: nothing.** Three ways to say that, each
# asserted on 512 tokens, with the bias at which the training above ended:

# %%
bias_E = runs["bias"][0]["bias_E"]
score_BTE = sigmoid(jax.random.normal(jax.random.key(2), (1, 512, 16)))
choice_BTK, gate_BTK = route(score_BTE, bias_E, model)
plain_BTK = choose(score_BTE, jnp.zeros(16), model)
changed = float((jnp.sort(choice_BTK) != jnp.sort(plain_BTK)).any(-1).mean())
print(
    f"biases from {bias_E.min():.2f} to {bias_E.max():.2f}; other experts for {changed:.0%} of tokens"
)
assert changed > 0.05

# 1. NumPy makes the gates from scores and choice; the bias is not even an argument
chosen_BTK = np.take_along_axis(np.asarray(score_BTE), np.asarray(choice_BTK), -1)
by_hand = 2.5 * chosen_BTK / chosen_BTK.sum(-1, keepdims=True)
np.testing.assert_allclose(gate_BTK, by_hand, rtol=1e-5)
# 2. They sum to 2.5, whatever the bias is
np.testing.assert_allclose(gate_BTK.sum(-1), 2.5, rtol=1e-5)
# 3. No gradient reaches the bias
gradient_E = jax.grad(lambda b_E: (route(score_BTE, b_E, model)[1] ** 2).sum())(bias_E)
assert (gradient_E == 0).all()
# And it is only differences between biases that count
np.testing.assert_array_equal(choose(score_BTE, bias_E + 0.5, model), choice_BTK)

# %% [markdown]
# ## How fast should the bias move?
#
# Too slow, and experts stay unbalanced for long; too fast, and the load swings from one side to the
# other. 2408.15664 (figure 4) finds $\gamma = 0.001$ good for long training; 0.0001 is slow at the
# start, 0.01 swings at the end. Our training is a thousand times shorter. Here without any model:
# random scores, with some experts liked more than others.

# %%
liking_E = jnp.linspace(-1.0, 1.0, model.experts)


@jax.jit
def simulate(gamma):
    def one_step(bias_E, key):
        score_BTE = sigmoid(liking_E + jax.random.normal(key, (1, 512, model.experts)))
        choice_BTK = choose(score_BTE, bias_E, model)
        load_BE = count_choices(choice_BTK, jnp.ones((1, 512), bool), model.experts)
        return update_bias(bias_E, load_BE[0], gamma), load_BE[0]

    keys = jax.random.split(jax.random.key(3), 400)
    return jax.lax.scan(one_step, jnp.zeros(model.experts), keys)[1]


# %%
ended = {}
figure, axis = plt.subplots(figsize=(8, 3.6))
for gamma in (0.0, 0.0003, 0.005, 0.05):
    load_SE = simulate(gamma)
    ended[gamma] = float(max_violation(load_SE[-100:]).mean())
    axis.plot(max_violation(load_SE), linewidth=1.2, label=f"gamma {gamma}")
axis.set(xlabel="step", ylabel="MaxVio of a batch", ylim=(0, None))
legend_beside(axis)
plt.show()
print({gamma: round(value, 2) for gamma, value in ended.items()})
assert ended[0.005] < ended[0.0003] < ended[0.0]  # still on the way at 0.0003
assert ended[0.005] < ended[0.05]  # swings

# %% [markdown]
# ## Exercises
#
# Write your answer into the first cell of each exercise in place of `None`; the second cell checks
# it.
#
# **1.** A layer has 64 experts; each token visits 6. In a batch of 4,096 tokens the busiest expert
# gets 960 of them. What is MaxVio?

# %%
answer_1 = None

# %%
check(answer_1, 1.5, "The mean load is 4096 x 6 / 64 = 384.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# The layer takes 2.5 times as long as it needs to.
#
# ```python
# mean = 4096 * 6 / 64
# answer_1 = (960 - mean) / mean
# ```
#
# </details>

# %% [markdown]
# **2.** A token has the scores 0.9, 0.8, 0.5 and 0.3, and the biases are -0.3, 0, 0.2 and 0. Two
# experts are chosen as in V3, without groups, with a scale of 2.5. What are the gates of all four
# experts? A list of four numbers, 0 for those that are not chosen.

# %%
answer_2 = None

# %%
check(answer_2, [0.0, 2.5 * 0.8 / 1.3, 2.5 * 0.5 / 1.3, 0.0], "Choose by 0.6, 0.8, 0.7 and 0.3.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# Score plus bias is 0.6, 0.8, 0.7, 0.3: the second and the third are chosen. Their gates come from
# 0.8 and 0.5.
#
# ```python
# small = ModelConfig(experts=4, experts_per_token=2, expert_groups=1, groups_per_token=1)
# scores = jnp.array([[[0.9, 0.8, 0.5, 0.3]]])
# choice_BTK, gate_BTK = route(scores, jnp.array([-0.3, 0.0, 0.2, 0.0]), small)
# answer_2 = np.zeros(4)
# answer_2[np.asarray(choice_BTK[0, 0])] = gate_BTK[0, 0]
# ```
#
# </details>

# %% [markdown]
# **3.** 2408.15664 also tries a bias that moves by *how much* the load is wrong, not only by the
# direction: $b_i + \gamma\,(\overline{\mathrm{load}} - \mathrm{load}_i) / \overline{\mathrm{load}}$.
# Write it as a function `(bias_E, load_E, gamma)`.

# %%
answer_3 = None  # def answer_3(bias_E, load_E, gamma): ...

# %%


def moves_by_the_error(function):
    moved_E = function(jnp.zeros(3), jnp.array([30.0, 10.0, 20.0]), 0.1)
    return np.allclose(moved_E, [-0.05, 0.05, 0.0], atol=1e-6)


check(answer_3, moves_by_the_error, "The mean is load_E.mean(); there is no sign.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_3(bias_E, load_E, gamma):
#     mean = load_E.mean()
#     return bias_E + gamma * (mean - load_E) / mean
# ```
#
# The paper finds it no better than the sign (perplexities of 9.51 to 9.53 against 9.50). You can
# try it in `step` above in place of `update_bias`.
#
# </details>

# %% [markdown]
# ## What to read next
#
# * V3 section 2.1.2 (routing and balance, one page) and sections 4.5.2 and 4.5.3 (what the bias
#   changes); 2408.15664 for the experiments; DeepSeekMoE for why experts are small and some shared.
# * `seekjax/model/routing.py`: all functions of this notebook. `seekjax/model/experts.py`: the
#   layer. `sharding/exchange/`: how tokens travel to experts on other devices, the subject of
#   [notebook 4](04_sharding.ipynb).
# * The next notebook: [3 · Multi-token prediction](03_multi_token_prediction.ipynb).
