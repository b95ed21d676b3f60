# %% [markdown]
# # 3 · Multi-token prediction
#
# **After this notebook you will be able to**
#
# * say which token a prediction module reads, which one it predicts, and what it costs;
# * train with and without it, and let it **draft**: write two tokens in one step of the model;
# * explain why a draft changes how fast a text is written and never *what* is written, and test
#   that claim by counting, with a bound from statistics.
#
# 30 minutes to read, about a minute to run on a laptop. You need: cross entropy, and sampling from
# a softmax.
#
# V3 is the paper of [DeepSeek-V3](https://arxiv.org/abs/2412.19437). The outputs that you see here
# are those of longer runs: `SEEKJAX_NOTEBOOKS=full jupyter lab` repeats them in a few minutes.

# %%
import contextlib
import io
import os
from collections import Counter
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
STEPS = 120 if FULL else 20  # of each run
SEEDS = (0, 1) if FULL else (0,)
ROWS = 4096 if FULL else 512  # texts that are sampled at once

# %% [markdown]
# ## The idea in words
#
# A language model predicts the next token and nothing beyond it. While it reads "the red", it need
# not know yet whether a *kite* comes. Multi-token prediction (MTP) asks for more: a small **module**
# looks at what the model has made of "the", is told that the next token is "red", and has to say
# the one after that. So the model's state at "the" must already hold the plan *red kite*. That
# trains it more densely, and V3 reports better models from it (table 4).
#
# The second use comes later. When the model has written "the", the module can guess the token after
# the next one without running the model: a **draft**. The model then reads both tokens in one step
# and keeps the draft if it is right. It is like a quick assistant who drafts the next word of a
# letter; the author reads it and says yes, or writes another word. The letter is the author's.
#
# In numbers: which token does module 1 read and predict at each position?

# %%
from seekjax.model.mtp import ahead

text = ["Mia", "had", "a", "red", "kite", "."]
tokens_BX = jnp.arange(len(text))[None]
T = 4
reads_BT, predicts_BT = ahead(tokens_BX, 1, T), ahead(tokens_BX, 2, T)
print("position   the model has read up to   module 1 reads   module 1 predicts")
for i in range(T):
    print(f"{i:8}   {text[i]:>24} {text[reads_BT[0, i]]:>16} {text[predicts_BT[0, i]]:>19}")
assert (predicts_BT[0] == np.arange(T) + 2).all()  # t_{i+k+1} with k = 1, below equation 22

# %% [markdown]
# ## The equations
#
# Module $k$ joins the state of the depth before with the embedding of the token $k$ ahead (V3,
# 21), runs one block of the transformer, and predicts through the *shared* output head (22, 23):
#
# $$h'^{\,k}_i = M_k\,[\mathrm{RMSNorm}(h^{k-1}_i);\ \mathrm{RMSNorm}(\mathrm{Emb}(t_{i+k}))],
#   \qquad P^k_{i+k+1} = \mathrm{OutHead}(\mathrm{Block}_k(h'^{\,k})_i)$$
#
# Its loss is a cross entropy (24), and the mean over $D$ depths counts with a weight $\lambda$ (25):
#
# $$\mathcal{L}_\text{MTP} = \frac{\lambda}{D} \sum_{k=1}^{D}
#   \left(-\frac1T \sum_{i} \ln P^k_{i}[t_{i}]\right)$$
#
# V3 has one module ($D = 1$), with $\lambda = 0.3$ for the first 10 of 14.8 trillion tokens and 0.1
# after that.

# %%
from seekjax.model.mtp import PredictionModule

show_source(PredictionModule.__call__)

# %% [markdown]
# What it costs for V3: one more layer with its experts and the matrix $M_1$. Embedding and head
# are shared. After training it may be thrown away: the main model does not need it.

# %%
from configs import v3
from seekjax.model.count import parameters
from seekjax.train.schedule import mtp_weight

count = parameters(v3.config.model)
print(f"module {count.mtp / 1e9:.2f}B of weights, main model {count.total / 1e9:.0f}B")
join = 2 * v3.config.model.embed**2
assert round((count.mtp - join) / 1e9, 1) == 11.5  # README_WEIGHTS of V3, which leaves out M_1
weight, steps = mtp_weight(v3.config), v3.config.train.steps
assert np.isclose(weight(0.60 * steps), 0.3)  # V3, section 4.2
assert np.isclose(weight(0.75 * steps), 0.1)

# %% [markdown]
# ## Step 1: train with and without
#
# A small model of two layers reads little stories: three sentences in which a name, a colour and a
# place come back ([notebook 5](05_train_a_model.ipynb) looks at them closely). We train it with one
# module and with none, from the same seeds and on the same stories.

# %%
from seekjax.config import (
    Config,
    DataConfig,
    KernelConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from seekjax.train.pretrain import Pretraining

WITH = Config(
    model=ModelConfig(
        vocab=512, embed=64, layers=2, dense_layers=0, mtp_depth=1, init_std=0.1,
        heads=4, q_latent=32, kv_latent=32, nope=16, rotary=16, value=16,
        experts=8, experts_per_token=2, expert_hidden=64,
    ),
    data=DataConfig(sources=("stories",), sequence=128),
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup=STEPS // 20),
    kernel=KernelConfig(remat="none", attention="plain"),
    train=TrainConfig(steps=STEPS, batch=16 if FULL else 8, balance_rate=0.01),
)  # fmt: skip
WITHOUT = replace(WITH, model=replace(WITH.model, mtp_depth=0))
with contextlib.redirect_stderr(io.StringIO()):  # the clock of the tokenizer
    corpus_and_tokenizer = Pretraining(replace(WITH, out=Path("unused")))
corpus, tokenizer = corpus_and_tokenizer.corpus, corpus_and_tokenizer.tokenizer

# %%
from seekjax.data import train_batches
from seekjax.placement import use_mesh
from seekjax.train.source import BatchSource
from seekjax.train.state import RunSpec
from seekjax.train.step import compile_steps


def train(config, step, seed):
    """Train from a seed; return the last state, and what each step reports."""
    own = replace(config, train=replace(config.train, seed=seed))
    rows, data = own.train.batch, own.data
    source = BatchSource(own, train_batches(data, corpus, tokenizer, batch=rows, seed=seed))
    state, history = RunSpec(own).start(), []
    for number in range(STEPS):
        state, metrics = step(state, source.batch(number, state))
        history.append({name: metrics[name] for name in ("loss", "mtp_loss")})
    return state, {name: np.array([row[name] for row in history]) for name in history[0]}


with use_mesh(WITH.mesh):
    runs = {}
    for name, config in (("with", WITH), ("without", WITHOUT)):
        step, _ = compile_steps(RunSpec(config), tokenizer.bytes_V)
        runs[name] = [train(config, step, seed) for seed in SEEDS]
state = runs["with"][0][0]

# %%
figure, axis = plt.subplots(figsize=(8, 3.6))
lines = (
    ("with", "loss", BLUE, "next token, with the module"),
    ("without", "loss", ORANGE, "next token, without"),
    ("with", "mtp_loss", GREEN, "the token after, by the module"),
)
for run, metric, color, label in lines:
    for _, history in runs[run]:
        axis.plot(np.arange(1, STEPS + 1), history[metric], color=color, lw=0.9, label=label)
        label = None
axis.set(xlabel="step", ylabel="loss (nats per token)", yscale="log")
axis.set_yticks((0.5, 1, 2, 4), (0.5, 1, 2, 4))
axis.minorticks_off()
legend_beside(axis)
plt.show()

# %%
last = STEPS // 5
for run, metric, _, label in lines:
    means = [history[metric][-last:].mean() for _, history in runs[run]]
    each = ", ".join(f"{mean:.3f}" for mean in means)
    print(f"{label:31} {np.mean(means):.3f}   (each seed: {each})")
first = [history["loss"][0] for _, history in runs["with"]]
assert np.mean(means) < np.mean(first) - 1  # the module learns

# %% [markdown]
# **What to expect of the module.** It predicts token $i + 2$, and it knows all tokens up to
# $i + 1$, since it was told the last one. The main model knows the same when it predicts token
# $i + 2$, one position later. So the lowest possible loss is the *same* for both. What differs is
# the way: in the main model token $i + 1$ passes through all layers, in the module through one, but
# there it meets what the main model has made of all tokens before. In a deep model the module
# misses more. Our model has two layers, and a module that stands on them keeps up with it.
#
# **Did the main model gain?** V3's table 4 measures gains at 16B and 229B parameters. Here the two
# lines of the next token lie close to each other, and a few seeds of a model of this size could not
# show a small difference anyway (notebook 5, step 8).

# %% [markdown]
# ## Step 2: nothing looks into the future
#
# The module is *told* the next token, so it is easy to leak the answer by mistake. A test: change
# the token at position 10 and see where the outputs change. The main model may change from position
# 10 on. Module 1 reads one token ahead, so it may change from position 9 on, and not before.

# %%
from seekjax.model.transformer import Transformer, logits

WIDTH, BATCH = 34, 256
transformer = Transformer(WITH.model, WITH.kernel)


@jax.jit
def log_probs_of(params, balance, tokens_BX):
    """Return log p of the next token by the model, and of the one after by the module."""
    variables = {"params": params, "balance": balance}
    output = transformer.apply(variables, tokens_BX[:, :-1], mtp_tokens_BX=tokens_BX)
    by_module = output._replace(hidden_BTD=output.mtp_BTD[0])
    return jax.nn.log_softmax(logits(output)), jax.nn.log_softmax(logits(by_module))


# %%
held_out = corpus.source("stories").held_out
ids = [[tokenizer.eos, *tokenizer.encode(held_out[i]), *[tokenizer.eos] * WIDTH]
       for i in range(BATCH)]  # fmt: skip
story_BX = np.array([row[:WIDTH] for row in ids], np.int32)
changed_BX = story_BX.copy()
changed_BX[:, 10] = tokenizer.encode("boat")[0]
before = log_probs_of(state.params, state.balance, story_BX)
after = log_probs_of(state.params, state.balance, changed_BX)
changes = [np.abs(a - b).max((0, 2)) > 1e-4 for a, b in zip(before, after)]
firsts = [int(change_T.argmax()) for change_T in changes]
print("first position that changes:", dict(zip(("model", "module"), firsts)))
assert firsts == [10, 9]

# %% [markdown]
# ## Step 3: how often will a draft be right?
#
# Let $p$ be the model's distribution of a token and $q$ the module's. A draft is drawn from $q$.
# We will keep it with probability $\min(1, p/q)$ (step 4 says why), so it is kept with probability
#
# $$\beta = \sum_v q(v) \min\!\left(1, \frac{p(v)}{q(v)}\right) = \sum_v \min(p(v), q(v))$$
#
# This is 1 if both agree and 0 if they have no token in common. We can compute it for each position
# of the held-out stories, with no draft at all.

# %%
log_p_BTV, log_q_BTV = before
p_BTV, q_BTV = np.exp(log_p_BTV[:, 1:]), np.exp(log_q_BTV[:, :-1])  # both of token i + 2
is_text_BT = story_BX[:, 2:] != tokenizer.eos
overlap_BT = np.minimum(p_BTV, q_BTV).sum(-1)

figure, axis = plt.subplots(figsize=(7, 2.6))
axis.hist(overlap_BT[is_text_BT], bins=25, range=(0, 1), color=BLUE)
beta = overlap_BT[is_text_BT].mean()
axis.axvline(beta, color="black", ls="--", lw=1.5)
axis.text(beta, axis.get_ylim()[1] * 1.02, f"mean {beta:.2f}", ha="center")
axis.set(xlabel="probability that the draft is kept", ylabel="positions")
plt.show()

# %% [markdown]
# A kept draft need not be a *sure* one. Where a story may go on with any of eight things, and the
# module knows the eight and how likely each is, nearly each draft is kept: it is as good a draw as
# the model's own. Drafts are lost where the model knows something that the module does not.

# %% [markdown]
# ## Step 4: keep or draw again
#
# If a draft were always believed, the text would be the module's, not the model's. The
# rule of speculative sampling ([2211.17192](https://arxiv.org/abs/2211.17192)):
#
# 1. draw a draft $d \sim q$;
# 2. keep it with probability $\min(1, p(d)/q(d))$;
# 3. else draw from what $p$ has more of than $q$: $\max(p - q, 0)$, divided by its sum.
#
# A token $v$ then comes out with probability $\min(p(v), q(v))$ from the second line, and with
# $(1 - \beta) \cdot \max(p(v) - q(v), 0) / (1 - \beta)$ from the third. Together this is $p(v)$,
# exactly, whatever $q$ is. With numbers:

# %%
p, q = np.array([0.2, 0.5, 0.3]), np.array([0.5, 0.3, 0.2])
kept, more = np.minimum(p, q), np.maximum(p - q, 0)
print("kept drafts  ", kept, "  in all", kept.sum().round(2))
print("drawn again  ", (1 - kept.sum()) * more / more.sum())
assert np.allclose(kept + (1 - kept.sum()) * more / more.sum(), p)  # NumPy: p comes out

figure, axis = plt.subplots(figsize=(6, 2.6))
place = np.arange(3)
axis.bar(place - 0.2, q, 0.38, color=ORANGE, label="q: the module")
axis.bar(place + 0.2, kept, 0.38, color=BLUE, label="p: kept drafts")
axis.bar(place + 0.2, more, 0.38, bottom=kept, color=GREEN, label="p: drawn again")
axis.set_xticks(place, ["red", "blue", "green"])
axis.set(ylabel="probability")
axis.grid(axis="x", visible=False)
legend_beside(axis)
plt.show()

# %% [markdown]
# The project's function does this for each row of a batch:

# %%
from seekjax.generate.speculative import DRAW_DRAFT, accept_or_resample

show_source(accept_or_resample)

# %% [markdown]
# ## Step 5: count it
#
# "Exactly $p$" can be tested. We take $p$ and $q$ of our trained model at a position where the draft
# is kept half of the time, run the function many times, and count. Counts are never exactly what is
# expected, so how far may they be off? With $n$ draws, expected counts $n p_v$ and counts $c_v$,
#
# $$\chi^2 = \sum_v \frac{(c_v - n p_v)^2}{n p_v}$$
#
# follows a known law if the draws really come from $p$. It exceeds `bound` once in a million tests.
# If it does, the rule is wrong.


# %%
def chi_square(count_X, p_X):
    """Return chi squared of counts, and the bound; what is expected less than 5 times is joined."""
    expected_X = count_X.sum() * p_X
    often = expected_X >= 5
    count = np.append(count_X[often], count_X[~often].sum())
    expected = np.append(expected_X[often], expected_X[~often].sum())
    count, expected = count[expected > 1], expected[expected > 1]
    bound = stats.chi2.ppf(1 - 1e-6, len(count) - 1)
    return ((count - expected) ** 2 / expected).sum(), bound


# %%
from seekjax.generate.sampling import draw, position_key
from seekjax.seeds import row_keys

row, column = np.unravel_index(np.abs(overlap_BT - 0.5).argmin(), overlap_BT.shape)
p_V, q_V = p_BTV[row, column], q_BTV[row, column]
p_V, q_V = p_V / p_V.sum(dtype=np.float64), q_V / q_V.sum(dtype=np.float64)
p_BV, q_BV = (jnp.tile(jnp.log(x_V.astype(np.float32)), (ROWS, 1)) for x_V in (p_V, q_V))
key_B, position_B = row_keys(0, ROWS), jnp.full(ROWS, 7)
draft_B = draw(position_key(key_B, position_B, DRAW_DRAFT), q_BV)
kept_B, token_B = jax.jit(accept_or_resample)(key_B, position_B, draft_B, p_BV, q_BV)

right, bound = chi_square(np.bincount(token_B, minlength=512), p_V)
wrong, _ = chi_square(np.bincount(draft_B, minlength=512), p_V)
print(f"with the rule:            chi squared {right:10.1f}   bound {bound:.1f}")
print(f"if drafts were believed:  chi squared {wrong:10.1f}")
assert right < bound < wrong  # the rule passes, and the test can tell
share, error = float(kept_B.mean()), 0.5 / np.sqrt(ROWS)
print(f"kept {share:.3f}, expected {np.minimum(p_V, q_V).sum():.3f} +- {error:.3f}")
assert abs(share - np.minimum(p_V, q_V).sum()) < 5 * error

# %% [markdown]
# ## Step 6: the whole generator
#
# Now all of it together: cache, drafts, and up to two tokens in a step. Each of many texts begins
# with a few words of another held-out story. (The first token needs no step, and a text may end
# between the two tokens of its last one: so the tokens in a step lie below one and the share.)

# %%
from seekjax.generate.generator import Generator
from seekjax.generate.sampling import Sampling

NEW, PROMPT = 16, 9
prompts = [[tokenizer.eos, *tokenizer.encode(held_out[i])[: PROMPT - 1]] for i in range(ROWS)]
rows = {}
with use_mesh(WITH.mesh):
    variables = {"params": state.params, "balance": state.balance}
    generator = Generator(WITH.model, variables, WITH.kernel, draft=True)
    for temperature in (0.0, 1.0):
        generation = generator.stream(prompts, Sampling(NEW, temperature), chunk=NEW)
        rows[temperature] = [completion.ids for completion in generation.finish()]
        accepted = generation.accepted / generation.row_steps
        per_step = (generation.tokens - ROWS) / generation.row_steps
        print(f"temperature {temperature:.0f}: {accepted:5.1%} of drafts kept, "
              f"{per_step:.2f} tokens in a step")  # fmt: skip
print(repr(tokenizer.decode(prompts[0][1:]) + " |" + tokenizer.decode(rows[1.0][0])))

# %% [markdown]
# **Greedy text is the same.** At temperature 0 each token must be the most likely one. We ask the
# model *without* a cache and without drafts: the function of step 2, on the finished texts.

# %%
wrong = 0
text_BX = np.full((BATCH, WIDTH), tokenizer.eos, np.int32)
for row in range(BATCH):
    text = [*prompts[row], *rows[0.0][row]]
    text_BX[row, : len(text)] = text
log_p_BTV, _ = map(np.asarray, log_probs_of(state.params, state.balance, text_BX))
new = slice(PROMPT - 1, PROMPT - 1 + NEW)
best_BT = log_p_BTV[:, new].max(-1)
written_BT = np.take_along_axis(log_p_BTV[:, new], text_BX[:, PROMPT : PROMPT + NEW, None], -1)
assert np.abs(best_BT - written_BT[..., 0]).max() < 1e-3  # the best, but for rounding
print(f"{BATCH * NEW:,} tokens with drafts: each is the model's most likely one")

# %% [markdown]
# **Sampled text has the same distribution.** We let all rows begin with `Mia had a` and keep the 3
# most likely tokens at each place (`top_k=3`), so that there are at most 243 texts of five tokens.
# The exact probability of each is a product of five numbers from the model without a cache. Then
# we count. The bars at the points are two standard deviations of such a count.


# %%
def next_tokens(texts):
    """Return for each text its 3 most likely next tokens, and their probabilities among the 3."""
    tokens_BX = np.full((BATCH, WIDTH), tokenizer.eos, np.int32)
    for row, text in enumerate(texts):
        tokens_BX[row, : len(text)] = text
    log_p_BTV = np.asarray(log_probs_of(state.params, state.balance, tokens_BX)[0], np.float64)
    answers = []
    for row, text in enumerate(texts):
        best = np.argsort(-log_p_BTV[row, len(text) - 1])[:3]
        p = np.exp(log_p_BTV[row, len(text) - 1, best])
        answers.append((best, p / p.sum()))
    return answers


start = [tokenizer.eos, *tokenizer.encode("Mia had a")]
exact = {(): 1.0}
for _ in range(5):
    texts = [[*start, *new] for new in exact]
    longer = {}
    for (new, p_new), (best, p) in zip(exact.items(), next_tokens(texts)):
        longer |= {(*new, int(v)): p_new * p_v for v, p_v in zip(best, p)}
    exact = longer
assert np.isclose(sum(exact.values()), 1)

# %%
with use_mesh(WITH.mesh):
    sampling = Sampling(NEW, temperature=1.0, top_k=3, seed=1)
    completions = generator([start] * ROWS, sampling)
counted = Counter(tuple(completion.ids[:5]) for completion in completions)
assert set(counted) <= set(exact)  # no text that should be impossible

p_X = np.array(list(exact.values()))
count_X = np.array([counted[text] for text in exact])
order = np.argsort(-p_X)[:18]
figure, axis = plt.subplots(figsize=(8, 3.6))
axis.bar(range(len(order)), ROWS * p_X[order], color=BLUE, alpha=0.4, label="exact")
spread = 2 * np.sqrt(ROWS * p_X[order] * (1 - p_X[order]))
axis.errorbar(range(len(order)), count_X[order], spread, fmt="o", color=RED, ms=4, label="counted")
names = [tokenizer.decode(list(exact)[i]).replace("\n", "¶") for i in order]
axis.set_xticks(range(len(order)), names, rotation=40, ha="right", fontsize=8)
axis.set(ylabel=f"texts of {ROWS:,}", yscale="log")
legend_beside(axis)
plt.show()
found, bound = chi_square(count_X, p_X)
print(f"chi squared {found:.1f}, bound {bound:.1f}")
assert found < bound

# %% [markdown]
# ## Step 7: what it is worth
#
# With acceptance $\beta$ a step writes $1 + \beta$ tokens on average. Our stories are easy to
# foresee, so our drafts are kept more often than those of a model that writes about everything. V3
# reports 85 to 90 % and 1.8
# times as many tokens per second (section 5.4.3). A step of two tokens is as fast as a step of one
# where reading the weights takes most of the time, as on a GPU with few texts. On a CPU it takes
# twice as long, so there `seekjax` drafts only with `--draft`.

# %%
beta_axis = np.linspace(0, 1, 50)
figure, axis = plt.subplots(figsize=(7, 3))
axis.plot(beta_axis, 1 + beta_axis, color=BLUE, label="one draft: $1 + \\beta$")
two = 1 + beta_axis + beta_axis**2
axis.plot(beta_axis, two, color=GREEN, label="two drafts: $1 + \\beta + \\beta^2$")
axis.axvspan(0.85, 0.90, color=ORANGE, alpha=0.4, lw=0, label="V3's acceptance")
axis.plot([accepted], [per_step], "o", color=RED, label="our model, sampled")
axis.set(xlabel="share of drafts that are kept", ylabel="tokens in a step")
legend_beside(axis)
plt.show()
assert 1.8 <= 1 + 0.85 < 1 + 0.90 <= 1.9 + 1e-9  # V3's 1.8x lies below what 1 + beta allows

# %% [markdown]
# ## Exercises
#
# **1.** The model says $p = (0.6, 0.3, 0.1)$, the module $q = (0.2, 0.5, 0.3)$. How often is the
# draft kept?

# %%
answer_1 = None

# %%
check(answer_1, 0.6, "Sum the smaller of the two over the tokens.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# answer_1 = np.minimum([0.6, 0.3, 0.1], [0.2, 0.5, 0.3]).sum()
# ```
#
# </details>

# %% [markdown]
# **2.** Same $p$ and $q$. From which distribution is a token drawn after a draft was *not* kept?
# Answer with three numbers.

# %%
answer_2 = None

# %%
check(answer_2, lambda answer: np.allclose(answer, [1, 0, 0]), "What does p have more of than q?")

# %% [markdown]
# <details><summary>Solution</summary>
#
# Only the first token is more likely under $p$. A draft that is not kept was one of the other two,
# so the first token is always what replaces it.
#
# ```python
# more = np.maximum(np.array([0.6, 0.3, 0.1]) - np.array([0.2, 0.5, 0.3]), 0)
# answer_2 = more / more.sum()
# ```
#
# </details>

# %% [markdown]
# **3.** A step that reads 2 tokens takes 1.15 times as long as a step that reads 1. Which acceptance
# does a draft need, so that text is written 1.5 times as fast?

# %%
answer_3 = None

# %%
check(answer_3, 0.725, "The speed is (1 + acceptance) / 1.15.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# answer_3 = 1.5 * 1.15 - 1
# ```
#
# </details>

# %% [markdown]
# ## What to read next
#
# * V3, sections 2.2 (the modules), 4.5.1 (table 4: with and without), 5.4.3 (acceptance).
# * [2211.17192](https://arxiv.org/abs/2211.17192): the proof, and how many drafts are best.
# * `seekjax/model/mtp.py`, `seekjax/generate/speculative.py`: the two files of this notebook;
#   `tests/generate/test_speculative.py` counts as we did.
# * Next: [sharding](04_sharding.ipynb), or [train a model](05_train_a_model.ipynb).
