# %% [markdown]
# # 4 · Sharding
#
# **After this notebook you will be able to**
#
# * read a rule, and say which part of any array lies on which device;
# * follow a token to its experts on other devices and back, and count the bytes;
# * check that a mesh of devices computes **the same loss** as one device, and know the mistake that
#   most often breaks this.
#
# 35 minutes to read, half a minute to run on a laptop. You need: matrix products in NumPy, and
# what an expert is ([notebook 2](02_experts_and_balance.ipynb)).
#
# There is no need for eight GPUs: JAX can pretend that one CPU is eight devices. They are slow, but
# they split arrays and send messages as real ones do. This has to be said before JAX is imported.

# %%
import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"

import re

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import treescope

from seekjax.notebook import BLUE, COLOURS, GREEN, ORANGE, RED, check, set_look, show_source

set_look()
FULL = os.environ.get("SEEKJAX_NOTEBOOKS") == "full"
assert len(jax.devices()) == 8

# %% [markdown]
# ## The idea in words
#
# A model that does not fit on one device is cut into parts. Who decides where to cut? If each
# matrix product had its own answer, nobody could change it later. So the project has three small
# lists, and each knows nothing of the other two:
#
# 1. **Names.** The model names what each axis of an array *means*: `"embed hidden"`,
#    `"experts embed expert_hidden"`. It never mentions a device.
# 2. **A mesh.** The devices stand in a grid whose axes have jobs: `data`, `fsdp`, `expert`,
#    `tensor`.
# 3. **Rules.** A table of four lines says which mesh axes may cut which kind of name.
#
# It is like seats in a theatre: the ticket says *row F, seat 12* (names), the house has rows and
# seats (mesh), and the usher knows that rows are lettered from the stage (rules). Move to another
# house, and the tickets stay as they are.
#
# In numbers: a matrix of 4 x 6 on a grid of 2 x 3 devices. Each device holds a block of 2 x 2.

# %%
whole = np.arange(24).reshape(4, 6)
parts = [[whole[2 * r : 2 * r + 2, 2 * c : 2 * c + 2] for c in range(3)] for r in range(2)]
print("the device in row 1, column 2 holds", parts[1][2].tolist())
assert (np.block(parts) == whole).all()  # nothing is lost, nothing is there twice

# %% [markdown]
# ## Step 1: the three lists

# %%
from seekjax.placement import AXES, use_mesh
from sharding.axes import MESH
from sharding.mesh import MeshConfig, abstract_mesh
from sharding.rules import RULES, local, mesh_axes, sharding, split_axes

print("names:", *[f"{name}: {AXES.role(name).name}" for name in AXES], sep="\n  ")
print("\nmesh axes:", *[f"{name}: {job}" for name, job in MESH.items()], sep="\n  ")
print("\nrules:", *[f"{role.name}: {', '.join(axes)}" for role, axes in RULES], sep="\n  ")

# %% [markdown]
# `Q_LATENT` and `KV_LATENT` and `EMBED` have the same role: a width that is cut only where weights
# are *stored*. A device that needs the whole matrix collects it from its peers for the moment of
# the product, and then forgets it. This is fully sharded data parallelism (ZeRO-3).
#
# The rules are in order. In each array an earlier rule takes its mesh axes first, and **no mesh
# axis cuts an array twice**. This is all that `split_axes` does:

# %%
show_source(split_axes)
with use_mesh(MeshConfig(data=2, fsdp=2, expert=2)):
    for axes in ("batch sequence embed", "embed hidden", "experts embed expert_hidden", "embed"):
        print(f"{axes:28}", split_axes(axes))
    # The order of the rules, spelled out by hand:
    batch, sequence, embed = split_axes("batch sequence embed")
    assert (batch, sequence, embed) == (("data", "fsdp", "node", "expert"), ("context",), ())
    assert split_axes("experts embed expert_hidden")[:2] == [
        ("node", "expert"),
        ("fsdp", "context"),
    ]

# %% [markdown]
# Look at `embed` in these lines. In activations (`batch sequence embed`) the sequences took `fsdp`
# and `expert`, so `embed` stays whole. In the experts' weights, `experts` took `expert`, and
# `embed` gets what is left: `fsdp`. The axes that we did not set (`node`, `context`, `tensor`) have
# one device each, and cut nothing.

# %% [markdown]
# ## Step 2: draw it
#
# Four ways to arrange the devices (top; where there are two axes, the first one goes down and the
# second one to the right), and what they mean for three arrays. Each coloured block
# is a part of the array, and the numbers on it are the devices that hold it. Several numbers on one
# block are copies.

# %%
from matplotlib.colors import ListedColormap, to_rgb

PALE = [0.5 + 0.5 * np.array(to_rgb(color)) for color in (*COLOURS[:6], "#666666", "#F0E442")]
COLORS = ListedColormap(PALE)


def draw_owners(axis, shape, layout):
    """Draw which devices hold which part of an array, its axes after the first in a row."""
    owners = {}
    for device, index in layout.devices_indices_map(shape).items():
        held = np.zeros(shape, bool)
        held[index] = True
        owners.setdefault(held.tobytes(), (held, []))[1].append(device.id)

    color = np.zeros(shape)
    for held, devices in owners.values():
        color[held] = min(devices)
    axis.imshow(color.reshape(shape[0], -1), cmap=COLORS, vmin=0, vmax=7, aspect="auto")
    for held, devices in owners.values():
        row, column = np.nonzero(held.reshape(shape[0], -1))
        text = "all" if len(devices) == 8 else " ".join(map(str, sorted(devices)))
        style = {"weight": "bold", "ha": "center", "va": "center"}
        axis.text(column.mean(), row.mean(), text, fontsize=9, **style)
    axis.set(xticks=[], yticks=[])


# %%
def draw_mesh(axis, mesh):
    """Draw the devices of a mesh in its grid, without axes of one device."""
    id_XY = np.vectorize(lambda device: device.id)(np.atleast_2d(mesh.devices.squeeze()))
    axis.imshow(id_XY, cmap=COLORS, vmin=0, vmax=7, aspect="auto")
    style = {"weight": "bold", "ha": "center", "va": "center"}
    for (row, column), number in np.ndenumerate(id_XY):
        axis.text(column, row, number, fontsize=9, **style)
    axis.set(xticks=[], yticks=[])


MESHES = {
    "data 8": MeshConfig(data=8),
    "fsdp 8": MeshConfig(data=1, fsdp=8),
    "data 2, expert 4": MeshConfig(data=2, expert=4),
    "fsdp 2, tensor 4": MeshConfig(data=1, fsdp=2, tensor=4),
}
ARRAYS = {
    "tokens:\nbatch\nsequence": ("batch sequence", (16, 16)),
    "dense weight:\nembed\nhidden": ("embed hidden", (16, 16)),
    "experts:\nexperts\nembed": ("experts embed", (8, 16)),
}

# %%
figure, axes = plt.subplots(4, 4, figsize=(9, 7))
for column, (name, mesh_config) in zip(axes.T, MESHES.items()):
    with use_mesh(mesh_config) as mesh:
        draw_mesh(column[0], mesh)
        for axis, (names, shape) in zip(column[1:], ARRAYS.values()):
            draw_owners(axis, shape, sharding(names))
    column[0].set_title(name, fontsize=10)
for axis, label in zip(axes[:, 0], ("the devices", *ARRAYS)):
    axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
plt.show()

# %% [markdown]
# (Of the experts' weights, which have three axes, the first two are drawn. On the last mesh
# `tensor` cuts the third one, so four devices share each block.)
#
# Read the second column: with `fsdp 8` each device reads two sequences and stores an eighth of each
# weight. Read the third: a group of four devices holds all experts, two on each, and `expert` also
# cuts the dense weights, because they do not need to be whole in storage either.
#
# In a notebook that runs, treescope draws the placement of a real array. (GitHub does not run its
# script, so there you see nothing here. The picture above says the same.)

# %%
with use_mesh(MESHES["data 2, expert 4"]):
    w_up_DF = jax.device_put(jnp.zeros((16, 16)), sharding("embed hidden"))
assert w_up_DF.addressable_shards[0].data.shape == (4, 16)  # a quarter on each device
treescope.render_array_sharding(w_up_DF)

# %% [markdown]
# ## Step 3: the same rules for 671B parameters
#
# Nothing has to exist to be placed: shapes and names are enough. Here is DeepSeek-V3 on 512
# devices, none of which we have. Training in float32 keeps the weight and two moments of Adam: 12
# bytes for each parameter.

# %%
from configs import v3
from seekjax.model.abstract import named_variables
from sharding.place import axes_of, unbox
from sharding.show import rows

named = named_variables(v3.config.model)["params"]
main = {name: tree for name, tree in named.items() if not name.startswith("mtp")}
layouts = {
    "data 512": MeshConfig(),
    "fsdp 512": MeshConfig(fsdp=512),
    "data 8, expert 64": MeshConfig(expert=64),
    "fsdp 8, expert 64": MeshConfig(fsdp=8, expert=64),
}
per_device = {}
for name, mesh_config in layouts.items():
    with use_mesh(abstract_mesh(mesh_config, devices=512)):
        listed = rows(unbox(main), axes_of(main))
    per_device[name] = 3 * sum(row.bytes_per_device for row in listed)

routers = (61 - 3) * 256  # biases, which are not parameters here
total = sum(row.bytes for row in listed) // 4 + routers
assert total == 671_026_419_200  # V3: 671B parameters without the prediction module

# %%
figure, axis = plt.subplots(figsize=(8, 2.6))
gib = [size / 2**30 for size in per_device.values()]
bars = axis.barh(list(per_device), gib, color=[RED, BLUE, ORANGE, GREEN])
axis.bar_label(bars, [f"{size:,.0f} GiB" for size in gib], padding=4)
axis.axvline(80, color="black", ls="--", lw=1.5)
axis.text(82, -0.9, "80 GiB: one H100", fontsize=9)
axis.set(xscale="log", xlim=(1, 60_000), xlabel="weights and moments on each device (GiB)")
axis.invert_yaxis()
axis.grid(axis="y", visible=False)
plt.show()
assert 14.6 < per_device["fsdp 8, expert 64"] / 2**30 < 15.0  # 671e9 x 12 bytes / 512

# %% [markdown]
# ## Step 4: a token travels to its experts
#
# Weights of `fsdp` travel to the tokens. With experts it is the other way round: there are far too
# many weights, and each token needs few of them. So the **tokens** travel to the devices of their
# experts, and the results travel back.
#
# A small case, every number of which can be printed. Four devices with two experts each; three
# tokens on each device, of 4 numbers; each token chooses 2 experts. Token number 5 is the row
# `[5, 5, 5, 5]`, and expert number $e$ multiplies by $e + 1$. With the gates $g$ of V3's equation
# 12, without its shared experts and its residual, the result has to be
#
# $$y_t = \sum_{e \in \text{chosen}(t)} g_{t,e} \cdot (e + 1) \cdot x_t$$

# %%
DEVICES, TOKENS, EXPERTS, CHOICES, WIDTH = 4, 3, 8, 2, 4
random = np.random.default_rng(0)
M = DEVICES * TOKENS
x_MD = np.repeat(np.arange(M, dtype=np.float32)[:, None], WIDTH, 1)
choice_MK = np.stack([random.permutation(EXPERTS)[:CHOICES] for _ in range(M)]).astype(np.int32)
gate_MK = random.uniform(0.2, 0.8, (M, CHOICES)).round(1).astype(np.float32)
factor_E1 = np.arange(1, EXPERTS + 1, dtype=np.float32)[:, None]

expected_MD = np.einsum("MK,MK,MD->MD", gate_MK, factor_E1[choice_MK, 0], x_MD)  # NumPy
for device in range(DEVICES):
    own = range(device * TOKENS, (device + 1) * TOKENS)
    print(f"device {device}:", ", ".join(f"token {t} -> {choice_MK[t].tolist()}" for t in own))

# %% [markdown]
# **Sort.** A device first makes a row for each pair (token, choice) and sorts the rows by expert.
# Rows for the same device are then neighbours and can leave together.

# %%
from sharding.exchange.rows import permute, sort_order

show_source(sort_order)
order_n, position_n = sort_order(jnp.asarray(choice_MK[:TOKENS].reshape(-1)))
sorted_nD = permute(jnp.asarray(x_MD[:TOKENS]), order_n, position_n, CHOICES)
print("experts of the rows of device 0:", choice_MK[:TOKENS].reshape(-1)[order_n].tolist())
print("tokens of the rows:             ", sorted_nD[:, 0].astype(int).tolist())

# %% [markdown]
# **Count.** All devices learn how many rows each one has for each expert. This is the only message
# that is not rows: a small table of integers.

# %%
sender_n = np.repeat(np.arange(DEVICES), TOKENS * CHOICES)
count_PE = np.zeros((DEVICES, EXPERTS), int)
np.add.at(count_PE, (sender_n, choice_MK.reshape(-1)), 1)

figure, axis = plt.subplots(figsize=(7, 2.8))
axis.imshow(count_PE, cmap="Blues", vmin=0, vmax=4, aspect="auto")
for (sender, expert), count in np.ndenumerate(count_PE):
    text = f"({count})" if expert // 2 == sender else str(count)
    axis.text(expert, sender, text if count else "", ha="center", va="center")
for border in (1.5, 3.5, 5.5):
    axis.axvline(border, color="black", lw=1.5)
labels = [f"{expert}\ndevice {expert // 2}" for expert in range(EXPERTS)]
axis.set_xticks(range(EXPERTS), labels, fontsize=8)
axis.set(yticks=range(DEVICES), xlabel="expert, and the device that has it", ylabel="from device")
axis.set_title("rows on their way (in brackets: they stay at home)", fontsize=10)
axis.grid(visible=False)
plt.show()

# %% [markdown]
# **Send, compute, return.** Here is the function that does all of it. `make_route` says how rows
# travel: `static` sends one buffer of a fixed size to each peer, padded; `ragged` sends the rows
# that exist and no others, where the hardware can.

# %%
from sharding.exchange.sorted_rows import exchange_sorted

show_source(exchange_sorted)

# %% [markdown]
# We run it on the four devices with experts that also note what arrives. `local` runs a function on
# each device's own part: inside, `x_mD` has 3 tokens, not 12.

# %%
from sharding.exchange import EXCHANGES


def exchanged(name, capacity=0.0):
    """Return a function that sends tokens through an exchange, and what arrives at the experts."""

    def body(x_mD, choice_mK, gate_mK, factor_E1):
        arrived = {}

        def experts(x_RD, gate_R, factor_E1, size_E):
            factor_R = jnp.repeat(factor_E1[:, 0], size_E, total_repeat_length=len(x_RD))
            arrived.update(token_R=x_RD[:, 0], size_E=size_E)
            return x_RD * (factor_R * gate_R)[:, None]

        weights, axes = (factor_E1,), mesh_axes("experts")
        exchange = EXCHANGES[name]
        y_mD, dropped = exchange(x_mD, choice_mK, gate_mK, weights, experts, axes, capacity)
        return y_mD, arrived["token_R"], arrived["size_E"], dropped[None]

    tokens = ("batch -",) * 3
    return local(body, (*tokens, "experts -"), ("batch -", "batch", "experts", "batch"))


# %%
with use_mesh(MeshConfig(data=1, expert=DEVICES)):
    run = jax.jit(exchanged("static"))
    y_MD, token_R, size_E, _ = run(x_MD, choice_MK, gate_MK, factor_E1)
    program = run.lower(x_MD, choice_MK, gate_MK, factor_E1).compile().as_text()

token_PR = np.asarray(token_R).astype(int).reshape(DEVICES, -1)
size_PE = np.asarray(size_E).reshape(DEVICES, -1)
for device, (tokens, sizes) in enumerate(zip(token_PR, size_PE)):
    first, second = np.split(tokens[: sizes.sum()], [sizes[0]])
    print(f"device {device}: expert {2 * device} gets tokens {first.tolist()}, ", end="")
    print(f"expert {2 * device + 1} gets {second.tolist()}")

assert (size_PE.reshape(-1) == count_PE.sum(0)).all()  # as the table above says
np.testing.assert_allclose(y_MD, expected_MD, rtol=1e-6)  # as NumPy says
print("what came back, one number of each token:", *[f"{y:.1f}" for y in y_MD[:, 0]])

# %% [markdown]
# ## Step 5: count the bytes
#
# A device with $m$ tokens of $D$ numbers and $P$ peers in all sends, in one direction:
#
# | exchange | rows that leave a device | rows that its experts compute |
# |---|---|---|
# | `dense`: everything to everybody | $(P-1)\,m$ | $P\,m \cdot E/P$ |
# | `static`, room for the worst case | $(P-1)\,m \min(K, E/P)$ | $\approx m K$ |
# | `static`, capacity factor $c$ | $(P-1)\,c\,m K/P$ | $\le c\,m K$ |
# | `ragged` | $\approx m K (P-1)/P$ | $\approx m K$ |
#
# We need not believe it: the compiled program says what it sends. Our `static` has three
# `all-to-all`: the rows, their gates, and the results.

# %%
sent = re.findall(r"= \((.*?)\) all-to-all\(", program)
numbers = []
for buffers in sent:
    shapes = re.findall(r"f32\[([\d,]+)\]", buffers)
    sizes = [np.prod([int(size) for size in shape.split(",")]) for shape in shapes]
    numbers.append(sum(sizes[1:]))  # the buffer for oneself does not leave
room = TOKENS * min(CHOICES, EXPERTS // DEVICES)
leaving = (DEVICES - 1) * room  # rows, by the table
print(f"float32 numbers that leave a device in each all-to-all: {sorted(map(int, numbers))}")
assert sorted(numbers) == [leaving, leaving * WIDTH, leaving * WIDTH]  # gates, rows, results

real = sum(count_PE[sender].sum() - count_PE[sender, 2 * sender : 2 * sender + 2].sum()
           for sender in range(DEVICES))  # fmt: skip
print(f"of {DEVICES * leaving} rows that all devices send, {real} are rows and the rest is padding")

# %% [markdown]
# Now at the size of V3: 64 devices with 4 experts each, 4,096 tokens on each device, 8 choices of
# 256 experts, 7,168 numbers of 2 bytes.

# %%
P, m, K, E, D, BYTES = 64, 4096, 8, 256, 7168, 2
leave = {
    "dense": (P - 1) * m,
    "static, worst case": (P - 1) * m * min(K, E // P),
    "static, capacity 1.25": (P - 1) * 1.25 * m * K / P,
    "ragged": m * K * (P - 1) / P,
}
compute = [m * E, m * K, 1.25 * m * K, m * K]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.6), sharey=True)
sent = left.barh(list(leave), [rows * D * BYTES / 2**30 for rows in leave.values()], color=BLUE)
left.bar_label(sent, fmt="%.2f", padding=3)
left.set(xlabel="GiB that leave a device, one way", xscale="log", xlim=(0.2, 60))
done = right.barh(list(leave), np.array(compute) / m, color=ORANGE)
right.bar_label(done, fmt="%.0f", padding=3)
right.set(xlabel="experts computed for each token", xscale="log", xlim=(4, 600))
left.invert_yaxis()
for axis in (left, right):
    axis.grid(axis="y", visible=False)
plt.show()

# %% [markdown]
# `dense` sends each token once to everybody and computes 32 times too much. It cannot be wrong,
# so it is the reference of the tests. The worst case of `static` is safe and wasteful: it is for
# few devices. A capacity bounds its buffers, and drops the rows with the smallest gates when too
# many come.
#
# **V3 sends less still.** Its devices stand in nodes of 8, and the network between nodes is the slow
# one. So a token may only visit the experts of $M = 4$ nodes (V3, section 2.1.2), and crosses to
# each node once. How many nodes would it visit without this limit?

# %%
from dataclasses import replace

from seekjax.model.routing import choose

score_BTE = jax.nn.sigmoid(jax.random.normal(jax.random.key(0), (1, 4000, 256)))
figure, axis = plt.subplots(figsize=(7, 2.8))
for limit, color, shift in ((8, ORANGE, -0.2), (4, BLUE, 0.2)):
    model = replace(v3.config.model, groups_per_token=limit)
    choice_TK = np.asarray(choose(score_BTE, jnp.zeros(256), model))[0]
    nodes = np.array([len(set(choice // 32)) for choice in choice_TK])
    share = np.bincount(nodes, minlength=9)[1:] / len(nodes)
    name = f"at most {limit} nodes: {nodes.mean():.2f} on average"
    axis.bar(np.arange(1, 9) + shift, share, 0.4, color=color, label=name)
    assert nodes.max() <= limit  # V3, section 2.1.2
axis.set(xlabel="nodes that a token visits", ylabel="share of tokens")
axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 1.3), ncols=2)
plt.show()

# %% [markdown]
# **In two hops.** The exchange `two_hop` makes use of the limit: a token crosses to a node once, to
# the device with the same number there, which passes it on to the devices of its experts. One sum
# per node comes back. The second hop is the function from above, among the devices of one node.

# %%
from sharding.exchange.static import fixed_buffers
from sharding.exchange.two_hop import exchange_hops

show_source(exchange_hops)

# %% [markdown]
# How many copies of a token cross? We let eight devices be eight nodes, and count the rows that the
# routes of the *running program* carry to other nodes. Each expert returns its row times the gate.


# %%
crossing = []


def counted(count_PE, room, rows, axes):
    """Make the route of `static`, and note how many rows go to other nodes."""
    me = jax.lax.axis_index(axes)
    rows_P = count_PE[me].sum(-1)
    jax.debug.callback(lambda away: crossing.append(int(away)), rows_P.sum() - rows_P[me])
    return fixed_buffers(count_PE, room, rows, axes)


def experts(x_RD, gate_R, w_E1, size_E):
    """Return the rows that exist times their gates."""
    exists_R = jnp.arange(len(x_RD)) < size_E.sum()
    return jnp.where(exists_R, gate_R, 0)[:, None] * x_RD


# %%
def copies(exchange, choice_TK):
    """Return how many copies of a token cross to other nodes, on average."""

    def body(x_mD, choice_mK, w_E1):
        axes, gate_mK = mesh_axes("experts"), jnp.ones(choice_mK.shape)
        return exchange(x_mD, choice_mK, gate_mK, (w_E1,), experts, axes, 0.0, counted)[0]

    crossing.clear()
    tokens, chosen = choice_TK.shape
    with use_mesh(MeshConfig(data=1, node=8)):
        run = jax.jit(local(body, ("batch -", "batch -", "experts -"), "batch -"))
        y_TD = run(jnp.ones((tokens, 2)), choice_TK, jnp.ones((256, 1)))
        jax.effects_barrier()
    assert (y_TD == chosen).all()  # every expert was visited, whichever way
    return sum(crossing) / tokens


# %%
from seekjax.plan.traffic import copies_between

free = replace(v3.config.model, expert_groups=1, groups_per_token=1)
free_TK = np.asarray(choose(score_BTE, jnp.zeros(256), free))[0]  # choice_TK has the limit of 4
flat = copies(exchange_sorted, free_TK)
once = copies(exchange_hops, free_TK)
limited = copies(exchange_hops, choice_TK)
print(f"flat, one copy per expert    {flat:.2f} copies of a token cross")
print(f"two hops, one per node       {once:.2f}")
print(f"two hops, at most 4 nodes    {limited:.2f}")

theory = copies_between(v3.config.model, nodes=8)  # of choices at random
assert abs(flat - theory["flat"]) < 0.05  # 8 experts, of which one in eight is at home
assert abs(once - theory["de-duplicated"]) < 0.05
assert limited < 3.55  # 4 nodes, of which one in eight is home

# %% [markdown]
# ## Step 6: the same loss on every mesh
#
# A mesh changes *where* things are computed. It must never change *what*. So we compute the loss
# and its gradient for one model and one batch on several meshes and compare. The batch is unkind on
# purpose: some rows are mostly padding, so the devices have different numbers of targets.

# %%
from seekjax.config import Config, DataConfig, KernelConfig, ModelConfig
from seekjax.train.loss import forward, target_mask
from seekjax.train.state import RunSpec

config = Config(
    model=ModelConfig(
        vocab=64, embed=32, layers=1, dense_layers=0, mtp_depth=0, init_std=0.1,
        heads=4, q_latent=16, kv_latent=16, nope=8, rotary=8, value=8,
        experts=8, experts_per_token=2, expert_hidden=16,
    ),
    kernel=KernelConfig(remat="none", attention="plain", experts="loop"),
    data=DataConfig(sequence=16),
)  # fmt: skip
spec = RunSpec(config)
random = np.random.default_rng(0)
host_batch = {
    "tokens": random.integers(1, 64, (16, 17)).astype(np.int32),
    "segments": np.ones((16, 17), np.int32),
}
host_batch["segments"][::3, 5:] = 0  # padding

# %%
from sharding.place import put_batch


def loss_and_gradient(params, balance, batch):
    """Return the mean loss over all targets of all devices, and the gradient of each weight."""
    targets = target_mask(batch, 1, mask_documents=False).sum()

    def loss(params):
        _, nll = forward(spec.model, config, params, balance, batch, mtp=False)
        return nll[0] / targets

    return jax.value_and_grad(loss)(params)


def on_mesh(mesh_config, state):
    """Return the loss and the gradient of a state, computed on a mesh."""
    with use_mesh(mesh_config):
        places = spec.shardings()
        params = jax.device_put(state.params, places.params)
        balance = jax.device_put(state.balance, places.balance)
        batch = put_batch(host_batch, "batch sequence")
        return jax.device_get(jax.jit(loss_and_gradient)(params, balance, batch))


# %%
with use_mesh(MeshConfig(data=1)):
    state = jax.device_get(spec.start())

several = {
    "1 device": MeshConfig(data=1),
    "expert 8": MeshConfig(data=1, expert=8),
    "data 2, fsdp 2, expert 2": MeshConfig(data=2, fsdp=2, expert=2),
}
if FULL:
    several |= MESHES
results = {name: on_mesh(mesh, state) for name, mesh in several.items()}

one_loss, one_gradient = results["1 device"]
for name, (loss, gradient) in results.items():
    off = jax.tree.map(lambda a, b: np.abs(a - b).max() / np.abs(b).max(), gradient, one_gradient)
    worst = max(jax.tree.leaves(off))
    print(f"{name:25} loss {loss:.7f}   largest difference of a gradient: {worst:.0e}")
    assert abs(loss - one_loss) < 1e-5
    assert worst < 1e-5  # relative to the largest entry of each array

# %% [markdown]
# The last digits differ, because a sum in another order rounds in another way. Nothing else does.
# `tests/train/test_mesh_invariance.py` holds a whole training step to this on seven meshes, with
# every exchange and with 1, 2 and 4 micro-batches.

# %% [markdown]
# ## Exercises
#
# **1.** On the mesh *data 2, fsdp 2, expert 2*, into how many parts is each axis of
# `"layers experts embed expert_hidden"` cut? Answer with four numbers, as `(1, 2, 4, 8)`. Think
# first, then use `split_axes`.

# %%
answer_1 = None

# %%
with use_mesh(MeshConfig(data=2, fsdp=2, expert=2)):
    part = sharding("layers experts embed expert_hidden").shard_shape((8, 8, 8, 8))
check(answer_1, [8 // size for size in part], "The experts took one of the two axes of embed.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# `layers` is whole, `experts` takes `expert`, `embed` is left with `fsdp`, and `tensor` has one
# device. `data` cuts no weight at all.
#
# ```python
# answer_1 = (1, 2, 2, 1)
# ```
#
# </details>

# %% [markdown]
# **2.** The mistake of many training programs: each device computes the mean loss of its own
# targets, and then the devices average their means. Device 0 has 10 targets with a mean loss of
# 2.0, device 1 has 30 targets with 1.0. By how much is the mean of means too large?

# %%
answer_2 = None

# %%
check(answer_2, 0.25, "What is the sum of the losses of all 40 targets?")

# %% [markdown]
# <details><summary>Solution</summary>
#
# The loss of all targets is $(10 \cdot 2 + 30 \cdot 1) / 40 = 1.25$, the mean of means 1.5. The
# project divides sums by one count over the whole mesh (`NextToken.totals`).
#
# ```python
# answer_2 = (2.0 + 1.0) / 2 - (10 * 2.0 + 30 * 1.0) / 40
# ```
#
# </details>

# %% [markdown]
# **3.** V3 sends rows to experts in FP8: 1 byte for each number, and one float32 scale (4 bytes) for
# each 128 numbers (V3, section 3.3). How many bytes is one row of 7,168 numbers, and which share is
# it of the row in bfloat16? Answer with the share.

# %%
answer_3 = None

# %%
check(answer_3, (7168 + 7168 / 128 * 4) / (7168 * 2), "There are 56 scales.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# 7,392 bytes, a little more than half. The way back stays in bfloat16.
#
# ```python
# answer_3 = (7168 + 56 * 4) / (7168 * 2)
# ```
#
# </details>

# %% [markdown]
# ## What to read next
#
# * V3, section 3.2: how its exchange overlaps with computation; section 3.4: how it is served.
# * `sharding/rules.py` (the verbs `use`, `constrain`, `local`), `sharding/exchange/` (a file for
#   each exchange), `seekjax/placement.py` (all names).
# * `seekjax show RUN_OR_CONFIG` prints every array with its names and its bytes on each device.
# * Next: [train a model](05_train_a_model.ipynb).
