"""One table for both directions: the tensors of DeepSeek's published layout, and where each is in
seekjax.

A row gives a tensor's name within its layer, its shape in the letters of seekjax/model, and our
arrays. `(N|R)` is an axis along which two arrays lie one after the other: "H(N|R) Q" is a matrix
[heads * (nope + rotary), query latent], whose rows are, per head, first those without position and
then the rotary ones; it is our w_uq_QHN and w_qr_QHR. F is the inner width of the feed-forward that
the row belongs to; {} is the number of an expert.
"""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from seekjax.config import ModelConfig

Kind = Literal[
    "matrix",  # in FP8 blocks if the file is FP8
    "plain",  # never in blocks
    "exact",  # never in blocks, and float32 in memory whatever the compute dtype: norms, router
    "bias",  # float32 in every file: the balance bias, which is not a parameter
    "copy",  # of the embedding or the head, which prediction modules share
]


class Row(NamedTuple):
    """One tensor of the files, and what it is in seekjax."""

    file: str  # name within its layer
    axes: str
    ours: str  # path_AXES of each of our arrays, separated by spaces
    kind: Kind


def swiglu(file: str, ours: str) -> tuple[Row, ...]:
    """Return the rows of a feed-forward: three matrices."""
    return (
        Row(f"{file}.gate_proj.weight", "F D", f"{ours}/w_gate_DF", "matrix"),
        Row(f"{file}.up_proj.weight", "F D", f"{ours}/w_up_DF", "matrix"),
        Row(f"{file}.down_proj.weight", "D F", f"{ours}/w_down_FD", "matrix"),
    )


TABLE: dict[str, tuple[Row, ...]] = {
    "model": (
        Row("model.embed_tokens.weight", "V D", "embed_VD", "plain"),
        Row("model.norm.weight", "D", "final_norm_D", "exact"),
        Row("lm_head.weight", "V D", "head_DV", "plain"),
    ),
    "layer": (
        Row("input_layernorm.weight", "D", "attention_norm_D", "exact"),
        Row(
            "self_attn.kv_a_proj_with_mqa.weight",
            "(C|R) D",
            "attention/w_dkv_DC attention/w_kr_DR",
            "matrix",
        ),
        Row("self_attn.kv_a_layernorm.weight", "C", "attention/kv_norm_C", "exact"),
        Row(
            "self_attn.kv_b_proj.weight",
            "H(N|U) C",
            "attention/w_uk_CHN attention/w_uv_CHU",
            "matrix",
        ),
        Row("self_attn.o_proj.weight", "D HU", "attention/w_o_HUD", "matrix"),
        Row("post_attention_layernorm.weight", "D", "ffn_norm_D", "exact"),
    ),
    "query": (
        Row(
            "self_attn.q_proj.weight", "H(N|R) D", "attention/w_uq_DHN attention/w_qr_DHR", "matrix"
        ),
    ),
    "query latent": (
        Row("self_attn.q_a_proj.weight", "Q D", "attention/w_dq_DQ", "matrix"),
        Row("self_attn.q_a_layernorm.weight", "Q", "attention/q_norm_Q", "exact"),
        Row(
            "self_attn.q_b_proj.weight",
            "H(N|R) Q",
            "attention/w_uq_QHN attention/w_qr_QHR",
            "matrix",
        ),
    ),
    "dense": swiglu("mlp", "ffn"),
    "router": (Row("mlp.gate.weight", "E D", "ffn/w_router_DE", "exact"),),
    "bias": (Row("mlp.gate.e_score_correction_bias", "E", "ffn/bias_E", "bias"),),
    "shared": swiglu("mlp.shared_experts", "ffn/shared"),
    "experts": swiglu("mlp.experts.{}", "ffn"),
    "prediction": (
        Row("embed_tokens.weight", "V D", "embed_VD", "copy"),
        Row("enorm.weight", "D", "token_norm_D", "exact"),
        Row("hnorm.weight", "D", "hidden_norm_D", "exact"),
        Row("eh_proj.weight", "A (D|D)", "w_token_DA w_hidden_DA", "plain"),
        Row("shared_head.norm.weight", "D", "final_norm_D", "exact"),
        Row("shared_head.head.weight", "V D", "head_DV", "copy"),
    ),
}


class Part(NamedTuple):
    """One of our arrays, or its slice at a layer and an expert."""

    path: tuple[str, ...]
    at: tuple[int, ...]  # index in the leading axes: layer, expert
    axes: str  # after the leading axes


class Tensor(NamedTuple):
    """One tensor of the files."""

    name: str
    shape: tuple[int, ...]
    row: Row
    parts: tuple[Part, ...]
    sizes: dict[str, int]  # of each letter


def tensors(model: ModelConfig) -> Iterator[Tensor]:
    """Yield every tensor of the model's files, in the order of its layers."""
    query = "query latent" if model.q_latent else "query"
    for layer in range(model.layers + model.mtp_depth):
        prefix = f"model.layers.{layer}."
        feed_forward = experts(model)
        if layer < model.dense_layers:
            path, at = ("dense_layers",), (layer,)
            feed_forward = ("dense",)
        elif layer < model.layers:
            path, at = ("expert_layers",), (layer - model.dense_layers,)
        else:
            module = f"mtp_{layer - model.layers + 1}"
            yield from _section(model, "prediction", prefix, (module,), ())
            path, at = (module, "block"), ()

        for section in ("layer", query, *feed_forward):
            yield from _section(model, section, prefix, path, at)
    yield from _section(model, "model", "", (), ())


def experts(model: ModelConfig) -> tuple[str, ...]:
    """Return the sections of a mixture of experts.

    Only sigmoid routing has the bias in the files; ours is zero otherwise.
    """
    sections = ["router"]
    if model.scoring == "sigmoid":
        sections.append("bias")
    if model.shared_experts:
        sections.append("shared")
    sections.append("experts")
    return tuple(sections)


def _section(
    model: ModelConfig,
    section: str,
    prefix: str,
    path: tuple[str, ...],
    at: tuple[int, ...],
) -> Iterator[Tensor]:
    """The tensors of one section of the table, whose arrays are under `path`."""
    sizes = _sizes(model, section)
    copies = range(model.experts) if section == "experts" else (None,)
    for expert in copies:
        index = at if expert is None else (*at, expert)
        for row in TABLE[section]:
            root = "balance" if row.kind == "bias" else "params"
            folder = () if row.kind == "copy" else path

            parts = []
            for ours in row.ours.split():
                name, _, axes = ours.rpartition("_")
                parts.append(Part((root, *folder, *name.split("/")), index, axes))

            name = prefix + row.file.format(expert)
            yield Tensor(name, _shape(row.axes, sizes), row, tuple(parts), sizes)


def _sizes(model: ModelConfig, section: str) -> dict[str, int]:
    """The size of each letter in a section of the table."""
    widths = {"dense": model.hidden, "shared": model.shared_experts * model.expert_hidden}
    return {
        "V": model.vocab,
        "D": model.embed,
        "A": model.embed,
        "H": model.heads,
        "N": model.nope,
        "R": model.rotary,
        "U": model.value,
        "Q": model.q_latent,
        "C": model.kv_latent,
        "E": model.experts,
        "F": widths.get(section, model.expert_hidden),
    }


def _shape(axes: str, sizes: dict[str, int]) -> tuple[int, ...]:
    """The shape of a tensor: each axis is a product of factors, each factor a sum of letters."""
    shape = []
    for axis in axes.split():
        size = 1
        for factor in factors(axis):
            size *= sum(sizes[letter] for letter in factor)
        shape.append(size)
    return tuple(shape)


def factors(axes: str) -> list[str]:
    """Split axes into factors: "H(N|R) Q" -> ["H", "NR", "Q"].

    A factor of several letters is one along which several arrays lie.
    """
    return [factor.replace("|", "") for factor in re.findall(r"\w(?:\|\w)+|\w", axes)]


def _joined_axis(names: list[str]) -> int:
    """The factor along which several arrays lie; 0 if there is only one array."""
    for axis, name in enumerate(names):
        if len(name) > 1:
            return axis
    return 0


def letters_of(names: list[str], part: int) -> list[str]:
    """Return the letters of one part's axes, in the order of the file."""
    return [name[part] if len(name) > 1 else name for name in names]


def split(x: np.ndarray, tensor: Tensor) -> list[np.ndarray]:
    """Return our arrays (views of the file's `x`) in the order of tensor.parts."""
    names = factors(tensor.row.axes)
    sizes = [[tensor.sizes[letter] for letter in factor] for factor in names]
    x = x.reshape([sum(size) for size in sizes])

    axis = _joined_axis(names)
    ends = np.cumsum(sizes[axis])
    pieces = np.split(x, ends[:-1], axis)

    ours = []
    for number, (piece, part) in enumerate(zip(pieces, tensor.parts, strict=True)):
        letters = letters_of(names, number)
        ours.append(piece.transpose([letters.index(letter) for letter in part.axes]))
    return ours


def join(ours: list[np.ndarray], tensor: Tensor) -> np.ndarray:
    """Return the file's tensor from our arrays: the inverse of `split`."""
    names = factors(tensor.row.axes)
    pieces = []
    for number, (x, part) in enumerate(zip(ours, tensor.parts, strict=True)):
        letters = letters_of(names, number)
        pieces.append(x.transpose([part.axes.index(letter) for letter in letters]))

    joined = np.concatenate(pieces, _joined_axis(names))
    return np.ascontiguousarray(joined.reshape(tensor.shape))
