# %% [markdown]
# # 8 · Reinforcement
#
# **After this notebook you will be able to**
#
# * say what GRPO maximises, and compute the advantage of a sample and the clip of a ratio by hand;
# * choose an estimator of the KL divergence by its *gradient*, and show that two popular ones pull
#   in the wrong direction or not at all;
# * reinforce a small model from nothing but right and wrong, tell learning from luck by a control,
#   and recognise a reward that teaches the wrong thing.
#
# 30 minutes to read, about a minute to run on a laptop. You need: a model that writes tokens, and
# gradients. [Notebook 5](05_train_a_model.ipynb) trains a model the ordinary way.
#
# Papers: [DeepSeekMath](https://arxiv.org/abs/2402.03300) (GRPO),
# [R1](https://arxiv.org/abs/2501.12948), [V3.2](https://arxiv.org/abs/2512.02556). Axes: **P**
# prompts, **G** samples of one prompt (a *group*), **B** sequences, **T** tokens.

# %%
import json
import os
import random
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from tempfile import mkdtemp

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from configs.countdown import config as countdown
from configs.grpo import config as grpo
from seekjax.config import GrpoConfig, SftConfig
from seekjax.config.recipes import find_recipe
from seekjax.data.split import hash_fraction
from seekjax.notebook import BLUE, GREEN, ORANGE, RED, check, legend_beside, set_look, show_source
from seekjax.post.rl.grpo import Reinforcement
from seekjax.post.rl.objective import advantages, clipped, kl_estimate, standardised
from seekjax.post.tune.sft import FineTuning
from seekjax.tasks import find_task
from seekjax.train import metrics
from seekjax.train.loop import fit

set_look()
full = os.environ.get("SEEKJAX_NOTEBOOKS", "full") == "full"  # tests train a shorter time

# %% [markdown]
# ## The idea in words
#
# A pupil who is shown solved problems learns to copy them. That is fine-tuning. A pupil who is only
# told *right* or *wrong* must try, and remember what worked. That is **reinforcement**. It needs no
# solutions, only somebody, or a program, that can check an answer.
#
# How good is "right"? That depends on the problem. Right on a problem that the pupil always solves
# says nothing. So **GRPO** lets the model answer the *same* problem several times, and compares
# each answer with the others of its group. Better than the mean of the group: make it more likely.
# Worse: less likely. If all are right, or all wrong, there is nothing to learn from this group.
#
# The problems of this notebook are sums, written column by column as on paper:

# %%
addition = find_task("addition")
problem = addition.make(random.Random(5), level=2)
thought, answer = addition.solve(problem, random.Random(0))
print(f"{problem.prompt}\n{thought}\nanswer: {answer}")
for text in (answer, "7", "I do not know"):
    print(f"{text!r:16} {addition.verify(problem, text)}")
assert addition.verify(problem, answer).reward == 1  # the verifier's own solution is right

# %% [markdown]
# ## Step 1: the advantage
#
# DeepSeekMath, section 4.1.2, for the rewards $r_1 \dots r_G$ of a group:
#
# $$\hat A_i = \frac{r_i - \mathrm{mean}(r)}{\mathrm{std}(r)}$$
#
# V3.2 leaves the division out ($\hat A_i = r_i - \mathrm{mean}(r)$): dividing makes an almost
# solved problem, whose rewards hardly differ, count as much as one on the edge.

# %%
show_source(standardised)

# %%
rewards_PG = jnp.array(
    [
        [1.0, 0.0, 0.0, 0.0],  # one of four is right
        [1.0, 1.0, 1.0, 0.0],  # one of four is wrong
        [1.0, 1.0, 1.0, 1.0],  # all are right: no signal
    ]
)
valid_PG = jnp.ones_like(rewards_PG, bool)
by_paper_PG = advantages(rewards_PG, valid_PG, "standardised")
by_v3_2_PG = advantages(rewards_PG, valid_PG, "centred")
for reward_G, standard_G, centred_G in zip(rewards_PG, by_paper_PG, by_v3_2_PG, strict=True):
    print(reward_G, "standardised", np.round(standard_G, 2), " centred", np.round(centred_G, 2))

# Independent lines of NumPy
r = np.array(rewards_PG)
np.testing.assert_allclose(by_v3_2_PG, r - r.mean(1, keepdims=True), atol=1e-6)
expected = (r[:2] - r[:2].mean(1, keepdims=True)) / r[:2].std(1, ddof=1, keepdims=True)
np.testing.assert_allclose(by_paper_PG[:2], expected, atol=1e-4)
assert not np.any(by_paper_PG[2])  # exactly zero, not rounding that a division would blow up

# %% [markdown]
# How often does a group teach anything? If the model is right with probability $p$, a group of $G$
# has both kinds of answers with probability $1 - p^G - (1 - p)^G$. This is why reinforcement does
# not start from a model that is never right, and why a run first *samples* and refuses to begin if
# nothing can be learnt.

# %%
p = np.linspace(0, 1, 201)
figure, axis = plt.subplots(figsize=(8, 3.4))
for group, colour in ((4, BLUE), (8, GREEN), (16, RED)):
    axis.plot(p, 1 - p**group - (1 - p) ** group, color=colour, label=f"groups of {group}")
axis.set(xlabel="probability of a right answer", ylabel="share of groups with a signal")
legend_beside(axis)
plt.show()
signal = 1 - 0.05**16 - 0.95**16
assert round(signal, 2) == 0.56  # a model that is right once in twenty tries

# %% [markdown]
# ## Step 2: the ratio and its clip
#
# The answers were written by the policy as it was, $\pi_{old}$; with every update the policy $\pi$
# moves away from it. The ratio of each token tells how far, and the objective (DeepSeekMath,
# equation 3, without its KL) stops paying once it is far enough:
#
# $$\frac1G \sum_i \frac1{|o_i|} \sum_t \min\left(w_{it} \hat A_i,\;
# \mathrm{clip}(w_{it}, 1-\varepsilon, 1+\varepsilon)\, \hat A_i\right),\qquad
# w_{it} = \frac{\pi(o_{it})}{\pi_{old}(o_{it})}$$

# %%
show_source(clipped)

# %%
objective = find_recipe("grpo")
ratio_BT = jnp.linspace(0.4, 1.6, 241)[None]
figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=False)
for axis, advantage in zip(axes, (1.0, -1.0), strict=True):
    surrogate = clipped(objective, ratio_BT, jnp.log(ratio_BT), jnp.array([[advantage]]))
    axis.plot(ratio_BT[0], surrogate.value_BT[0])
    axis.axvline(1.0, color="grey", linewidth=1)
    title = "better than the group" if advantage > 0 else "worse than the group"
    axis.set(xlabel="ratio w", ylabel="objective", title=f"{title}: A = {advantage:+.0f}")
plt.show()

# PPO's formula, in NumPy
w = np.array(ratio_BT)
low, high = 1 - objective.clip_low, 1 + objective.clip_high
for advantage in (1.0, -1.0):
    surrogate = clipped(objective, ratio_BT, jnp.log(ratio_BT), jnp.array([[advantage]]))
    expected = np.minimum(w * advantage, np.clip(w, low, high) * advantage)
    np.testing.assert_allclose(surrogate.value_BT, expected, atol=1e-6)

# %% [markdown]
# Read the left picture: a good answer earns more as it gets more likely, up to 1.2 times; from
# there the curve is flat, so its gradient is zero and nobody pushes further. The right picture: a
# bad answer stops being pushed down at 0.8 times. In the other directions there is no bound: if
# the policy moves the wrong way, the gradient brings it back.
#
# Each paper sets this its own way. A recipe of seekjax is one line of settings:

# %%
print(f"{'recipe':9} {'advantage':13} {'clip':12} {'average':10} {'KL':>6}")
for name in ("grpo", "r1", "v3_2", "dr_grpo", "dapo", "gspo", "cispo"):
    o = find_recipe(name)
    clip = f"-{o.clip_low:g} +{o.clip_high:g}"
    print(f"{name:9} {o.advantage:13} {clip:12} {o.average:10} {o.kl:6g}")
assert find_recipe("grpo").kl == 0.04  # DeepSeekMath section 4.2
assert find_recipe("dapo").clip_high == 0.28  # DAPO (2503.14476) section 4.1

# %% [markdown]
# ## Step 3: the KL divergence, and a trap
#
# A second term keeps the policy near a reference,
# $\beta\, \mathbb{D}_{KL}(\pi \| \pi_{ref})$. The sum over
# all texts is out of reach, so it is *estimated* from the tokens that were drawn. There are several
# estimators with the same mean. But training follows the **gradient** of the estimator, and that is
# another matter.

# %%
show_source(kl_estimate)

# %% [markdown]
# With five tokens everything can be summed exactly. The policy has five logits; the expected value
# and the expected gradient of each estimator are sums over the five draws.

# %%
logits = jnp.array([0.5, -0.3, 0.1, 0.9, -0.6])
ref = jax.nn.log_softmax(jnp.array([0.2, 0.6, 0.5, -0.4, 0.3]))


def exact(logits):
    logp = jax.nn.log_softmax(logits)
    return (jnp.exp(logp) * (logp - ref)).sum()


def expected_estimate(logits, form):
    old = jax.nn.log_softmax(jax.lax.stop_gradient(logits))  # who drew the tokens
    estimate = kl_estimate(form, jax.nn.log_softmax(logits), ref, old)
    return (jnp.exp(old) * estimate).sum()


FORMS = ("k1", "k2", "k3", "unbiased")
true = jax.grad(exact)(logits)
gradients = {form: jax.grad(expected_estimate)(logits, form) for form in FORMS}
print(f"{'KL exactly':10} {exact(logits):.4f}  gradient {np.round(true, 3)}")
for form, gradient in gradients.items():
    print(f"{form:10} {expected_estimate(logits, form):.4f}  gradient {np.round(gradient, 3)}")

# %%
place = np.arange(5)
figure, axis = plt.subplots(figsize=(8, 3.4))
axis.bar(place - 0.3, true, 0.2, color="black", label="exact")
for shift, (form, colour) in enumerate(zip(FORMS[1:], (GREEN, RED, BLUE), strict=True)):
    axis.bar(place - 0.1 + 0.2 * shift, gradients[form], 0.2, color=colour, label=form)
axis.set(xlabel="logit of token", ylabel="gradient of the KL term")
legend_beside(axis)
plt.show()

np.testing.assert_allclose(gradients["k1"], 0, atol=1e-6)  # trains nothing
np.testing.assert_allclose(gradients["k2"], true, atol=1e-6)
np.testing.assert_allclose(gradients["unbiased"], true, atol=1e-6)
forward = jax.nn.softmax(logits) - jnp.exp(ref)  # the gradient of KL(ref || pi), on paper
np.testing.assert_allclose(gradients["k3"], forward, atol=1e-6)

# %% [markdown]
# `k1` has the exact value and *no* gradient; `k3`, the most used one, has the exact value and the
# gradient of another divergence, $\mathrm{KL}(\pi_{ref} \| \pi)$. V3.2 (section 3.1) multiplies
# `k3` by the ratio, and then value and gradient are both right.
#
# ## Step 4: reinforce a model
#
# First a base model. It reads sums by somebody who **forgets every second carry**, so it writes in
# the right form and is often wrong. All of it is the loop of notebook 5; only the source of
# batches differs.

# %%
folder = Path(mkdtemp())
TASK = ("addition:2",)
steps, rounds, problems = (300, 40, 512) if full else (10, 2, 32)  # the short form learns nothing
answering = {"max_new": 48, "eval_problems": problems, "preflight": full}

base = replace(
    countdown,
    out=folder / "base",
    model=replace(countdown.model, layers=2, embed=64, hidden=128, expert_hidden=32),
    data=replace(countdown.data, sequence=128),
    optimizer=replace(countdown.optimizer, warmup=20),
    train=replace(
        countdown.train, steps=steps, batch=16, log_every=100, eval_every=steps, save_every=steps
    ),
    sft=SftConfig(tasks=TASK, template="v3", attempts=1.0),
)
with redirect_stdout(StringIO()) as printed:  # its lines are those of notebook 5
    fit(base, FineTuning)
print(printed.getvalue().splitlines()[0])

# %% [markdown]
# Then the same model is reinforced three times, each time paid for something else:
#
# * **paid**: for the right sum;
# * **dealt**: by chance, whatever it writes. This is the control: whatever rises here is not
#   learning;
# * **brief**: for short answers. It sounds harmless.
#
# A reward of your own is a function of one sample, and `module:name` names it.

# %%


def dealt(problem, text, tokens):
    """1 for a fifth of all texts, by a hash of the text."""
    return float(hash_fraction(f"{problem.key}/{text}") < 0.2)


def brief(problem, text, tokens):
    """More for fewer tokens."""
    return 1 - tokens / 48


def reinforce(name, *rewards):
    """The rows of a run's metrics: one for each rollout, and held-out accuracy at the end."""
    config = replace(
        grpo,
        init=base.out,
        out=folder / name,
        data=replace(grpo.data, sequence=64),
        train=replace(grpo.train, steps=rounds, eval_every=rounds, save_every=rounds),
        grpo=GrpoConfig(tasks=TASK, rewards=rewards, objective=no_kl, **answering),
    )
    with redirect_stdout(StringIO()):
        fit(config, Reinforcement)
    return metrics.read(config.out)


# %%
no_kl = replace(find_recipe("v3_2"), kl=0.0)
runs = {
    "paid": reinforce("paid", ("accuracy", 1.0)),
    "dealt": reinforce("dealt", ("__main__:dealt", 1.0)),
    "brief": reinforce("brief", ("__main__:brief", 1.0)),
}

# %%


def smooth(values, width=5):
    """Means over the rollouts around each; one rollout of 16 problems is noisy."""
    means = [
        np.mean(values[max(0, i - width // 2) : i + width // 2 + 1]) for i in range(len(values))
    ]
    return np.array(means)


figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
for (name, rows), colour in zip(runs.items(), (BLUE, ORANGE, RED), strict=True):
    rollouts = [row for row in rows if row["split"] == "train"]
    x = [row["step"] for row in rollouts]
    axes[0].plot(x, smooth([row["accuracy"] for row in rollouts]), color=colour, label=name)
    axes[1].plot(x, smooth([row["length"] for row in rollouts]), color=colour, label=name)
axes[0].set(xlabel="step", ylabel="right answers", ylim=(0, 1))
axes[1].set(xlabel="step", ylabel="tokens of an answer")
legend_beside(axes[1])
plt.show()

# %%
rollouts = {name: [row for row in rows if row["split"] == "train"] for name, rows in runs.items()}
held_out = {name: rows[-1] for name, rows in runs.items()}  # the last row of each run
assert all(row["split"] == "held_out" for row in held_out.values())
before = np.mean([rows[0]["accuracy"] for rows in rollouts.values()])
print(
    f"before: {before:.0%} of the first rollout right, {rollouts['paid'][0]['length']:.0f} tokens"
)
for name, row in held_out.items():
    low, high = row["accuracy_low"], row["accuracy_high"]
    print(
        f"{name:6} {row['accuracy']:.0%} of held-out sums right ({low:.0%} to {high:.0%}), "
        f"{row['length']:.0f} tokens"
    )
first = {name: rows[0] for name, rows in rollouts.items()}
assert len({row["accuracy"] for row in first.values()}) == 1  # the same model, the same draws
assert all(row["gap"] < 1e-4 for row in rollouts["paid"])  # sampler and trainer agree
if full:
    assert held_out["paid"]["accuracy_low"] > before + 0.05
    assert held_out["paid"]["accuracy_low"] > held_out["dealt"]["accuracy_high"]
    assert held_out["brief"]["accuracy_high"] < before
    assert held_out["brief"]["length"] < first["brief"]["length"] - 2

# %% [markdown]
# **paid** rises: the carry is remembered, though nobody ever showed how. **dealt** does not: with
# the same updates, the same clip and as many rewards, it drifts and gets worse, because the rewards
# say nothing and every update is noise. A claim about reinforcement without such a control is worth
# little.
#
# **brief** found what nobody meant. The first tokens that can be saved are those that name a carry;
# then those of the thought; in the end the answer itself. Its reward has never been higher, and it
# is never right. This is **reward hacking**: a model does what is paid, not what is meant. So look
# at accuracy, not only at the reward, and read what is written.
#
# ## Step 5: read what was written
#
# A run keeps the first groups of each rollout in `rollouts.jsonl`; `seekjax rollouts RUN` shows
# them in colour. Here is one sum of the last rollout of each run, with the answer that its reward
# liked best:

# %%


def last_rollout(name):
    lines = (folder / name / "rollouts.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["groups"]


for name in runs:
    group = last_rollout(name)[0]
    best = max(group["samples"], key=lambda sample: sample["advantage"])
    print(f"-- {name}: {group['prompt'].splitlines()[-1]}   ({best['reason']})")
    print(best["text"])

# %% [markdown]
# ## Exercises
#
# **1.** Four answers to one problem have the rewards 0, 0, 1 and 3. What are their advantages by
# V3.2's formula?

# %%
answer = None  # a list of four numbers

# %%
check(answer, [-1.0, -1.0, 0.0, 2.0], "The mean of the group is 1.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# answer = [0 - 1.0, 0 - 1.0, 1 - 1.0, 3 - 1.0]
# ```
# </details>
#
# **2.** R1 clips at 10 with no lower bound (`clip_low` and `clip_high` are 10). At which ratio does
# a *good* answer stop being pushed up?

# %%
answer = None  # a number

# %%
check(answer, 11.0, "clip(w, 1 - 10, 1 + 10): where does its upper half begin to be flat?")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# answer = 1.0 + find_recipe("r1").clip_high
# ```
# </details>
#
# **3.** A model is right once in a hundred tries. Which share of its groups of 16 teaches anything?

# %%
answer = None  # a number between 0 and 1

# %%
check(answer, 1 - 0.99**16 - 0.01**16, "One less the share of groups that are all wrong or right.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# answer = 1 - 0.99**16 - 0.01**16
# ```
#
# 15 %: most of the work is wasted. R1 starts from solved problems (a *cold start*) for this reason.
# </details>
#
# ## What to read next
#
# * DeepSeekMath section 4, R1 section 2, V3.2 section 3.1; `seekjax/post/rl/objective.py` has every
#   part, `seekjax/config/recipes.py` the formula of each paper.
# * `seekjax/post/README.md`: `python train.py r1` does all steps of R1 in small, with
#   their controls.
# * [Notebook 9](09_open_weights.ipynb): the weights that DeepSeek published.
