# %% [markdown]
# # 10 · What V3 cost
#
# **After this notebook you will be able to**
#
# * count the parameters and the arithmetic of DeepSeek-V3 from its config, and say where they are;
# * say why 671 billion parameters cannot be trained on one chip, and what each way of splitting
#   them sends over which wire;
# * get from there to the famous 5.576 million dollars, step by step, and say what is not in it;
# * do the same for a model of your own.
#
# 30 minutes to read, 10 seconds to run. You need: notebooks [1](01_latent_attention.ipynb) and
# [2](02_experts_and_balance.ipynb), or an idea of what latent attention and a mixture of experts
# are.
#
# Papers: V3 is [DeepSeek-V3](https://arxiv.org/abs/2412.19437), V2 is
# [DeepSeek-V2](https://arxiv.org/abs/2405.04434), *Insights* is
# [2505.09343](https://arxiv.org/abs/2505.09343), the team's own look back at the hardware.

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

from configs import small, v2, v3
from seekjax.model.count import parameters
from seekjax.notebook import BLUE, GREEN, ORANGE, RED, check, legend_beside, set_look, show_source
from seekjax.plan.chips import CHIPS
from seekjax.plan.cost import Cost, hours_per_trillion, speed_at
from seekjax.plan.counts import TRAINING, forward_flops, published_flops
from seekjax.plan.inference import Serving
from seekjax.plan.layout import lay_out
from seekjax.plan.memory import memory
from seekjax.plan.traffic import copies_between

set_look()
model = v3.config.model
h800 = CHIPS["h800"]

# %% [markdown]
# ## The idea in words
#
# The price of a training run is a product of four numbers:
#
# $$\text{dollars} = \text{tokens} \times \frac{\text{arithmetic}}{\text{token}} \times
# \frac{\text{chip-seconds}}{\text{arithmetic}} \times \frac{\text{dollars}}{\text{chip-second}}$$
#
# The first is how much the model reads. The second is the model: a mixture of experts visits a
# small part of its weights for each token. The third is the engineering: how much of what the chips
# could do they really do. The last is what a chip costs to rent. DeepSeek made the second and the
# third small.
#
# `seekjax plan` works all of it out from a config. Here we do it by hand, with the functions that
# the command calls.

# %% [markdown]
# ## Step 1: 671 billion parameters, of which a token meets 37
#
# V3 has 61 layers. The first three have an ordinary feed-forward layer; each of the other 58 has
# one expert that all tokens visit and 256 of which a token visits 8.

# %%
count = parameters(model)
expert_layers = model.layers - model.dense_layers
experts = expert_layers * model.experts * count.expert
visited = expert_layers * (model.experts_per_token + model.shared_experts) * count.expert

print(f"one expert         {count.expert / 1e6:8.1f} million")
print(f"all routed experts {experts / 1e9:8.1f} billion, {experts / count.total:.1%} of the model")
print(f"all parameters     {count.total / 1e9:8.1f} billion")
print(f"met by a token     {count.active_without_embedding / 1e9:8.1f} billion")
assert count.total == 671_026_419_200  # README_WEIGHTS of the published model: 671B
assert round(count.active_without_embedding / 1e9, 1) == 36.6  # published as 37B
assert experts / count.total > 0.97

# %% [markdown]
# So the model is nearly all experts, and a token meets one in eighteen of its weights. That is the
# bargain: the memory of a model of 671 billion, the arithmetic of one of 37.

# %% [markdown]
# ## Step 2: 250 billion operations for a token
#
# A weight that a token meets costs one multiplication and one addition. Training takes that three
# times: once forward, and twice backward (for the gradient of the input, and for that of the
# weight). Attention adds work that no weight stands for: every token compares itself with all
# tokens before it. Insights table 2 counts both:
#
# $$6\,N_{\text{active}} + 3\,L\,s\,n_h\,(d_h + d_h^R + d_v)$$
#
# for $L$ layers, sequences of $s$ tokens (on average half of them are in view, which cancels the
# factor 2), $n_h$ heads, and the widths of keys with and without position and of values.

# %%
show_source(published_flops)

# %%
sequence = 4096
per_token = published_flops(model, sequence)
by_hand = 6 * count.active_without_embedding
by_hand += 3 * model.layers * sequence * model.heads * (model.nope + model.rotary + model.value)
print(f"{per_token / 1e9:.1f} GFLOP per token, by hand {by_hand / 1e9:.1f}")
assert abs(per_token / by_hand - 1) < 1e-9
assert round(per_token / 1e9) == 250  # Insights table 2: 250 GFLOPS per token
assert round(published_flops(v2.config.model, sequence) / 1e9) == 155  # and 155 for V2

# %%
parts = forward_flops(model, sequence)
named = {name: TRAINING * flops / 1e9 for name, flops in parts.items()}
figure, axis = plt.subplots(figsize=(8, 3))
colours = [GREEN, GREEN, BLUE, RED, RED, ORANGE, ORANGE, ORANGE]
bars = axis.barh(list(named), list(named.values()), color=colours)
axis.bar_label(bars, [f" {flops:.1f}" for flops in named.values()])
axis.set(xlim=(0, 150), xlabel="GFLOP to train on one token")
axis.invert_yaxis()
plt.show()

# %% [markdown]
# The prediction module (notebook [3](03_multi_token_prediction.ipynb)) is work too, 4 % more; the
# papers leave it out of their count, and so do we when we compare with them.
#
# A dense model of 671 billion parameters would need six operations for each of them:

# %%
dense = 6 * count.total / 1e9
print(f"dense: {dense:,.0f} GFLOP per token, {dense * 1e9 / per_token:.0f} times as many")
assert 15 < dense * 1e9 / per_token < 17

# %% [markdown]
# ## Step 3: it does not fit on a chip
#
# Training keeps more than weights: a master copy in float32, two running averages for the
# optimizer, a gradient, and activations for the backward pass.

# %%
layout = lay_out(v3.config, v3.config.mesh.sizes(2048))
needed = memory(layout)
state = count.total * (4 + 4 + 4)  # master copy and two averages, 4 bytes each
print(f"weights and averages, once: {state / 1e12:.1f} TB; one H800 has {h800.memory / 1e9:.0f} GB")
print(f"on {layout.devices:,} chips, each:")
for name, size in needed.rows().items():
    print(f"    {name:45} {size / 2**30:6.1f} GiB")
print(f"    {'all':45} {needed.total / 2**30:6.1f} GiB")
assert state > 100 * h800.memory

# %% [markdown]
# The mesh above is that of `configs/v3.py`: experts are split over 64 chips, everything else over
# those and 8 times more, and widths over 4. DeepSeek's own is another one: 16 stages of a pipeline
# x 64 for experts x 2 replicas (V3 section 3.2), with the averages in bfloat16.

# %% [markdown]
# ## Step 4: what travels
#
# An expert lives on one chip, its tokens on others. Each token is sent to its experts and comes
# back, in every layer. With chips in nodes of eight, wires inside a node are 3.2 times faster than
# between nodes (V3 section 3.2.2: 160 and 50 GB/s). So V3 counts *nodes*: a token may choose experts
# on at most 4 of 8, and is sent to each node once, however many of its experts are there.

# %%
copies = copies_between(model, nodes=8)
for kind, number in copies.items():
    print(f"{kind:15} {number:.2f} copies of a token cross to other nodes, per layer")
assert round(copies["flat"], 2) == 7.00  # 8 experts, 7 of 8 elsewhere
assert round(copies["de-duplicated"], 2) == 4.63
assert copies["node-limited"] == 3.5  # at most 4 nodes, 7/8 of them other ones
assert h800.inside / h800.between == 3.2

# %% [markdown]
# Is that much? A token is 7,168 numbers. There in FP8 and back in bfloat16, over the slower wire,
# next to the time of the same layer's arithmetic at full speed:

# %%
bytes_per_number = 1 + 2  # FP8 there, bfloat16 back
layer_flops = TRAINING * (parts["routed experts"] + parts["shared experts"]) / expert_layers
computing = layer_flops / h800.bfloat16
times = {}
for kind, number in copies.items():
    # forward, and once more for the gradients
    times[kind] = 2 * number * model.embed * bytes_per_number / h800.between

figure, axis = plt.subplots(figsize=(8, 2.2))
names = ["arithmetic of the experts", *times]
values = 1e6 * np.array([computing, *times.values()])
bars = axis.barh(names, values, color=[GREEN, RED, ORANGE, BLUE])
axis.bar_label(bars, [f" {value:.2f}" for value in values])
axis.set(xlim=(0, 8), xlabel="microseconds for a token in one layer, one chip")
axis.invert_yaxis()
plt.show()
assert times["node-limited"] == times["flat"] / 2

# %% [markdown]
# Even node-limited, moving a token takes as long as computing it. That is why DualPipe exists: it
# runs the exchange of one micro-batch behind the arithmetic of another (V3 section 3.2.1). Without
# it, half of every chip would wait.

# %% [markdown]
# ## Step 5: dollars
#
# Now the paper's measurement: **180 thousand chip-hours for each trillion tokens** (V3 section 1).

# %%
show_source(Cost)

# %%
tokens = (
    10e12 + 4.3e12 + 0.333e12 + 0.167e12
)  # the four pieces of the learning rate, V3 section 4.2
cost = Cost(tokens, devices=2048, hours_per_trillion=180_000, phases=(119_000, 5_000), price=2.0)
print(
    f"{tokens / 1e12:.1f} trillion tokens: {cost.training_hours / 1e3:,.0f}K hours of pre-training"
)
print(f"with longer context and post-training: {cost.hours / 1e3:,.0f}K hours")
print(f"at $2 an hour: ${cost.dollars / 1e6:.3f} million")
print(f"{cost.days_per_trillion:.1f} days for each trillion tokens, {cost.days:.0f} days for all")
assert round(cost.training_hours / 1e3) == 2664  # V3 table 1
assert round(cost.hours / 1e3) == 2788
assert round(cost.dollars / 1e6, 3) == 5.576
assert round(cost.days_per_trillion, 1) == 3.7

# %% [markdown]
# What is *not* in it, in the paper's own words: "the costs associated with prior research and
# ablation experiments on architectures, algorithms, or data". Neither are salaries, nor buying the
# chips.
#
# How good are 180 thousand hours? Turn them into operations per second, and compare with what the
# chip can do:

# %%
speed = cost.tokens_per_second * per_token / cost.devices
print(f"{speed / 1e12:.0f} TFLOP/s on each chip: {speed / h800.bfloat16:.0%} of its bfloat16 peak")
assert 0.38 < speed / h800.bfloat16 < 0.40  # Insights table 4: MFU 38.94 %

# %% [markdown]
# A number to remember: well-run training of a mixture uses about 40 % of the peak. At that share,
# what would the same tokens cost if each met all weights?

# %%
share = speed / h800.bfloat16
dense_speed = speed_at(share, 6 * count.total, h800.bfloat16, devices=2048)
dense_hours = hours_per_trillion(dense_speed, devices=2048)
dense_cost = replace(cost, hours_per_trillion=dense_hours)
v2_saving = replace(cost, hours_per_trillion=172_800).saving(300_600)
print(f"dense and as large: ${dense_cost.dollars / 1e6:.0f} million")
print(f"V2 against DeepSeek's dense 67B, as published: {v2_saving:.1%} saved")
assert round(v2_saving, 3) == 0.425  # V2 section 3.2.3: 42.5 %

# %% [markdown]
# ## Step 6: the other bill, answering
#
# A trained model is used for longer than it was trained. Writing a token reads every weight that
# any of the texts in the batch visits, and the notes (notebook 1) of every token written so far. So
# the chip's memory bandwidth decides, and a larger batch shares the weights.

# %%
h200 = CHIPS["h200"]
figure, axis = plt.subplots(figsize=(8, 3.2))
batches = 2 ** np.arange(0, 8)
for context, colour in ((1024, BLUE), (8192, ORANGE), (32768, RED)):
    rates = []
    for batch in batches:
        serving = Serving(model, h200, 8, "fp8", "bfloat16", context, batch=int(batch))
        fits = batch <= serving.largest_batch
        rates.append(8 * batch / serving.seconds() if fits else np.nan)
    axis.plot(8 * batches, rates, "o-", color=colour, label=f"context of {context:,}")
axis.set(
    xscale="log", yscale="log", xlabel="texts at once on eight H200", ylabel="tokens/s, at most"
)
legend_beside(axis)
plt.show()

serving = Serving(model, h200, 8, "fp8", "bfloat16", context=8192)
assert serving.token_bytes == 70_272  # 61 layers x 576 numbers x 2 bytes
print(f"{serving.largest_batch} texts of 8,192 tokens fit on each of the eight")

# %% [markdown]
# A line ends where its texts no longer fit. These are upper bounds from memory, arithmetic and
# wires; a server reaches a part of them.

# %% [markdown]
# ## Exercises
#
# **1.** A model of your own: `configs/small.py` has 509 million parameters. What do 10 billion
# tokens in sequences of 2,048 cost, in dollars, at 40 % of the bfloat16 peak of one H800?

# %%
answer_1 = None

# %%
flops_1 = published_flops(small.config.model, 2048)
seconds_1 = 10e9 * flops_1 / (0.4 * h800.bfloat16)
check(answer_1, seconds_1 / 3600 * h800.price, "Operations over operations per second are seconds.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# flops = published_flops(small.config.model, 2048)
# speed = speed_at(0.4, flops, h800.bfloat16, devices=1)
# answer_1 = Cost(10e9, 1, hours_per_trillion(speed, 1), price=h800.price).dollars
# ```
#
# About eleven dollars, and five and a half hours. `seekjax plan small --on h800:1 --mfu 0.4
# --tokens 10e9` prints it with everything around it.
#
# </details>

# %% [markdown]
# **2.** V3 without the limit of four nodes, but still sent once to each node: how much longer would
# the wire between nodes take, as a ratio?

# %%
answer_2 = None

# %%
check(
    answer_2, copies["de-duplicated"] / copies["node-limited"], "Copies are proportional to time."
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# answer_2 = copies_between(model, 8)["de-duplicated"] / copies_between(model, 8)["node-limited"]
# ```
#
# 1.32 times: the limit saves a quarter of what the slowest wire carries.
#
# </details>

# %% [markdown]
# **3.** R1 was made from V3 by reinforcement: 101 thousand chip-hours for R1-Zero, 5 thousand for
# data, 41 thousand for R1 (R1's appendix). What share of all chip-hours, V3's included, is that?

# %%
answer_3 = None

# %%
check(answer_3, 147 / (2788 + 147), "Divide by the sum of both.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# answer_3 = (101 + 5 + 41) / (2788 + 101 + 5 + 41)
# ```
#
# 5 %, or $294,000: nearly all of the hours went into what R1 started from.
#
# </details>

# %% [markdown]
# ## What to read next
#
# * V3 section 3 (the machine room) and table 1 (the bill); Insights, all of it: nine pages.
# * `seekjax/plan/`: `counts.py` for operations, `memory.py`, `traffic.py`, `cost.py`. The command:
#   `seekjax plan v3 --on h800:2048 --hours-per-trillion 180000`, and its page
#   `seekjax/plan/README.md` with what is exact and what is estimated.
# * The exchange of step 4, moved for real between emulated devices:
#   [4 · Sharding](04_sharding.ipynb).
