# %% [markdown]
# # 1 · Latent attention
#
# **After this notebook you will be able to**
#
# * compute what a DeepSeek model keeps of each token, in bytes, and say why it is 57 times less
#   than ordinary attention would keep;
# * explain why position needs a key of its own (decoupled RoPE), and how YaRN stretches it from
#   4 thousand to 160 thousand positions;
# * show that the two forms of latent attention, *expanded* and *absorbed*, are one function, and
#   say for any number of new tokens which one is cheaper.
#
# 30 minutes to read, 20 seconds to run on a laptop. You need: queries, keys and values of a
# transformer, and matrix products in NumPy.
#
# Papers: V2 is [DeepSeek-V2](https://arxiv.org/abs/2405.04434), V3 is
# [DeepSeek-V3](https://arxiv.org/abs/2412.19437). The letters behind a name are the axes of an
# array: `k_THN` has **T** tokens, **H** heads and **N** numbers for each. The whole list is in
# `seekjax/model/__init__.py`.

# %%
from dataclasses import replace

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from configs import moe_16b, v2, v2_lite, v3
from seekjax.config import ModelConfig
from seekjax.model.abstract import named_variables
from seekjax.model.attention import ATTENTION, LatentAttention, attend_absorbed, attend_expanded
from seekjax.model.attention.kind import visible
from seekjax.model.cache import layer_cache
from seekjax.model.count import cache_bytes, cache_elements
from seekjax.model.rope import angles, mscale, rope_frequencies, rotate, softmax_scale
from seekjax.notebook import BLUE, GREEN, ORANGE, RED, check, legend_beside, set_look, show_source
from sharding.place import unbox

set_look()

# %% [markdown]
# ## The idea in words
#
# A language model writes one token at a time. To write the next one, each layer looks back at the
# keys and values of all tokens before it. Nobody wants to compute them again for every new token,
# so they are kept in memory: the **cache**. It grows with every token, and on a busy server it is
# the cache, not the weights, that fills the memory.
#
# Ordinary attention keeps a key and a value for each head. Think of 128 readers of one meeting,
# each with a transcript in a language of their own. Latent attention keeps one short **note** of
# the meeting, and for each reader a fixed **rule** that turns the note into that reader's
# transcript. The rules are weights: they are learned once and are the same for every token. So only
# the note has to be kept. That note is the **latent**.
#
# In numbers: two tokens, a note of 2 numbers for each, and a rule that makes 6 numbers from it.

# %%
note_TC = np.array([[1.0, 2.0], [3.0, -1.0]])  # kept for each token: 2 numbers
rule_CX = np.array([[1, 0, 2, 1, 0, 1], [0, 1, 1, -1, 2, 1]])  # a weight: the same for all tokens
transcript_TX = note_TC @ rule_CX  # made when it is needed: 6 numbers for each token
print(transcript_TX)

# %% [markdown]
# ## Step 1: how much each kind of attention keeps
#
# V2's table 1 counts the numbers kept for one token in one layer:
#
# | kind | kept | who shares what |
# |---|---|---|
# | MHA, multi-head | $2\,n_h d_h$ | each head has its own key and value |
# | GQA, grouped-query | $2\,n_g d_h$ | the heads of a group share one key and value |
# | MQA, multi-query | $2\,d_h$ | all heads share one key and value |
# | **MLA**, latent | $d_c + d_h^R \approx \tfrac{9}{2} d_h$ | all heads share one *note*; keys and values are their own |
#
# GQA and MQA save memory because heads give up keys of their own, and the model gets worse for it
# (V2, appendix D.1). MLA gives up none.

# %%
n_h, d_h, n_g = 128, 128, 8  # V3's heads and their width; LLaMA's usual number of groups
d_c, d_R = 512, 64  # V3's note, and a small key for position that step 3 explains
kept = {
    "MHA": 2 * n_h * d_h,
    "GQA, 8 groups": 2 * n_g * d_h,
    "MQA": 2 * d_h,
    "MLA": d_c + d_R,
}
assert kept["MLA"] == 9 / 2 * d_h  # V2 table 1
assert kept["MLA"] / kept["MQA"] == 2.25  # V2 section 2.1.4: "GQA with only 2.25 groups"

figure, axis = plt.subplots(figsize=(8, 2.4))
bars = axis.barh(list(kept), kept.values(), color=[BLUE, BLUE, BLUE, RED])
axis.bar_label(bars, [f" {number:,}" for number in kept.values()])
axis.set(xlim=(0, 38_000), xlabel="numbers kept for a token in one layer of V3's size")
axis.invert_yaxis()
plt.show()

# %% [markdown]
# ## Step 2: keys of all heads from one note
#
# $$c_t^{KV} = W^{DKV} h_t \qquad k_t^C = W^{UK} c_t^{KV} \qquad v_t^C = W^{UV} c_t^{KV}
# \qquad\text{(V2 equations 9, 10, 11)}$$
#
# $h_t$ is the token's state, $W^{DKV}$ goes **d**own to the note, $W^{UK}$ and $W^{UV}$ go **u**p
# to the keys and values of all heads.
#
# What does that change about the keys? Write the keys of all heads of a token in one row. With
# ordinary attention the rows are as varied as they like. With latent attention all rows come from
# `C` numbers by one matrix, so the table of keys has **rank** `C` at most. And a table of rank `C`
# is one that `C` numbers per row are enough to rebuild.

# %%
T, D, H, N, C = 96, 128, 8, 8, 16
random = np.random.default_rng(0)


def normal(*shape):
    return random.normal(size=shape).astype(np.float32) / shape[0] ** 0.5


h_TD = normal(T, D)
k_mha_THN = np.einsum("TD,DHN->THN", h_TD, normal(D, H, N))

w_dkv_DC, w_uk_CHN = normal(D, C), normal(C, H, N)
c_TC = h_TD @ w_dkv_DC  # equation 9
k_mla_THN = np.einsum("TC,CHN->THN", c_TC, w_uk_CHN)  # equation 10


def rank(k_THN):
    return int(np.linalg.matrix_rank(k_THN.reshape(T, H * N)))


print(f"rank of the keys: {rank(k_mha_THN)} with MHA, {rank(k_mla_THN)} from a note of {C} numbers")
assert rank(k_mha_THN) == H * N  # as many as there are
assert rank(k_mla_THN) == C

# %% [markdown]
# ## Step 3: why position needs a key of its own
#
# A transformer tells positions apart by **RoPE**: pairs of numbers in queries and keys are turned
# by an angle that grows with the position. What makes it useful: the product of a turned query and
# a turned key depends on their *distance* alone.

# %%
show_source(rotate)

# %%
q_1T1N, k_1T1N = normal(1, 1, 1, 8), normal(1, 1, 1, 8)
small = ModelConfig(rotary=8)


def product_at(query_position, key_position):
    turned_q = rotate(q_1T1N, *angles(small, jnp.array([[query_position]])))
    turned_k = rotate(k_1T1N, *angles(small, jnp.array([[key_position]])))
    return float((turned_q * turned_k).sum())


for pair in [(5, 2), (105, 102), (5, 4)]:
    print(f"query at {pair[0]:3}, key at {pair[1]:3}: {product_at(*pair):.5f}")
assert abs(product_at(5, 2) - product_at(105, 102)) < 1e-4  # the same distance, 3
assert abs(product_at(5, 2) - product_at(5, 4)) > 0.01  # another distance

# %% [markdown]
# Now turn the keys that came from notes. Each row is turned by another angle, and **the table is no
# longer of rank `C`**: what we would have to keep is whole keys again.

# %%
position_1T = jnp.arange(T)[None]
k_turned_THN = np.asarray(rotate(k_mla_THN[None], *angles(small, position_1T))[0])

tables = {
    "MHA": (k_mha_THN, BLUE, "-"),
    "from notes": (k_mla_THN, RED, "-"),
    "from notes,\nthen turned": (k_turned_THN, ORANGE, "--"),
}
figure, axis = plt.subplots(figsize=(8, 3.4))
for label, (k_THN, colour, line) in tables.items():
    size = np.linalg.svd(k_THN.reshape(T, H * N), compute_uv=False)
    axis.semilogy(range(1, H * N + 1), size / size[0], line, color=colour, label=label)
axis.axvline(C, color="grey", linewidth=1)
axis.set(ylim=(1e-4, 2), xlabel="singular value of the table of keys, by size")
axis.set(ylabel="size relative to the largest")
legend_beside(axis)
plt.show()
assert rank(k_turned_THN) > 2 * C

# %% [markdown]
# The red curve falls to nothing after `C` = 16 (grey line): 16 numbers per token rebuild the keys.
# The orange curve does not fall there.
#
# DeepSeek's answer is **decoupled RoPE**: leave the keys of the note unturned, and give position a
# small key of its own, $k_t^R$. It comes from $h_t$, it is turned, and all heads share it, so it is
# cheap to keep. Queries get a part for it.
#
# $$k_t^R = \mathrm{RoPE}(W^{KR} h_t) \quad\text{(15)} \qquad
# q_{t,i} = [q_{t,i}^C;\, q_{t,i}^R] \quad\text{(16)} \qquad
# k_{t,i} = [k_{t,i}^C;\, k_t^R] \quad\text{(17)}$$
#
# $$o_{t,i} = \sum_{j \le t} \mathrm{softmax}_j\!\left(
# \frac{q_{t,i}^\top k_{j,i}}{\sqrt{d_h + d_h^R}}\right) v_{j,i}^C \quad\text{(18)}
# \qquad u_t = W^O [o_{t,1};\, \dots;\, o_{t,n_h}] \quad\text{(19)}$$
#
# Here is the project's function for equation 18, with the keys and values formed by equations 10
# and 11. `c_BSC` holds the notes, `k_BSR` the keys of position.

# %%
show_source(attend_expanded)

# %% [markdown]
# The same in NumPy, one head and one query after the other, with no axis letter shared with the
# function above. Both agree.

# %%
B, T, H, N, R, C, U = 1, 12, 4, 16, 8, 32, 16
q_BTHN, q_BTHR = normal(B, T, H, N), normal(B, T, H, R)
c_BSC, k_BSR = normal(B, T, C), normal(B, T, R)
w_uk_CHN, w_uv_CHU = normal(C, H, N), normal(C, H, U)
scale = (N + R) ** -0.5

expected_BTHU = np.zeros((B, T, H, U))
for head in range(H):
    keys = np.concatenate([c_BSC[0] @ w_uk_CHN[:, head], k_BSR[0]], axis=1)  # equation 17
    values = c_BSC[0] @ w_uv_CHU[:, head]
    for t in range(T):
        query = np.concatenate([q_BTHN[0, t, head], q_BTHR[0, t, head]])  # equation 16
        weight = np.exp(keys[: t + 1] @ query * scale)
        expected_BTHU[0, t, head] = weight / weight.sum() @ values[: t + 1]  # equation 18

arguments = (q_BTHN, q_BTHR, c_BSC, k_BSR, w_uk_CHN, w_uv_CHU, scale, visible(T, T, 0))
expanded_BTHU = attend_expanded(*arguments)
np.testing.assert_allclose(expanded_BTHU, expected_BTHU, atol=1e-5)

# %% [markdown]
# ## Step 4: the whole layer, and what is in its cache
#
# Queries go through a narrow place too, $c_t^Q$ (equations 12 to 14). This saves nothing in the
# cache, because queries are not kept; it saves memory in training. Notes and query latents pass an
# RMSNorm. These are all weights of one layer of V3:

# %%
symbols = {
    "w_dq": "W^DQ  down to the query latent",
    "q_norm": "norm of the query latent",
    "w_uq": "W^UQ  up to queries without position",
    "w_qr": "W^QR  up to queries of position",
    "w_dkv": "W^DKV down to the note",
    "kv_norm": "norm of the note",
    "w_kr": "W^KR  to the key of position",
    "w_uk": "W^UK  up to keys",
    "w_uv": "W^UV  up to values",
    "w_o": "W^O   out",
}
layers = named_variables(v3.config.model)["params"]["expert_layers"]
weights = {name: layers["attention"][name].value for name in symbols}
total = 0
for name, text in symbols.items():
    shape = weights[name].shape[1:]  # without the axis of layers
    total += np.prod(shape)
    print(f"{name:8} {shape!s:17} {np.prod(shape):12,}  {text}")
print(f"{'':26} {total:12,}")
assert total == ATTENTION["mla"].parameters(v3.config.model) == 187_107_328

# %% [markdown]
# And this is the layer. A product with a weight is `project`, and `attend_causal` runs equation 18
# by a kernel that never writes the whole table of scores to memory.

# %%
show_source(LatentAttention.__call__)

# %% [markdown]
# A small layer, run in two ways: on a whole sequence at once, as in training; and one token after
# the other with a cache, as in writing. The outputs are the same, and the cache holds the note
# `c` and the key of position `k` of each token: `C + R` numbers.

# %%
model = ModelConfig(context=64)
layer = LatentAttention(model)
x_BTD = normal(1, 10, model.embed)
cos_BTr, sin_BTr = angles(model, jnp.arange(10)[None])
shapes = unbox(jax.eval_shape(layer.init, jax.random.key(0), x_BTD, (cos_BTr, sin_BTr)))
params = jax.tree.map(lambda weight: normal(*weight.shape), shapes)
whole_BTD, _ = layer.apply(params, x_BTD, (cos_BTr, sin_BTr))  # training needs no cache

step = jax.jit(layer.apply)
cache, outputs = layer_cache(model, batch=1, slots=10), []
for t in range(10):
    now = slice(t, t + 1)
    angle = (cos_BTr[:, now], sin_BTr[:, now])
    y_B1D, cache = step(params, x_BTD[:, now], angle, None, cache, t)
    outputs.append(y_B1D)

np.testing.assert_allclose(jnp.concatenate(outputs, 1), whole_BTD, atol=1e-5)
for name, array in cache.items():
    print(f"cache[{name!r}] has the shape {array.shape}: batch, positions, numbers")
assert sum(array.shape[-1] for array in cache.values()) == model.kv_latent + model.rotary

# %% [markdown]
# ## The cache of each published model
#
# In bytes per token, over all layers, in bfloat16 (two bytes a number). Beside it: what the same
# model would keep with multi-head attention, $2\,n_h d_h$ numbers a layer.

# %%
models = {"MoE-16B": moe_16b, "V2-Lite": v2_lite, "V2": v2, "V3, R1": v3}
models = {name: module.config.model for name, module in models.items()}
bytes_kept = {name: cache_bytes(m) for name, m in models.items()}
as_mha = {name: 2 * m.layers * 2 * m.heads * 128 for name, m in models.items()}
for name, number in bytes_kept.items():
    fewer = as_mha[name] / number
    print(f"{name:8} {number:8,} bytes; with MHA {as_mha[name]:10,}: {fewer:4.1f} times as many")

# V2 tables 1 and 9 (15.6K and 34.6K numbers); table 1 of 2505.09343 for V3 (70.272 KB)
assert [cache_elements(m) for m in models.values()] == [114_688, 15_552, 34_560, 35_136]
assert bytes_kept["V3, R1"] == 70_272
# V2 abstract: 93.3 % less than DeepSeek 67B (95 layers, 8 groups), at 6 bits a number for 16
saved = 1 - cache_elements(models["V2"]) * 6 / (95 * 2 * 8 * 128 * 16)
assert round(100 * saved, 1) == 93.3

# %%
gigabytes = 131_072 / 1e9  # bytes per token to GB for a context of 128K tokens
place = np.arange(len(models))
figure, axis = plt.subplots(figsize=(8, 3.2))
before = axis.bar(place - 0.2, [gigabytes * n for n in as_mha.values()], 0.38, label="with MHA")
after = axis.bar(
    place + 0.2, [gigabytes * n for n in bytes_kept.values()], 0.38, color=RED, label="as published"
)
axis.bar_label(before, fmt="%.0f")
axis.bar_label(after, fmt="%.0f")
axis.set(ylim=(0, 580), ylabel="cache of 128K tokens, GB")
axis.set_xticks(place, list(models))
legend_beside(axis)
plt.show()

# %% [markdown]
# MoE-16B came before latent attention and has MHA itself. One V3 conversation of 128K tokens would
# fill seven accelerators of 80 GB with MHA; as published it fits in a corner of one.
#
# The cache can be smaller still: in FP8 a note takes one byte a number, with a scale for every 128
# of them, and the key of position stays in bfloat16. That is the layout of DeepSeek's FlashMLA
# kernel.

# %%
layout = LatentAttention.cache_layout(models["V3, R1"], "fp8")
for name, entry in layout.items():
    print(f"{name:6} {entry.shape[0]:4} numbers in {entry.dtype}")
size = sum(np.prod(entry.shape) * jnp.dtype(entry.dtype).itemsize for entry in layout.values())
print(f"{size} bytes for a token in one layer, in place of {2 * 576:,}")
assert size == 656  # FlashMLA's README: 512 + 16 + 128

# %% [markdown]
# ## Step 5: absorbed is expanded
#
# The expanded form makes keys of all heads from all notes, for each new token. This is a lot of
# work for one query. But a product of three things may be bracketed in two ways:
#
# $$\underbrace{q^\top (W^{UK} c)}_{\text{expanded: move each note up to the query}} \;=\;
# \underbrace{(W^{UK\top} q)^\top c}_{\text{absorbed: move the query down to the notes}}$$
#
# The same works behind the softmax: $\sum_j p_j\,(W^{UV} c_j) = W^{UV} \sum_j p_j c_j$. In this
# form (V2 section 2.1.2) each head reads notes alone, and no key or value is ever made.
#
# Here you see again why position has a key of its own. If the keys of the notes were turned, an
# angle that differs for each token would stand between $W^{UK}$ and $q$, and $W^{UK}$ could not
# move to the other side.

# %%
show_source(attend_absorbed)

# %%
absorbed_BTHU = attend_absorbed(*arguments)
np.testing.assert_allclose(absorbed_BTHU, expanded_BTHU, atol=1e-5)
np.testing.assert_allclose(absorbed_BTHU, expected_BTHU, atol=1e-5)

# %% [markdown]
# ### Which one is cheaper?
#
# Count the multiplications of one layer for $T$ new tokens that look at $S$ tokens:
#
# | | expanded | absorbed |
# |---|---|---|
# | moving up or down | $S \cdot C H (N + U)$: all notes up | $T \cdot C H (N + U)$: queries down, sums up |
# | scores and sums | $T S \cdot H (N + R + U)$ | $T S \cdot H (C + R + C)$ |
#
# Expanded pays for each *note*, absorbed pays more for each *pair*.

# %%


def expanded(T, S, m):
    up = S * m.kv_latent * m.heads * (m.nope + m.value)
    pairs = T * S * m.heads * (m.nope + m.rotary + m.value)
    return up + pairs


def absorbed(T, S, m):
    down_and_up = T * m.kv_latent * m.heads * (m.nope + m.value)
    pairs = T * S * m.heads * (2 * m.kv_latent + m.rotary)
    return down_and_up + pairs


def counted_by_xla(attend, T, S, m):
    shapes = [(1, T, m.heads, m.nope), (1, T, m.heads, m.rotary), (1, S, m.kv_latent)]
    shapes += [(1, S, m.rotary), (m.kv_latent, m.heads, m.nope), (m.kv_latent, m.heads, m.value)]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    mask_B1TS = jax.ShapeDtypeStruct((1, 1, T, S), bool)
    lowered = jax.jit(attend).lower(*arrays, 1.0, mask_B1TS)
    return lowered.cost_analysis()["flops"] / 2  # a multiplication and an addition are two FLOPs


# %% [markdown]
# The formulas against the count of the compiler, XLA, on a layer of V3's size. Its count has the
# softmax in it, which is why it is a little larger.

# %%
m = models["V3, R1"]
for T in (1, 1024):
    for formula, attend in ((expanded, attend_expanded), (absorbed, attend_absorbed)):
        by_hand, by_xla = formula(T, 4096, m), counted_by_xla(attend, T, 4096, m)
        print(f"{formula.__name__:9} {T:5} new tokens: {by_hand:.4g}, by XLA {by_xla:.4g}")
        assert 0.99 < by_xla / by_hand < 1.03

# %%


def crossing(S, m):
    """The number of new tokens at which both forms cost the same; heads do not matter."""
    up = m.kv_latent * (m.nope + m.value)
    more_per_pair = 2 * m.kv_latent - m.nope - m.value
    return S * up / (S * more_per_pair + up)


T, equal = np.array([2**n for n in range(13)]), crossing(4096, m)
figure, axis = plt.subplots(figsize=(8, 3.8))
axis.loglog(T, expanded(T, 4096, m), "o-", color=BLUE, label="expanded")
axis.loglog(T, absorbed(T, 4096, m), "s-", color=RED, label="absorbed")
axis.axvline(equal, color="grey", linewidth=1)
axis.annotate(f"{equal:.0f} tokens", (equal * 1.1, 7e8), color="grey")
axis.set(xlabel="new tokens at once", ylabel="multiplications in a layer of V3")
axis.set_title("4,096 tokens in view", loc="left", fontsize=10)
legend_beside(axis)
plt.show()
assert abs(expanded(equal, 4096, m) / absorbed(equal, 4096, m) - 1) < 1e-12
assert round(equal) == 164
assert round(crossing(1e9, m)) == 171  # however long the context: C (N + U) / (2C - N - U)
assert expanded(1, 4096, m) > 100 * absorbed(1, 4096, m)  # writing one token
assert absorbed(4096, 4096, m) > 3 * expanded(4096, 4096, m)  # training

# %% [markdown]
# So: **absorbed for writing** (one new token, or a few that a draft proposed), **expanded for
# reading a prompt and for training**. seekjax does this: `attend=None` says that the cache was
# empty, and then the kernel of training runs on expanded keys.
#
# Multiplications are not all. Writing with the absorbed form reads 576 numbers of cache for each
# token in view and uses them for all 128 heads; this is why exercise 2 finds so much arithmetic
# for each byte.

# %% [markdown]
# ## YaRN: from 4 thousand to 160 thousand positions
#
# RoPE turns pair $i$ by $\theta_i = 10000^{-2i/64}$ radians for each position. Think of 32 clock
# hands. The fast ones go round hundreds of times within the 4,096 positions of training: the model
# has seen every angle of theirs. The slow ones do not finish one turn: the model has seen a part
# of the circle. Let the text be 40 times as long, and the slow hands reach angles that no training
# example ever had.
#
# YaRN ([2309.00071](https://arxiv.org/abs/2309.00071), V2 section 3.1.4) leaves the fast hands
# alone, makes the slow ones 40 times slower, and blends in between:
#
# $$\theta_i' = (1 - \gamma_i)\,\theta_i + \gamma_i\,\frac{\theta_i}{s}, \qquad
# \gamma_i = \mathrm{clip}\!\left(\frac{i - \mathrm{low}}{\mathrm{high} - \mathrm{low}},\, 0,\, 1\right),
# \qquad s = 40$$
#
# `low` is the pair with 32 turns in 4,096 positions, `high` the one with a single turn.

# %%
show_source(rope_frequencies)

# %%
long = replace(models["V3, R1"], context=163_840)  # the released model; YaRN is on
plain_r, yarn_r = rope_frequencies(models["V3, R1"]), rope_frequencies(long)
pair = np.arange(32)


def turns(theta_r, positions):
    return positions * theta_r / (2 * np.pi)


figure, axis = plt.subplots(figsize=(8, 4))
axis.semilogy(pair, turns(plain_r, 163_840), ".-", color=RED, label="160K, RoPE as it was")
axis.semilogy(pair, turns(yarn_r, 163_840), ".-", color=GREEN, label="160K, YaRN")
axis.semilogy(pair, turns(plain_r, 4096), ".--", color=BLUE, label="4K, as in training")
axis.axhline(1, color="grey", linewidth=1)
axis.axvspan(10, 23, color="grey", alpha=0.15, linewidth=0, label="YaRN blends")
axis.set(xlabel="pair i", ylabel="turns from the first\nto the last position")
legend_beside(axis)
plt.show()

# %% [markdown]
# Where the blue line is above 1 (grey line), every angle was seen in training, and more turns are
# nothing new. From pair 23 on blue is below 1; there the red line is at angles never seen, and the
# green one lies on the blue one: the same angles as in training.
#
# The numbers below are what transformers 5.24 computes (`DeepseekV3RotaryEmbedding.inv_freq`, in
# float32) for DeepSeek's published settings.

# %%
transformers_r = [1.0, 0.7498942, 0.56234133, 0.42169651, 0.31622776, 0.23713736, 0.17782794]
transformers_r += [0.13335215, 0.1, 0.074989416, 0.056234129, 0.039006926, 0.026879361]
transformers_r += [0.018378144, 0.012447956, 0.0083345091, 0.0055000004, 0.0035619973]
transformers_r += [0.0022493652, 0.0013705135, 0.00079056941, 0.00041499041, 0.00017782794]
transformers_r += [3.3338034e-05, 2.4999999e-05, 1.8747354e-05, 1.4058533e-05, 1.0542412e-05]
transformers_r += [7.9056945e-06, 5.9284343e-06, 4.4456983e-06, 3.3338035e-06]
np.testing.assert_allclose(yarn_r, transformers_r, rtol=1e-6)

np.testing.assert_allclose(yarn_r[:11], plain_r[:11])  # fast pairs as they were
np.testing.assert_allclose(yarn_r[23:], plain_r[23:] / 40)  # slow pairs, 40 times slower
assert abs(yarn_r[16] - 0.0055) < 1e-9  # in the middle: 0.01 x (7/13 + 6/13/40)

# %% [markdown]
# With more tokens in view, the softmax spreads its weight over more of them. YaRN sharpens it
# again: queries and keys are both multiplied by $0.1\,m \ln s + 1$, that is, the scores by its
# square. $m$ is 1 in V3 and 0.707 in V2.

# %%
print("V3:", mscale(40, 1.0), " scale of scores:", softmax_scale(long, 192))
long_v2 = replace(models["V2"], context=163_840)
print("V2:", mscale(40, 0.707), " scale of scores:", softmax_scale(long_v2, 192))
assert abs(mscale(40, 1.0) - 1.3688879454) < 1e-10  # V3 section 4.3: 0.1 ln 40 + 1
assert abs(mscale(40, 0.707) - 1.2608037774) < 1e-10  # V2 section 3.1.4: 0.0707 ln 40 + 1
assert abs(softmax_scale(long, 192) - 0.1352337789) < 1e-10  # DeepSeek's inference/model.py
assert abs(softmax_scale(long_v2, 192) - 0.1147213868) < 1e-10
assert abs(softmax_scale(models["V3, R1"], 192) - 192**-0.5) < 1e-10  # without YaRN

# %% [markdown]
# ## Exercises
#
# Write your answer into the first cell of each exercise in place of `None`; the second cell checks
# it.
#
# **1.** How many conversations of 32,768 tokens fit into 40 GB of cache with V3 in bfloat16? A whole
# number; 1 GB is $10^9$ bytes.

# %%
answer_1 = None

# %%
check(answer_1, 17, "Bytes of one token x tokens of a conversation; then divide, and round down.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# One conversation takes 70,272 x 32,768 bytes, about 2.3 GB. With MHA it would take 131 GB, so none
# would fit.
#
# ```python
# answer_1 = int(40e9 // (cache_bytes(v3.config.model) * 32_768))
# ```
#
# </details>

# %% [markdown]
# **2.** Writing one token with the absorbed form, how many FLOPs of scores and sums (two for each
# multiplication) does V3 do for each **byte** of bfloat16 cache that it reads? An H100 can do about
# 295 in the time in which it reads one byte.

# %%
answer_2 = None

# %%
check(answer_2, 2 * 128 * (2 * 512 + 64) / (2 * 576), "Take one token in view: 576 numbers.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# Each of 128 heads does $2C + R$ multiplications with a token in view, and the $C + R$ numbers of
# that token are read once for all heads: 242 FLOPs a byte, close to what the hardware can do. MHA
# reads keys and values of each head and does 1 FLOP a byte: nearly all of the time is reading.
#
# ```python
# m = v3.config.model
# flops = 2 * m.heads * (2 * m.kv_latent + m.rotary)
# answer_2 = flops / (2 * (m.kv_latent + m.rotary))
# ```
#
# </details>

# %% [markdown]
# **3.** $W^{UK}$ can be absorbed for good: for each head, multiply $W^{UQ}$ and $W^{UK}$ once, so
# that a query latent `c_Q` gives a query in the space of notes at once. Write this as a function of
# `w_uq_QHN` and `w_uk_CHN` that returns `w_QHC`.

# %%
answer_3 = None  # def answer_3(w_uq_QHN, w_uk_CHN): ...

# %%


def gives_the_same_query(function):
    c_Q, w_uq_QHN, w_uk_CHN = normal(12), normal(12, 4, 6), normal(5, 4, 6)
    q_HN = np.einsum("Q,QHN->HN", c_Q, w_uq_QHN)
    q_HC = np.einsum("HN,CHN->HC", q_HN, w_uk_CHN)
    w_QHC = np.asarray(function(w_uq_QHN, w_uk_CHN))
    return np.allclose(np.einsum("Q,QHC->HC", c_Q, w_QHC), q_HC, atol=1e-5)


check(answer_3, gives_the_same_query, "Sum over N; keep H: np.einsum('QHN,CHN->QHC', ...).")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_3(w_uq_QHN, w_uk_CHN):
#     return np.einsum("QHN,CHN->QHC", w_uq_QHN, w_uk_CHN)
# ```
#
# V3 does not store this product. It would have 1536 x 128 x 512 = 101 million numbers in a layer;
# the two factors have 34 million. Two narrow steps are less work than one wide step.
#
# </details>

# %% [markdown]
# ## What to read next
#
# * V2 section 2.1 (latent attention) and appendix C (all formulas on one page); V2 section 3.1.4
#   and V3 section 4.3 (long context).
# * `seekjax/model/attention/mla.py`: the layer of step 4, in the order of the equations.
#   `seekjax/model/rope.py`: positions. `seekjax/model/count.py`: parameters, FLOPs and cache of any
#   config.
# * The next notebook: [2 · Experts and balance](02_experts_and_balance.ipynb).
