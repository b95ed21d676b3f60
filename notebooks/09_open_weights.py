# %% [markdown]
# # 9 · Open weights
#
# **After this notebook you will be able to**
#
# * open a published DeepSeek checkpoint and find each of its tensors in the equations of the paper;
# * show that a loader is right, by its logits, and name the mistakes that only logits show;
# * say what FP8, int8 and int4 do to a weight and to the size of V3; write a GGUF file; and turn a
#   conversation into the text that V3 or R1 was trained on, with `<think>`.
#
# 30 minutes to read, half a minute to run on a laptop. You need:
# [notebook 1](01_latent_attention.ipynb) and [notebook 2](02_experts_and_balance.ipynb). No
# download: the checkpoints here are small, with random weights, in the layout of V3's 685 GB.
#
# V3 is [DeepSeek-V3](https://arxiv.org/abs/2412.19437), R1 is
# [DeepSeek-R1](https://arxiv.org/abs/2501.12948).

# %%
import json
import math
import tempfile
import warnings
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import treescope

import configs
from configs import v3
from seekjax.config import KernelConfig, ModelConfig
from seekjax.hf.load import load
from seekjax.hf.names import TABLE, split, tensors
from seekjax.hf.published import open_published
from seekjax.hf.save import save
from seekjax.model.transformer import Transformer, logits
from seekjax.notebook import BLUE, GREEN, ORANGE, RED, check, set_look, show_source

# %%
set_look()
GOLDEN = Path(configs.__file__).parents[1] / "tests" / "hf" / "goldens" / "v3"
work = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The idea in words
#
# A published model is a folder: `config.json` says how large everything is, `*.safetensors` hold the
# numbers, `tokenizer.json` and a chat template say how text goes in and out. It is like a box of
# furniture from another country: all parts are there, each with a label, but the labels are not the
# words of your manual. What you need is a table: *this label is that part*. If one row of the table
# is wrong, the furniture may still stand, and be a little crooked.
#
# ## What is in a safetensors file
#
# Eight bytes that say how long the header is; the header, which is JSON; then the numbers, one
# tensor after the other. This is enough to read one without any library:

# %%
raw = (GOLDEN / "model.safetensors").read_bytes()
length = int.from_bytes(raw[:8], "little")
header = json.loads(raw[8 : 8 + length])
header.pop("__metadata__", None)
for name in list(header)[:6]:
    print(f"{name:52} {header[name]['dtype']:5} {header[name]['shape']}")
print(f"... {len(header)} tensors in all")

# %% [markdown]
# ## From `config.json` to a config of seekjax
#
# `open_published` reads `config.json` and the headers of all files, and checks them against each
# other: names, shapes and types, before it reads any number.

# %%
checkpoint = open_published(GOLDEN)
model = checkpoint.config.model
published = json.loads((GOLDEN / "config.json").read_text())
pairs = {
    "hidden_size": "embed", "num_hidden_layers": "layers", "num_attention_heads": "heads",
    "q_lora_rank": "q_latent", "kv_lora_rank": "kv_latent", "qk_nope_head_dim": "nope",
    "qk_rope_head_dim": "rotary", "v_head_dim": "value", "n_routed_experts": "experts",
    "num_experts_per_tok": "experts_per_token", "n_group": "expert_groups",
    "topk_group": "groups_per_token", "routed_scaling_factor": "route_scale",
    "num_nextn_predict_layers": "mtp_depth",
}  # fmt: skip
for theirs, ours in pairs.items():
    print(f"{theirs:25} {ours:18} {getattr(model, ours)}")
    assert published[theirs] == getattr(model, ours)

# %% [markdown]
# ## Every tensor in the equations of the paper
#
# seekjax has one table for both directions, reading and writing. A row gives the name in the file,
# the axes of the tensor in the file, and our arrays. `H(N|R) Q` reads: for each head, first the `N`
# rows without position, then the `R` rows of position; each row has `Q` numbers.
#
# Beside each row, here is what it is in the paper.

# %%
PAPER = {
    "model.embed_tokens": "Emb (V3 section 2.2)",
    "model.norm": "the last RMSNorm",
    "lm_head": "OutHead (V3 equation 23)",
    "input_layernorm": "RMSNorm before attention",
    "self_attn.kv_a_proj_with_mqa": "W^DKV and W^KR (equations 1, 3)",
    "self_attn.kv_a_layernorm": "RMSNorm of c^KV",
    "self_attn.kv_b_proj": "W^UK and W^UV (equations 2, 5)",
    "self_attn.o_proj": "W^O (equation 11)",
    "post_attention_layernorm": "RMSNorm before the FFN",
    "self_attn.q_proj": "W^UQ and W^QR of V2-Lite, from h",
    "self_attn.q_a_proj": "W^DQ (equation 6)",
    "self_attn.q_a_layernorm": "RMSNorm of c^Q",
    "self_attn.q_b_proj": "W^UQ and W^QR (equations 7, 8)",
    "mlp.{}_proj": "FFN of the first layers",
    "mlp.gate": "e_i, the vectors of experts (equation 15)",
    "mlp.gate.e_score_correction_bias": "b_i (equation 16)",
}

# %%
PAPER |= {
    "mlp.shared_experts.{}_proj": "FFN^(s) (equation 12)",
    "mlp.experts.{}.{}_proj": "FFN_i^(r) (equation 12)",
    "embed_tokens": "Emb again (a copy)",
    "enorm": "RMSNorm of Emb(t) (equation 21)",
    "hnorm": "RMSNorm of h (equation 21)",
    "eh_proj": "M_k (equation 21)",
    "shared_head.norm": "RMSNorm before OutHead (equation 23)",
    "shared_head.head": "OutHead again (a copy)",
}


def paper(file):
    """What a row of the table is in the paper; gate, up and down of a SwiGLU are one entry."""
    name = file.removesuffix(".weight")
    for part in ("gate_proj", "up_proj", "down_proj"):
        name = name.replace(part, "{}_proj")
    return PAPER[name]


# %%
from IPython.display import Markdown, display

lines = ["| tensor in the file | axes | ours | in the paper |", "|---|---|---|---|"]
for rows in TABLE.values():
    for row in rows:
        axes = row.axes.replace("|", "\\|")
        lines.append(f"| `{row.file}` | {axes} | `{row.ours}` | {paper(row.file)} |")
display(Markdown("\n".join(lines)))

# %% [markdown]
# The table is complete: the names that it gives for this config are the names in the file, no more
# and no less, and the shapes are equal.

# %%
by_table = {tensor.name: list(tensor.shape) for tensor in tensors(model)}
in_file = {name: entry["shape"] for name, entry in header.items()}
assert by_table == in_file
print(f"{len(by_table)} tensors, all with the shape that the table says")

# %% [markdown]
# And it gives the size of the real V3, which nobody has to download for that: what Hugging Face shows
# as "685B" is 671 billion of the model, 11.6 billion of the prediction module, two copies that the
# module has of embedding and head, and the scales of FP8 (one for each block of 128 x 128).

# %%
parts = dict.fromkeys(["routed experts", "attention", "prediction module", "the rest"], 0)
scales = 0
for tensor in tensors(v3.config.model):
    size = math.prod(tensor.shape)
    if tensor.name.startswith("model.layers.61."):
        parts["prediction module"] += size
    elif ".experts." in tensor.name:
        parts["routed experts"] += size
    elif "self_attn" in tensor.name:
        parts["attention"] += size
    else:
        parts["the rest"] += size
    if tensor.row.kind == "matrix":  # these are in FP8
        scales += math.prod(math.ceil(length / 128) for length in tensor.shape)

figure, axis = plt.subplots(figsize=(8, 2.2))
bars = axis.barh(list(parts), [size / 1e9 for size in parts.values()], color=BLUE)
axis.bar_label(bars, fmt=" %.1f")
axis.set(xlabel="billion numbers in the files of V3", xlim=(0, 740))
axis.invert_yaxis()
plt.show()
assert sum(parts.values()) + scales == 684_531_386_000  # the count on Hugging Face: "685B"
assert scales == 41_540_496

# %% [markdown]
# ## One tensor becomes two arrays
#
# `kv_b_proj` holds $W^{UK}$ and $W^{UV}$ of all heads, head by head: `H(N|U) C`. The function that
# takes a tensor apart is `split`. The same by hand:

# %%
show_source(split)

# %%
name = "model.layers.0.self_attn.kv_b_proj.weight"
tensor = next(tensor for tensor in tensors(model) if tensor.name == name)
in_file = checkpoint.values(tensor).astype(np.float32)
w_uk_CHN, w_uv_CHU = split(in_file, tensor)
print(f"{name} {in_file.shape} -> w_uk_CHN {w_uk_CHN.shape}, w_uv_CHU {w_uv_CHU.shape}")

by_head = in_file.reshape(model.heads, model.nope + model.value, model.kv_latent)
np.testing.assert_array_equal(w_uk_CHN, by_head[:, : model.nope].transpose(2, 0, 1))
np.testing.assert_array_equal(w_uv_CHU, by_head[:, model.nope :].transpose(2, 0, 1))

# %% [markdown]
# ## The whole tree
#
# `load` reads every tensor like this. What it returns is a tree by our names, with the layers of a
# kind stacked, which treescope draws: click to unfold it. (GitHub does not run its script.)

# %%
kernel = KernelConfig(attention="plain", experts="loop", remat="none")
model, variables = load(GOLDEN, kernel)
assert set(variables) == {"params", "balance"}  # the balance bias is not trained by gradients
treescope.display(variables)

# %% [markdown]
# ## The proof: the logits of transformers
#
# A loader is right if the logits are right. Beside this checkpoint lies what
# [transformers](https://github.com/huggingface/transformers) computed from it in float32, with
# DeepSeek's model in PyTorch: a **golden** file (`tests/hf/goldens/make.py` made it).

# %%
golden = np.load(GOLDEN / "expected.npz")
tokens_BT = jnp.asarray(golden["tokens"][:, :-1])  # the last token is for the prediction module


@cache
def compiled(model):
    return jax.jit(Transformer(model, kernel).apply)


def logits_of(model, variables):
    output = compiled(model)(variables, tokens_BT)
    return np.asarray(logits(output))


ours_BTV = logits_of(model, variables)
theirs_BTV = golden["logits"]
error = np.abs(ours_BTV - theirs_BTV).max()
print(f"logits up to {np.abs(theirs_BTV).max():.2f}; the largest difference is {error:.1e}")
assert error < 1e-4

# %% [markdown]
# If transformers is installed (extra `[parity]`), ask it again:

# %%
if find_spec("torch") and find_spec("transformers"):
    warnings.filterwarnings("ignore", module="tqdm")  # about how it draws bars
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    plain = {"attn_implementation": "eager", "experts_implementation": "eager"}
    peer = transformers.AutoModelForCausalLM.from_pretrained(GOLDEN, dtype=torch.float32, **plain)
    with torch.no_grad():
        live_BTV = peer(torch.tensor(np.asarray(tokens_BT))).logits.numpy()
    print(
        f"transformers {transformers.__version__} differs by {np.abs(live_BTV - ours_BTV).max():.1e}"
    )
    assert np.abs(live_BTV - ours_BTV).max() < 1e-4

# %% [markdown]
# ### Crooked furniture
#
# What do common mistakes look like? None of them crashes, and text still comes out. We make four of
# them on purpose:
#
# * leave out the **bias** of the router when choosing experts;
# * pair the numbers of **RoPE** wrongly: first half with second half, in place of neighbours;
# * forget **YaRN**, which belongs to the released weights at every length;
# * score a **group** of experts by its best (V2) in place of its two best (V3).

# %%


def halves(path, x):
    """Reorder the columns of position, as a loader does that takes halves for neighbours."""
    if path[-1].key not in ("w_qr", "w_kr"):
        return x
    R = x.shape[-1]
    return x[..., jnp.arange(R).reshape(2, R // 2).T.ravel()]


without_bias = variables | {"balance": jax.tree.map(jnp.zeros_like, variables["balance"])}
turned = jax.tree_util.tree_map_with_path(halves, variables["params"])
mistakes = {
    "none": (model, variables),
    "no bias": (model, without_bias),
    "RoPE in halves": (model, variables | {"params": turned}),
    "no YaRN": (replace(model, context=model.rope.original_context), variables),
    "group by its best": (replace(model, group_score="max"), variables),
}
errors = {name: np.abs(logits_of(*used) - theirs_BTV).max() for name, used in mistakes.items()}

# %%
figure, axis = plt.subplots(figsize=(8, 2.8))
bars = axis.barh(list(errors), errors.values(), color=[GREEN] + [RED] * 4)
axis.bar_label(bars, [f" {error:.1e}" for error in errors.values()])
axis.set(xscale="log", xlim=(1e-9, 100), xlabel="largest difference from transformers' logits")
axis.invert_yaxis()
plt.show()
for name, error in errors.items():
    assert (error < 1e-4) if name == "none" else (error > 1e-3), name

# %% [markdown]
# Each mistake moves the logits as far as the logits are large, and a right loader agrees to the sixth
# digit. There is nothing in between, so compare logits, not texts.
#
# ## FP8, as V3 is published
#
# V3's matrices are stored in **FP8** (E4M3: one sign, four bits of exponent, three of fraction). Its
# largest number is 448, so each block of 128 x 128 weights has a scale. In the file the scale is
# called `weight_scale_inv`, and in spite of its name it is what you *multiply* by.
#
# A small V3 of our own, with random weights, written to a folder in bfloat16 and in FP8:

# %%
from seekjax.model.abstract import abstract_variables

small = ModelConfig(vocab=512, embed=256, layers=3, q_latent=128, kv_latent=128, hidden=512)
random = np.random.default_rng(0)
weights = jax.tree.map(
    lambda x: jnp.asarray(random.normal(0, 0.05, x.shape), x.dtype),
    abstract_variables(small, KernelConfig()),
)
save(work / "bf16", small, weights, "bf16")
save(work / "fp8", small, weights, "fp8")
for name in ("bf16", "fp8"):
    size = sum(file.stat().st_size for file in (work / name).glob("*.safetensors"))
    print(f"{name}: {sorted(file.name for file in (work / name).iterdir())}, {size / 1e6:.1f} MB")
print(json.loads((work / "fp8" / "config.json").read_text())["quantization_config"])

# %%
files = open_published(work / "fp8").files
name = "model.layers.0.mlp.up_proj.weight"
x_FD, scale = files.read(name), files.read(name + "_scale_inv")
print(f"{name}: {x_FD.shape} in {x_FD.dtype}, scales {scale.shape} in {scale.dtype}")

# Multiply each block by its scale, by hand
whole = np.repeat(np.repeat(scale, 128, axis=0), 128, axis=1)
by_hand_FD = x_FD.astype(np.float32) * whole
_, read = load(work / "fp8", kernel)
np.testing.assert_array_equal(read["params"]["dense_layers"]["ffn"]["w_up"][0], by_hand_FD.T)

# Three bits of fraction: at most 1/16 off; near zero, half a step of 2^-9 times the scale
true_FD = np.asarray(weights["params"]["dense_layers"]["ffn"]["w_up"][0]).T
off_FD = np.abs(by_hand_FD - true_FD)
assert (off_FD <= np.maximum(np.abs(true_FD) / 16, 2.0**-10 * whole) * 1.001).all()

# %% [markdown]
# ## Fewer bits
#
# To run a model on less memory, seekjax rounds weights to int8 (one scale for each output), int4 (one
# for each 128 weights) or FP8. `quantise` does one matrix; `seekjax quantize FOLDER --to int4` does
# a checkpoint layer by layer, without ever holding all of it.

# %%
from seekjax.quant.formats import quantise

show_source(quantise)

# %%
w_DF = jnp.asarray(random.standard_t(5, (1024, 1024)) * 0.02, jnp.float32)  # some large ones
bits, off = {"bfloat16": 16.0}, {}
off["bfloat16"] = float(jnp.linalg.norm(w_DF.astype(jnp.bfloat16) - w_DF) / jnp.linalg.norm(w_DF))
for kind in ("fp8", "int8", "int4"):
    q = quantise(w_DF, kind, (-2,))
    bits[kind] = 8 * q.nbytes / w_DF.size
    off[kind] = float(jnp.linalg.norm(q.dense() - w_DF) / jnp.linalg.norm(w_DF))
    print(f"{kind}: {bits[kind]:.2f} bits a weight, error {100 * off[kind]:.2f} % of the weights")

figure, axis = plt.subplots(figsize=(8, 3.2))
for (kind, number), colour in zip(bits.items(), (BLUE, GREEN, ORANGE, RED)):
    axis.plot(number, 100 * off[kind], "o", markersize=11, color=colour)
    label = f"{kind}: {671.03 * number / 8:,.0f} GB"
    axis.annotate(label, (number + 0.35, 100 * off[kind]), va="center")
axis.set(xlabel="bits a weight, scales included", ylabel="error, % of the weights (RMS)")
axis.set(yscale="log", xlim=(3, 20), title="the error of one matrix, and the size of V3")
plt.show()
assert off["bfloat16"] < off["int8"] < off["fp8"] < off["int4"]
assert bits["int4"] == 4 + 32 / 128

# %% [markdown]
# int8 has 255 equal steps; FP8 has finer steps near zero and coarser ones for large weights. For
# weights without extreme values int8 is closer. FP8 gains the wider the weights are spread, which is
# why V3 was *trained* with products in FP8: activations and gradients are spread widely.
#
# ## GGUF, for llama.cpp
#
# llama.cpp reads one file, with metadata and tensors under other names again. All experts of a layer
# are one tensor there, and $W^{UK}$ and $W^{UV}$ are apart, for the absorbed form of notebook 1.
# Needs the extra `[gguf]`.

# %%
from seekjax.hf.gguf import reader, save_gguf

if find_spec("gguf"):
    from gguf import GGUFReader

    save_gguf(work / "small.gguf", small, reader(weights), "q8_0")
    gguf = GGUFReader(work / "small.gguf")
    shapes = {tensor.name: tensor.shape.tolist()[::-1] for tensor in gguf.tensors}
    for name in sorted(name for name in shapes if name.startswith("blk.1.")):
        print(f"{name:32} {shapes[name]}")
    assert shapes["blk.1.ffn_up_exps.weight"][0] == small.experts
    assert shapes["blk.1.attn_k_b.weight"] == [small.heads, small.kv_latent, small.nope]

# %% [markdown]
# ## A conversation as text
#
# A chat model has learned one exact form. A **chat template** writes it: V3's marks who speaks with
# special tokens (the bars and low lines in them are unusual characters, so that no user types them by
# accident).

# %%
from seekjax.data.built_in_templates import BUILT_IN
from seekjax.data.chat import ReasoningParser, compile_chat

messages = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "What is 2 + 3?"},
    {"role": "assistant", "content": "<think>\nTwo and three.\n</think>\n\n5"},
    {"role": "user", "content": "And 4 more?"},
]
text = {name: compile_chat(BUILT_IN[name]).render(messages) for name in ("v2", "v3", "r1")}
for name, written in text.items():
    print(f"{name}: {written!r}\n")

# %% [markdown]
# Two things to see:
#
# * The earlier answer is there **without its reasoning**: R1 does not read its old thoughts.
# * R1's text ends with `<think>`: the answer begins inside the reasoning. DeepSeek recommends this,
#   because the model sometimes leaves the thinking out otherwise.

# %%
bos, user, assistant = "<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"
eos = "<｜end▁of▁sentence｜>"
turn = f"Answer briefly.{user}What is 2 + 3?{assistant}\n\n5{eos}{user}And 4 more?{assistant}"
assert text["v3"] == bos + turn  # the template in V3's tokenizer_config.json writes this
assert text["r1"] == bos + turn + "<think>\n"

# %% [markdown]
# While an answer arrives piece by piece, a reader wants to see the reasoning apart from the answer. A
# tag may be cut in two, so a piece that could be the beginning of a tag has to wait:

# %%
show_source(ReasoningParser.feed)

# %%
parser = ReasoningParser(thinking=True)  # R1's answer begins inside the reasoning
reasoning, answer = "", ""
for piece in ["5 and 4", " are 9.</th", "ink>", "\n\n", "9"]:
    for thinking, part in parser.feed(piece):
        if thinking:
            reasoning += part
        else:
            answer += part
    print(f"after {piece!r:16} reasoning {reasoning!r:20} answer {answer!r}")
assert (reasoning, answer.strip()) == ("5 and 4 are 9.", "9")

# %% [markdown]
# ## Exercises
#
# Write your answer into the first cell of each exercise in place of `None`; the second cell checks
# it.
#
# **1.** What are the shape of `model.layers.5.self_attn.kv_a_proj_with_mqa.weight` in V3, and the
# shape of its `weight_scale_inv`? A list of four numbers: rows, columns, rows of scales, columns of
# scales. (V3: note 512, key of position 64, width 7168.)

# %%
answer_1 = None

# %%
check(
    answer_1, [576, 7168, 5, 56], "(C|R) D; blocks of 128 x 128, where the last may be part of one."
)

# %% [markdown]
# <details><summary>Solution</summary>
#
# 576 rows are four blocks and a half: five scales.
#
# ```python
# rows, columns = 512 + 64, 7168
# answer_1 = [rows, columns, math.ceil(rows / 128), math.ceil(columns / 128)]
# ```
#
# </details>

# %% [markdown]
# **2.** `q_b_proj` has the axes `H(N|R) Q`. Write a function `(x, H, N, R)` that returns
# `w_qr_QHR`, the part of position, from the tensor `x` in the file.

# %%
answer_2 = None  # def answer_2(x, H, N, R): ...

# %%


def takes_position(function):
    name = "model.layers.1.self_attn.q_b_proj.weight"
    tensor = next(tensor for tensor in tensors(model) if tensor.name == name)
    x = checkpoint.values(tensor).astype(np.float32)
    _, w_qr_QHR = split(x, tensor)
    return np.array_equal(function(x, model.heads, model.nope, model.rotary), w_qr_QHR)


check(answer_2, takes_position, "Reshape to [H, N + R, Q], take the last R, move Q to the front.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# def answer_2(x, H, N, R):
#     by_head = x.reshape(H, N + R, -1)
#     return by_head[:, N:].transpose(2, 0, 1)
# ```
#
# </details>

# %% [markdown]
# **3.** You have 400 GB of memory, and the KV cache and the rest need 20 GB. How many bits a weight
# may V3's 671 billion weights have at most? And which of the formats above fits? Answer with the
# name of the format.

# %%
answer_3 = None

# %%
check(answer_3, "int4", "380 GB x 8 bits / 671 billion = 4.5 bits.")

# %% [markdown]
# <details><summary>Solution</summary>
#
# ```python
# most = 380e9 * 8 / 671e9
# answer_3 = next(kind for kind, number in bits.items() if number <= most)
# ```
#
# </details>

# %% [markdown]
# ## What to read next
#
# * V3 sections 2.1 and 2.2 with the table above beside them; V3 section 3.3 for FP8;
#   [R1](https://arxiv.org/abs/2501.12948) table 1 for the template of R1-Zero.
# * `seekjax/hf/names.py` (the table), `seekjax/hf/load.py`, `seekjax/quant/formats.py`,
#   `seekjax/hf/gguf.py`, `seekjax/data/chat.py`.
# * With a real checkpoint: `seekjax chat FOLDER`, `seekjax quantize FOLDER --to int4 --out RUN`,
#   `seekjax convert --from FOLDER --to-gguf FILE`. To train one of your own, open
#   [notebook 5](05_train_a_model.ipynb).
