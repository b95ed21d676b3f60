# %% [markdown]
# # 5 · Train a model
#
# **After this notebook you will be able to**
#
# * write the whole training loop in a dozen lines, and read each curve that it draws;
# * say how far a model is from the best loss that *any* model can have, in numbers;
# * stop a run, go on from its checkpoint **bit for bit**, and test an idea of your own (a router
#   score) over several seeds, without fooling yourself.
#
# 40 minutes to read, about a minute to run on a laptop. You need: what a loss and a gradient are,
# and the router of [notebook 2](02_experts_and_balance.ipynb).
#
# V3 is the paper of [DeepSeek-V3](https://arxiv.org/abs/2412.19437). The outputs that you see here
# are those of longer runs: `SEEKJAX_NOTEBOOKS=full jupyter lab` repeats them in a few minutes.

# %%
import contextlib
import io
import os
import random
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from seekjax.notebook import BLUE, GREEN, ORANGE, RED, check, legend_beside, set_look, show_source

set_look()
FULL = os.environ.get("SEEKJAX_NOTEBOOKS") == "full"
STEPS = 400 if FULL else 32  # of the main run
ROWS = 16 if FULL else 8  # of a batch
SEEDS = (0, 1, 2) if FULL else (0, 1)  # of the comparison
COMPARED = 100 if FULL else 4  # steps of each of its runs

# %% [markdown]
# ## The idea in words
#
# Training repeats four things: **read** some text, **measure** how surprised the model is by each
# next token, **move** the weights a little so that the surprise gets smaller, **report**. The
# surprise of a token with probability $q$ is $-\ln q$ *nats*. Its mean over all tokens is the loss.
#
# How small can it get? Somebody writes "fox" two times out of three and "bear" else. Even a reader
# who knows this is surprised: $-\ln\frac23 = 0.41$ nats by a fox and $-\ln\frac13 = 1.10$ by a
# bear, on average 0.64. No reader can do better: this is the **entropy** of the writer. On real
# text nobody knows the entropy, so nobody knows how good a loss of 2.1 is. Here we know it: our
# text comes from a small grammar whose entropy is computed exactly.

# %%
fox = np.array([2 / 3, 1 / 3])
print(f"knows the writer:  {-(fox * np.log(fox)).sum():.4f} nats")
for guess in (0.5, 0.8):
    believed = np.array([guess, 1 - guess])
    print(f"believes {guess} fox:  {-(fox * np.log(believed)).sum():.4f} nats")

# %% [markdown]
# ## The equations
#
# For a writer $p$ and a model $q_\theta$ the expected loss splits into two parts:
#
# $$L(\theta) = \mathbb{E}_{x \sim p}\left[-\ln q_\theta(x)\right]
#    = \underbrace{H(p)}_{\text{the writer's entropy}}
#    + \underbrace{\mathrm{KL}(p \,\|\, q_\theta)}_{\ge 0,\ \text{what is left to learn}}$$
#
# DeepSeek-V3 adds two terms: what its prediction modules miss
# ([notebook 3](03_multi_token_prediction.ipynb)), and a small penalty on experts that are not
# equally busy:
#
# $$\mathcal{L} = \mathcal{L}_\text{main}
#    + \frac{\lambda}{D}\sum_{k=1}^{D} \mathcal{L}^k_\text{MTP} \;\; (\text{V3, 24-25})
#    \;+\; \alpha \sum_\text{layers} \sum_{i} f_i P_i \;\; (\text{V3, 17-20})$$
#
# The last line of its method `loss` is this sum. To keep this notebook quick, our model has no
# prediction module, so $D = 0$.

# %%
from seekjax.train.loss import NextToken

show_source(NextToken.loss)

# %% [markdown]
# ## Step 1: the writer
#
# A story has three sentences. Each is one of a few templates, and the holes in the templates are
# filled with words: the $n$-th choice has weight $1/n$. A word that was chosen once is repeated
# later, and `She` agrees with the hero. So there is something to learn at a distance.

# %%
from seekjax.data.sources import stories

print(stories.generate(random.Random(1)))
print(f"-log p = {-stories.log_prob(stories.generate(random.Random(1))):.2f} nats")
print(f"H      = {stories.entropy():.4f} nats per story, exactly")
show_source(stories.GRAMMAR.entropy)

# %% [markdown]
# Two checks from outside. The entropy of one hole by a NumPy line, from the weights $1/n$. And the
# mean of $-\ln p$ over many stories: it must agree with the exact entropy within four standard
# errors.

# %%
from seekjax.data.sources.grammar import Grammar

weight = 1 / np.arange(1, 7)
p_place = weight / weight.sum()
places = stories.GRAMMAR.slots["place"]
one_hole = Grammar(acts=(("{place}",),), slots={"place": places}, agreement={})
assert np.isclose(one_hole.entropy(), -(p_place * np.log(p_place)).sum())  # NumPy

draws = [stories.generate(random.Random(seed)) for seed in range(1000)]
surprise = -np.array([stories.log_prob(text) for text in draws])
error = surprise.std() / np.sqrt(len(draws))
assert abs(surprise.mean() - stories.entropy()) < 4 * error  # the law of large numbers
print(f"{surprise.mean():.3f} +- {error:.3f} over 1,000 stories; exactly {stories.entropy():.3f}")

# %% [markdown]
# ## Step 2: the settings
#
# A run is one frozen value, a `Config`. Everything that is not named here has its default. All
# layers have experts and the router is V3's: sigmoid scores, groups, and a bias that keeps experts
# equally busy.

# %%
from seekjax.config import (
    Config,
    DataConfig,
    KernelConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)

config = Config(
    model=ModelConfig(
        vocab=512, embed=64, layers=2, dense_layers=0, mtp_depth=0, init_std=0.1,
        heads=4, q_latent=32, kv_latent=32, nope=16, rotary=16, value=16,
        experts=8, experts_per_token=2, expert_hidden=64,
    ),
    data=DataConfig(sources=("stories",), sequence=128),
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup=STEPS // 20),
    kernel=KernelConfig(remat="none", attention="plain"),
    train=TrainConfig(
        steps=STEPS, batch=ROWS, balance_rate=0.01, log_every=10, eval_every=STEPS, eval_batches=4
    ),
    out=Path(tempfile.mkdtemp()) / "run",
)  # fmt: skip

# %% [markdown]
# `Pretraining` reads the text and trains a tokenizer on it. `validate` refuses bad settings before
# anything is compiled, and says what to change.

# %%
from seekjax.train.pretrain import Pretraining
from seekjax.train.validate import validate

jax.config.update("jax_compilation_cache_dir", str(config.out.parent / "compiled"))
try:
    validate(replace(config, model=replace(config.model, experts_per_token=9)))
except ValueError as problem:
    print(problem)

validate(config)
with contextlib.redirect_stderr(io.StringIO()):  # the clock of the tokenizer
    training = Pretraining(config)
tokenizer = training.tokenizer
story = training.corpus.source("stories").held_out[0]
print([tokenizer.decode([token]) for token in tokenizer.encode(story)])
assert tokenizer.decode(tokenizer.encode(story)) == story

# %% [markdown]
# ## Step 3: compile, begin
#
# `build` gives the parts of the loop: a **source** of batches, a compiled **step**, and an
# **evaluator**. `start` makes the first state: weights, moments of the optimizer, biases of the
# routers, step 0. All of it is one tree of arrays, `TrainState`; there is no hidden state. This is
# what one step does:

# %%
from seekjax.placement import use_mesh
from seekjax.train.step import train_step

show_source(train_step)
with use_mesh(config.mesh):
    parts = training.build(config.out)
    state = parts.spec.start()
    beginning = parts.source.get_state()
    batch = parts.source.batch(0, state)
print("a batch:", {name: array.shape for name, array in batch.items()})
print(repr(tokenizer.decode(np.asarray(batch["tokens"][0, 0, :40]))))

# %% [markdown]
# A row has 128 targets, so it holds 129 tokens. Rows are cut from a long stream of stories, so
# most of them begin in the middle of one.
#
# **What should the first loss be?** A new model knows nothing. If it gave all $V = 512$ tokens the
# same probability, the loss would be $\ln 512 = 6.24$. Its logits are not all 0, though: they are
# sums of $D = 64$ products of a normed activation and a weight with standard deviation 0.1, so they
# spread with a variance of $s^2 = 64 \cdot 0.1^2$. For normal logits
# $\mathbb{E}[\ln \sum_v e^{z_v}] \approx \ln V + s^2/2$, which makes 6.56. Such a check before a
# long run finds many mistakes.

# %%
with use_mesh(config.mesh):
    first_loss = float(parts.step(parts.spec.start(), batch)[1]["loss"])
expected = np.log(config.model.vocab) + config.model.embed * config.model.init_std**2 / 2
print(f"first loss {first_loss:.3f}, expected {expected:.3f}")
assert abs(first_loss - expected) < 0.15

# %% [markdown]
# ## Step 4: measure beside the truth
#
# For 256 held-out stories we know the exact $-\ln p$. `log_probs` gives the model's. The mean
# difference between the two is what is left to learn, the KL of the equation above. Its error is
# small, because the luck of the draw is in both and cancels. Each story stands behind another one,
# as in training, and only the second one is counted.

# %%
from seekjax.data.batches import stack
from seekjax.data.held_out import padded_row
from seekjax.train.score import log_probs

held_out = [training.corpus.source("stories").held_out[i] for i in range(256)]
exact_B = -np.array([stories.log_prob(text) for text in held_out])

eos, WIDTH = tokenizer.eos, 112
rows, target_BT = [], np.zeros((len(held_out), WIDTH), bool)
for i, text in enumerate(held_out):
    before = [eos, *tokenizer.encode(held_out[i - 1]), eos]
    tokens = [*before, *tokenizer.encode(text), eos]
    rows.append(padded_row(tokens, WIDTH + 1, tokenizer.pad))
    target_BT[i, len(before) - 1 : len(tokens) - 1] = True  # the token after each position
rows = stack(rows)


# %%
@jax.jit
def surprise_of(params, balance):
    """Return -log q of each token of the held-out stories, and 0 elsewhere."""
    log_BT, _ = log_probs(parts.spec.model, config, params, balance, rows)
    return jnp.where(target_BT, -log_BT, 0)


# %% [markdown]
# ## Step 5: the loop
#
# Here is all of it. `fit` does the same, and looks after signals, bad updates and full disks
# besides. At three quarters we save: the state, the position in the data, and the settings.

# %%
from seekjax.checkpoint.config_json import to_json
from seekjax.checkpoint.write import Checkpoints

SAVE_AT = 3 * STEPS // 4
MEASURE_AT = [STEPS * share // 32 for share in (0, 1, 2, 4, 8, 16, 24)]
history, surprise_BT = [], {}

with use_mesh(config.mesh), contextlib.closing(Checkpoints(config.out, keep=1)) as checkpoints:
    parts.source.set_state(beginning)
    for step in range(STEPS):
        if step in MEASURE_AT:
            surprise_BT[step] = np.asarray(surprise_of(state.params, state.balance))
        batch = parts.source.batch(step, state)
        state, metrics = parts.step(state, batch)
        history.append(metrics)
        if step + 1 == SAVE_AT:
            position = parts.source.get_state()
            checkpoints.save(step + 1, state, data=position, config=to_json(config))
    surprise_BT[STEPS] = np.asarray(surprise_of(state.params, state.balance))
history = jax.device_get(history)

# %% [markdown]
# ## Step 6: read the curves


# %%
def log_scale(axis, *ticks):
    """Give the vertical axis of a picture a logarithmic scale with plain numbers."""
    axis.set_yscale("log")
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()


count = target_BT.sum()
floor = exact_B.sum() / count  # nats per token of these very stories


def column(*names):
    """Return one figure of every step."""
    rows = history
    for name in names:
        rows = [row[name] for row in rows]
    return np.array(rows)


# %%
step_axis = np.arange(1, STEPS + 1)
figure, ((loss, rate), (norm, balance)) = plt.subplots(2, 2, figsize=(9, 5.5), sharex=True)
loss.plot(step_axis, column("loss"), color=BLUE, lw=1, label="training")
held = [x.sum() / count for x in surprise_BT.values()]
loss.plot(list(surprise_BT), held, "o-", color=RED, ms=4, label="held out")
loss.axhline(floor, color="black", ls="--", lw=1.5, label="entropy")
log_scale(loss, 0.5, 1, 2, 4)
loss.set(ylabel="loss (nats per token)", title="what is minimised")
loss.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1.12))
rate.plot(step_axis, column("learning_rate"), color=GREEN)
rate.set(ylabel="learning rate", title="how far a step may go")
norm.plot(step_axis, column("grad_norm"), color=ORANGE, lw=1)
log_scale(norm, 0.125, 0.25, 0.5, 1, 2)
norm.set(ylabel="norm of the gradient", xlabel="step", title="how steep it is")
balance.plot(step_axis, column("experts", "max_violation"), lw=1)
balance.legend(
    ["layer 1", "layer 2"], frameon=False, ncols=2, loc="upper right", bbox_to_anchor=(1, -0.2)
)
balance.set(ylabel="MaxVio", title="how unequal experts are", ylim=(0, None))
balance.set_xlabel("step", loc="left")
plt.show()

# %% [markdown]
# * **Loss.** The first fall is quick: which tokens are frequent at all. Then come the words that
#   follow from the ones beside them, and last what needs a look back: who `She` is, which colour
#   the kite had. Training and held out agree, because the source never repeats a story: nothing can
#   be learned by heart. Training lies a little higher: its rows begin in the middle of a story,
#   where nobody can know the hero.
# * **Learning rate.** It rises at first, since the first gradients are large and wild and Adam's
#   means of them are young, and falls at the end, when the weights would only jump around the
#   minimum.
# * **Norm of the gradient.** All weights together; what is above 1 is scaled down to 1 (`clip`). A
#   sudden peak warns of a bad batch, an `inf` of a bug.
# * **MaxVio.** The busiest expert's tokens over the mean, minus 1. It falls as the bias moves, which
#   no gradient does.

# %%
left = {step: (x.sum(-1) - exact_B) for step, x in surprise_BT.items()}
for step, difference in left.items():
    error = difference.std() / np.sqrt(len(difference))
    print(f"step {step:3}: KL = {difference.mean():7.2f} +- {error:.2f} nats per story")

kl = np.array([difference.mean() for difference in left.values()])
assert (kl > 0).all()  # no model is below the entropy
assert kl[-1] < kl[0] / 4

# %% [markdown]
# The loss is a mean. A look at single tokens says more: each bar is one token of a story, and its
# height is the model's surprise. Where the writer chooses, a good model *must* be surprised; where
# a word is repeated or agrees, the bar should vanish.

# %%
story = int(np.argmin([abs(len(text) - 105) for text in held_out]))
ids = tokenizer.encode(held_out[story])
words = [tokenizer.decode([token]).replace("\n", "¶") for token in ids]
place = np.arange(len(words))
figure, axis = plt.subplots(figsize=(9, 3.2))
middle = MEASURE_AT[3]
for step, color, shift in ((middle, ORANGE, -0.2), (STEPS, BLUE, 0.2)):
    heights = surprise_BT[step][story][target_BT[story]][: len(words)]
    label = f"step {step}: {heights.sum():.1f} nats"
    axis.bar(place + shift, heights, 0.4, color=color, label=label)
axis.set(ylabel="surprise (nats)", title=f"exact: {exact_B[story]:.1f} nats", xlim=(-1, len(words)))
axis.set_xticks(place, words, rotation=70, ha="right", rotation_mode="anchor", fontsize=8)
axis.grid(axis="x", visible=False)
axis.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 1.25))
plt.show()

# %% [markdown]
# ## Step 7: stop and go on, bit for bit
#
# A run that is killed must be the same run after it is started again: not a similar one. We saved
# at three quarters. Now the project's own `fit` finds that checkpoint in the run folder and does
# the last quarter. It knows nothing of our state and of our loop. In a new process it would do the
# same: what it reads is on the disk.

# %%
from seekjax import fit

printed = io.StringIO()
with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
    fitted = fit(config)
print(*[line for line in printed.getvalue().splitlines() if "resuming" in line], sep="\n")

ours, theirs = jax.tree.leaves(state.params), jax.tree.leaves(fitted.state.params)
assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
moments = zip(jax.tree.leaves(state.opt_state), jax.tree.leaves(fitted.state.opt_state))
assert all(np.array_equal(a, b) for a, b in moments)
print(f"{sum(a.size for a in ours):,} weights, and their moments: every bit is equal")

# %% [markdown]
# Three things make this work, and each is easy to forget:
#
# 1. **The position in the data** is part of the checkpoint, so no batch is read twice or left out.
# 2. **Randomness is a function of the step**: a key is folded with the step number, never carried
#    on by hand.
# 3. **Everything that moves is in the state**: the moments of Adam, the biases of the routers, the
#    step that the learning rate is read from.

# %% [markdown]
# ## Step 8: one idea of your own, and an honest comparison
#
# V3 scores an expert by $\sigma(z)$ of the router's logit $z$ (equation 15). DeepSeek-V4 has
# another score: $\sqrt{\ln(1 + e^z)}$. It does not saturate: a large logit still makes a larger
# score. Is it better *here*? A router score is a function from logits to positive numbers. Write
# it, and name it `module:function` in the config: this notebook is the module `__main__`.

# %%
from seekjax.model.routing import SCORES, sigmoid


def root_softplus(logit_BTE):
    """Score every expert by itself, without an upper limit."""
    return jnp.sqrt(jax.nn.softplus(logit_BTE))


mine = replace(config, model=replace(config.model, scoring="__main__:root_softplus"))
assert SCORES.find(mine.model.scoring) is root_softplus

z = jnp.linspace(-6, 6, 200)
figure, axis = plt.subplots(figsize=(6, 2.6))
axis.plot(z, sigmoid(z), color=BLUE, label="sigmoid (V3)")
axis.plot(z, root_softplus(z), color=RED, label="root of softplus (V4)")
axis.set(xlabel="logit of the router", ylabel="score")
legend_beside(axis)
plt.show()

# %% [markdown]
# **One run each proves nothing.** Another seed gives other first weights and another order of the
# stories, and the loss moves by more than many ideas do. So we train both scores with several
# seeds. Both see the same stories with the same seed: what one seed makes hard is hard for both,
# and the *difference within a seed* is less noisy than the losses themselves.
#
# We compare the mean training loss of the last steps. No story comes twice, so these are stories
# that the model has not seen.

# %%
from seekjax.data import train_batches
from seekjax.train.source import BatchSource
from seekjax.train.state import RunSpec
from seekjax.train.step import compile_steps


def losses_of(config, step, seed):
    """Train for a while from one seed; return the loss of each step."""
    own = replace(config, train=replace(config.train, seed=seed))
    batches = train_batches(own.data, training.corpus, tokenizer, batch=own.train.batch, seed=seed)
    source, state = BatchSource(own, batches), RunSpec(own).start()
    losses = []
    for number in range(COMPARED):
        state, metrics = step(state, source.batch(number, state))
        losses.append(metrics["loss"])
    return np.array(jax.device_get(losses))


# %%
with use_mesh(config.mesh):
    step_of_mine, _ = compile_steps(RunSpec(mine), tokenizer.bytes_V)
    sigmoid_SX = np.array([losses_of(config, parts.step, seed) for seed in SEEDS])
    mine_SX = np.array([losses_of(mine, step_of_mine, seed) for seed in SEEDS])

# %%
LAST = COMPARED // 4
steps = np.arange(1, COMPARED + 1)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6))
for loss_SX, color, name in ((sigmoid_SX, BLUE, "sigmoid"), (mine_SX, RED, "root of softplus")):
    left.plot(steps, loss_SX.T, color=color, lw=0.8, alpha=0.7)
    left.plot([], [], color=color, label=f"{name}, {len(SEEDS)} seeds")
left.axhline(floor, color="black", ls="--", lw=1.5, label="entropy")
log_scale(left, 0.5, 1, 2, 4)
left.set(xlabel="step", ylabel="loss (nats per token)")
right.plot(steps, (mine_SX - sigmoid_SX).T, lw=0.8)
right.axhline(0, color="black", lw=1)
right.set(xlabel="step", ylabel="difference within a seed", ylim=(-0.1, 0.1))
for axis in (left, right):
    axis.axvspan(COMPARED - LAST, COMPARED, color="black", alpha=0.08, lw=0, label="compared")
left.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
plt.show()

# %%
a, b = sigmoid_SX[:, -LAST:].mean(-1), mine_SX[:, -LAST:].mean(-1)
difference = b - a
n = len(SEEDS)
half = stats.t.ppf(0.975, n - 1) * difference.std(ddof=1) / np.sqrt(n)  # Student's t
low, high = difference.mean() - half, difference.mean() + half
print(f"sigmoid           {a.mean():.4f}, spread over seeds {a.std(ddof=1):.4f}")
print(f"root of softplus  {b.mean():.4f}, spread over seeds {b.std(ddof=1):.4f}")
print(f"difference        {difference.mean():+.4f}, 95 % interval {low:+.4f} to {high:+.4f}")
print(f"the mean is {100 * difference.mean() / a.mean():+.2f} % of the loss")
if low <= 0 <= high:
    print("0 is inside: these runs cannot tell the two apart.")
else:
    print("0 is outside: here, at this size and length, the scores differ.")

# %% [markdown]
# **What such runs can say, and what they cannot.**
#
# * The interval speaks of *this* model, *this* text and *this* length. A score that wins in the
#   first hundred steps of a model of a hundred thousand weights may lose after ten trillion tokens.
# * A learning rate that suits one score may not suit the other. We used the one that we had for the
#   sigmoid. A fair comparison would search for each.
# * An interval that holds 0 does not say that the two are *equal*, only that the difference is
#   smaller than what these runs can see. Its width says how small.
# * Try twenty ideas, and one of them will fall outside its 95 % interval by luck. Decide what you
#   compare before you look.

# %% [markdown]
# ## Exercises
#
# **1.** `xz` and other compressors are measured in bits per byte of text. What is the lowest number
# of bits per byte that any model or compressor can reach on these stories? You need
# `stories.entropy()`, in nats per story, and `stories.expected_bytes()`.

# %%
answer_1 = None

# %%
check(
    answer_1,
    stories.entropy() / np.log(2) / stories.expected_bytes(),
    "A bit is ln 2 nats.",
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# About 0.19: eight times shorter than one would think from a glance at English text, for the
# grammar leaves little to choose.
#
# ```python
# answer_1 = stories.entropy() / np.log(2) / stories.expected_bytes()
# ```
#
# </details>

# %% [markdown]
# **2.** The differences within a seed have a standard deviation of 0.012 nats. How many seeds does it
# take until the half-width of the 95 % interval is 0.004? Use $1.96\, s / \sqrt{n}$ and round up.

# %%
answer_2 = None

# %%
check(answer_2, 35, "Solve 1.96 * 0.012 / sqrt(n) = 0.004 for n.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# Half the width costs four times the seeds. This is why small ideas are compared at great cost.
#
# ```python
# answer_2 = int(np.ceil((1.96 * 0.012 / 0.004) ** 2))
# ```
#
# </details>

# %% [markdown]
# **3.** Write another router score: a function from any logits to positive numbers, larger for
# larger logits. Then train with it as above: only the name in `mine` changes.

# %%
answer_3 = None


# %%
def is_score(score):
    """Return whether a function gives positive scores that rise with the logit."""
    logit = jnp.linspace(-8, 8, 33)
    value = np.asarray(score(logit))
    return value.shape == logit.shape and (value > 0).all() and (np.diff(value) > 0).all()


check(answer_3, is_score, "Positive everywhere, also at -8, and never flat.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# One of many: the exponential without softmax's division. Its gates grow without limit, so training
# with it wants a smaller learning rate.
#
# ```python
# def answer_3(logit_BTE):
#     return jnp.exp(logit_BTE)
# ```
#
# </details>

# %% [markdown]
# ## What to read next
#
# * V3, section 4.2 (its hyper-parameters), section 2.1.2 (balance) and appendix C;
#   [2408.15664](https://arxiv.org/abs/2408.15664), where the bias was compared with the loss.
# * `seekjax/train/loop.py`: `fit`, with everything that this notebook left out;
#   `seekjax/train/guard.py`: what happens to an update that goes bad.
# * `python train.py tiny` trains a model on the source code of Python in five minutes, and draws
#   these curves. `--model.scoring my_module:my_score` takes your score there.
# * Next: [reinforcement](08_reinforcement.ipynb), where the batches are what the model itself
#   wrote.
