"""One table for both directions: the tensors of DeepSeek's published layout, and where each lives
in seekjax.

A row states a tensor's name within its layer, its shape in the letters of seekjax/model, and our
arrays. `(N|R)` is a dimension in which two arrays lie one after the other: "H(N|R) Q" is a matrix
[heads * (nope + rotary), query latent], per head first the rows without position, and it is our
w_uq_QHN and w_qr_QHR. F is the inner width of whichever feed-forward the row belongs to; {} stands
for the number of an expert.
"""

import math
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from seekjax.config import ModelConfig

Kind = Literal[
    "matrix",  # in FP8 blocks where the file is FP8
    "whole",  # never in blocks
    "exact",  # never in blocks, and float32 in memory whatever the compute type: norms and router
    "bias",  # float32 in every file; the balance bias, which is no parameter
    "copy",  # of the embedding or the head, which prediction modules share
]


class Row(NamedTuple):
    file: str
    axes: str
    ours: str  # path_AXES of each part
    kind: Kind


def swiglu(file: str, ours: str) -> tuple[Row, ...]:
    """The three matrices of a feed-forward."""
    return (
        Row(f"{file}.gate_proj.weight", "F D", f"{ours}/w_gate_DF", "matrix"),
        Row(f"{file}.up_proj.weight", "F D", f"{ours}/w_up_DF", "matrix"),
        Row(f"{file}.down_proj.weight", "D F", f"{ours}/w_down_FD", "matrix"),
    )


TABLE: dict[str, tuple[Row, ...]] = {
    "model": (
        Row("model.embed_tokens.weight", "V D", "embed_VD", "whole"),
        Row("model.norm.weight", "D", "final_norm_D", "exact"),
        Row("lm_head.weight", "V D", "head_DV", "whole"),
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
        Row("eh_proj.weight", "A (D|D)", "w_token_DA w_hidden_DA", "whole"),
        Row("shared_head.norm.weight", "D", "final_norm_D", "exact"),
        Row("shared_head.head.weight", "V D", "head_DV", "copy"),
    ),
}


class Part(NamedTuple):
    """One of our arrays, or its slice at a layer and an expert."""

    path: tuple[str, ...]
    at: tuple[int, ...]
    axes: str  # behind the leading axes of layer and expert


class Tensor(NamedTuple):
    """One tensor of the files."""

    name: str
    shape: tuple[int, ...]
    row: Row
    parts: tuple[Part, ...]
    sizes: dict[str, int]  # of each letter


def tensors(model: ModelConfig) -> Iterator[Tensor]:
    """Every tensor of the model's files, in the order of its layers."""
    for i in range(model.layers + model.mtp_depth):
        dense, within, prediction = i < model.dense_layers, f"model.layers.{i}.", i >= model.layers
        if prediction:
            place, at = (f"mtp_{i - model.layers + 1}",), ()
            yield from _made(model, "prediction", within, place, at)
            place += ("block",)
        else:
            place, at = (
                (("dense_layers",), (i,))
                if dense
                else (("expert_layers",), (i - model.dense_layers,))
            )
        for section in (
            "layer",
            "query latent" if model.q_latent else "query",
            *(("dense",) if dense else experts(model)),
        ):
            yield from _made(model, section, within, place, at)
    yield from _made(model, "model", "", (), ())


def experts(model: ModelConfig) -> tuple[str, ...]:
    """The sections of a mixture. Only sigmoid routing has the bias; ours is zero elsewhere."""
    return (
        "router",
        *(("bias",) if model.scoring == "sigmoid" else ()),
        *(("shared",) if model.shared_experts else ()),
        "experts",
    )


def _made(
    model: ModelConfig, section: str, within: str, place: tuple[str, ...], at: tuple[int, ...]
) -> Iterator[Tensor]:
    width = {"dense": model.hidden, "shared": model.shared_experts * model.expert_hidden}.get(
        section, model.expert_hidden
    )
    sizes = {
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
        "F": width,
    }
    for expert in range(model.experts) if section == "experts" else (None,):
        for row in TABLE[section]:
            shape = tuple(
                math.prod(sum(sizes[letter] for letter in factor) for factor in factors(dimension))
                for dimension in row.axes.split()
            )
            parts = []
            for ours in row.ours.split():
                path, _, axes = ours.rpartition("_")
                root = "balance" if row.kind == "bias" else "params"
                parts.append(
                    Part(
                        (root, *(() if row.kind == "copy" else place), *path.split("/")),
                        at if expert is None else (*at, expert),
                        axes,
                    )
                )
            yield Tensor(within + row.file.format(expert), shape, row, tuple(parts), sizes)


def factors(axes: str) -> list[str]:
    """ "H(N|R) Q" -> ["H", "NR", "Q"]: a string of several letters is one dimension in which
    several arrays lie."""
    return [factor.replace("|", "") for factor in re.findall(r"\w(?:\|\w)+|\w", axes)]


def split(x: np.ndarray, tensor: Tensor) -> list[np.ndarray]:
    """Our arrays (views) in the order of tensor.parts, out of the file's."""
    names = factors(tensor.row.axes)
    sizes = [[tensor.sizes[letter] for letter in factor] for factor in names]
    x = x.reshape([sum(size) for size in sizes])
    where = next((i for i, name in enumerate(names) if len(name) > 1), 0)
    found = []
    for k, (piece, part) in enumerate(
        zip(np.split(x, np.cumsum(sizes[where])[:-1], where), tensor.parts, strict=True)
    ):
        letters = [name[k] if len(name) > 1 else name for name in names]
        found.append(piece.transpose([letters.index(letter) for letter in part.axes]))
    return found


def join(ours: list[np.ndarray], tensor: Tensor) -> np.ndarray:
    """The file's tensor out of our arrays: the inverse of `split`."""
    names = factors(tensor.row.axes)
    where = next((i for i, name in enumerate(names) if len(name) > 1), 0)
    pieces = []
    for k, (x, part) in enumerate(zip(ours, tensor.parts, strict=True)):
        letters = [name[k] if len(name) > 1 else name for name in names]
        pieces.append(x.transpose([part.axes.index(letter) for letter in letters]))
    return np.ascontiguousarray(np.concatenate(pieces, where).reshape(tensor.shape))
