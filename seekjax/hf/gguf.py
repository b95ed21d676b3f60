"""Weights into one GGUF file of llama.cpp's deepseek2 architecture, with the `gguf` package.

The file's tensors are the published ones under llama.cpp's names, with two exceptions: all experts
of a layer are one tensor, and kv_b_proj is two tensors, its two parts, the first one transposed as
attention in the latent space reads it. Prediction modules are left out: llama.cpp does not use
them.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from seekjax.config import ModelConfig
from seekjax.config.formats import Type
from seekjax.console import track
from seekjax.errors import WeightsError, need
from seekjax.extras import import_extra
from seekjax.hf.gguf_tokenizer import add_tokenizer
from seekjax.hf.names import Tensor, split, tensors
from seekjax.hf.save import fetch_tensor
from seekjax.model.rope import extended
from seekjax.storage import new_file

Read = Callable[[Tensor], np.ndarray]  # a tensor of the published layout -> float32

FILE_TYPE = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}
LITE_LAYERS = (26, 27)  # by which llama.cpp recognises a model without a query latent
VOCABULARY = ("token_embd.weight", "output.weight")  # never smaller than q8_0
SUFFIXES = (".weight", ".bias")


class Piece(NamedTuple):
    """One tensor of the file: parts that lie one after another, each made when it is written."""

    name: str
    shape: tuple[int, ...]  # in NumPy's order: rows last, the reverse of llama.cpp's
    parts: tuple[Callable[[Read], np.ndarray], ...]


def import_gguf() -> ModuleType:
    """Import the `gguf` package. Raises WeightsError if it is not installed."""
    return import_extra("gguf", "gguf", "a GGUF file", WeightsError)


def save_gguf(
    path: Path,
    model: ModelConfig,
    read: Read,
    kind: Type = "f32",
    tokenizer: Path | None = None,
) -> None:
    """Write a file that llama.cpp opens; it appears complete or not at all.

    Norms, router and balance bias stay float32, the embedding and the head are at least q8_0, and a
    matrix whose rows are not divisible into blocks of 32 is float16.

    Args:
        path: The new file.
        model: The model's config.
        read: Returns a tensor of the published layout: `reader`, or one that reads files.
        kind: The type of the matrices.
        tokenizer: The folder with tokenizer.json; without one the file has token ids only.

    Raises:
        WeightsError: llama.cpp cannot run the model, or the file exists.
    """
    gguf = import_gguf()
    check(model)
    with new_file(Path(path).expanduser(), WeightsError) as temporary:
        writer = gguf.GGUFWriter(temporary, "deepseek2")
        add_model(writer, model, gguf)
        writer.add_file_type(gguf.LlamaFileType[FILE_TYPE[kind]])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        add_tokenizer(writer, model.vocab, tokenizer)

        # All names and shapes come first, so that the values can follow one by one.
        pieces = [(piece, stored_as(piece, kind, gguf)) for piece in contents(model, gguf)]
        for piece, quantisation in pieces:
            shape = gguf.quant_shape_to_byte_shape(piece.shape, quantisation)
            dtype = np.dtype(np.uint8)
            writer.add_tensor_info(piece.name, shape, dtype, math.prod(shape), quantisation)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()

        for piece, quantisation in track(pieces, len(pieces), "tensors written"):
            writer.write_tensor_data(_quantised_bytes(piece, read, quantisation, gguf))
        writer.close()


def _quantised_bytes(
    piece: Piece,
    read: Read,
    quantisation: Any,
    gguf: ModuleType,
) -> np.ndarray:
    """The bytes of a tensor of the file. Parts are quantised one by one, to hold few in float32."""
    quantised = []
    for part in piece.parts:
        values = np.ascontiguousarray(part(read), np.float32)
        quantised.append(gguf.quantize(values, quantisation).view(np.uint8).ravel())
    return np.concatenate(quantised)


def reader(variables: dict) -> Read:
    """Return a function that reads published tensors from {"params", "balance"}."""

    def read(tensor: Tensor) -> np.ndarray:
        return fetch_tensor(variables, tensor).astype(np.float32)

    return read


def check(model: ModelConfig) -> None:
    """Raise WeightsError for a model that llama.cpp's deepseek2 would reject or compute wrongly."""
    mixture = model.layers > model.dense_layers
    ungrouped = model.groups_per_token == model.expert_groups
    one_scale = model.rope.mscale == model.rope.mscale_all > 0

    # Each row: what llama.cpp requires, and what the sentence says of a model without it.
    requirements = (
        (
            model.attention == "mla" and model.nope > 0,
            f"model.attention {model.attention} and model.nope {model.nope}",
        ),
        (
            bool(model.q_latent) != (model.layers in LITE_LAYERS),
            f"model.q_latent {model.q_latent} and {model.layers} layers: it takes 26 or 27 layers "
            "for one without a query latent, and any other number for one with it",
        ),
        (
            model.latent_eps == model.norm_eps,
            f"model.latent_norm_eps {model.latent_eps} unlike model.norm_eps: it has one epsilon",
        ),
        (not mixture or model.shared_experts > 0, "experts of which none is shared"),
        (
            not mixture or model.scoring in ("softmax", "sigmoid"),
            f"model.scoring {model.scoring}: it has softmax and sigmoid",
        ),
        (
            not mixture or ungrouped or model.group_score == "top2",
            "model.group_score max: it scores a group by its two best experts",
        ),
        (
            not extended(model) or one_scale,
            "model.rope.mscale unlike mscale_all: it takes them to be equal",
        ),
    )
    for fits, what in requirements:
        need(fits, f"llama.cpp's deepseek2 has no place for a model with {what}.", WeightsError)


def add_model(writer: Any, model: ModelConfig, gguf: ModuleType) -> None:
    """Add the keys that define what the model computes.

    Latent attention is described as one key and value head as wide as the cache, with the widths of
    the real heads in the keys that end in `_mla`.
    """
    writer.add_name("seekjax")
    writer.add_vocab_size(model.vocab)
    writer.add_context_length(model.context)
    writer.add_embedding_length(model.embed)
    writer.add_block_count(model.layers)
    writer.add_leading_dense_block_count(model.dense_layers)
    writer.add_feed_forward_length(model.hidden)
    writer.add_layer_norm_rms_eps(model.norm_eps)

    # Attention
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(1)
    writer.add_kv_lora_rank(model.kv_latent)
    if model.q_latent:
        writer.add_q_lora_rank(model.q_latent)
    writer.add_key_length(model.kv_latent + model.rotary)
    writer.add_value_length(model.kv_latent)
    writer.add_key_length_mla(model.nope + model.rotary)
    writer.add_value_length_mla(model.value)

    # Experts
    writer.add_expert_feed_forward_length(model.expert_hidden)
    writer.add_expert_shared_count(model.shared_experts)
    if model.layers > model.dense_layers:
        _add_router(writer, model, gguf)

    # Positions
    writer.add_rope_dimension_count(model.rotary)
    writer.add_rope_freq_base(model.rope.base)
    if extended(model):
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(model.rope.factor)
        writer.add_rope_scaling_orig_ctx_len(model.rope.original_context)
        writer.add_rope_scaling_yarn_beta_fast(model.rope.beta_fast)
        writer.add_rope_scaling_yarn_beta_slow(model.rope.beta_slow)
        # llama.cpp's converter multiplies by 0.1, and its loader divides by 0.1 again.
        writer.add_rope_scaling_yarn_log_mul(0.1 * model.rope.mscale_all)


def _add_router(writer: Any, model: ModelConfig, gguf: ModuleType) -> None:
    """Add the keys that define how experts are chosen."""
    writer.add_expert_count(model.experts)
    writer.add_expert_used_count(model.experts_per_token)
    writer.add_expert_weights_scale(model.route_scale)
    writer.add_expert_weights_norm(model.renormalise)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType[model.scoring.upper()])
    if model.groups_per_token < model.expert_groups:
        writer.add_expert_group_count(model.expert_groups)
        writer.add_expert_group_used_count(model.groups_per_token)


def contents(model: ModelConfig, gguf: ModuleType) -> Iterator[Piece]:
    """Yield every tensor of the file, in the order of the layers."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.DEEPSEEK2, model.layers)
    waiting: dict[str, list[Tensor]] = {}  # name of all experts' matrix -> those that came so far

    for tensor in tensors(replace(model, mtp_depth=0)):
        published = tensor.name.replace("e_score_correction_bias", "e_score_correction.bias")
        if ".kv_b_proj." in published:
            yield from _key_and_value(tensor, names)
        elif ".experts." in published:
            joined = re.sub(r"\.experts\.\d+\.", ".experts.", published)
            experts = waiting.setdefault(joined, [])
            experts.append(tensor)
            if len(experts) == model.experts:
                name = names.get_name(joined, try_suffixes=SUFFIXES)
                parts = tuple(partial(_read_all, tensor=expert) for expert in waiting.pop(joined))
                yield Piece(name, (model.experts, *tensor.shape), parts)
        else:
            name = names.get_name(published, try_suffixes=SUFFIXES)
            yield Piece(name, tensor.shape, (partial(_read_all, tensor=tensor),))


def _key_and_value(tensor: Tensor, names: Any) -> Iterator[Piece]:
    """The two tensors of kv_b_proj: w_uk as [H, C, N] and w_uv as [H, U, C]."""
    H, N, U, C = (tensor.sizes[letter] for letter in "HNUC")
    for number, letter, shape in ((0, "k", (H, C, N)), (1, "v", (H, U, C))):
        published = tensor.name.replace("kv_b", f"{letter}_b")
        name = names.get_name(published, try_suffixes=SUFFIXES)
        yield Piece(name, shape, (partial(_read_part, tensor=tensor, number=number),))


def _read_all(read: Read, tensor: Tensor) -> np.ndarray:
    return read(tensor)


def _read_part(
    read: Read,
    tensor: Tensor,
    number: int,
) -> np.ndarray:
    """One part of kv_b_proj, in the order that attention in the latent space reads."""
    ours = split(read(tensor), tensor)[number]  # [C, H, N] or [C, H, U]
    order = (1, 0, 2) if number == 0 else (1, 2, 0)
    return ours.transpose(order)


def stored_as(piece: Piece, kind: Type, gguf: ModuleType) -> Any:
    """Return the gguf type of a tensor."""
    types = gguf.GGMLQuantizationType
    if len(piece.shape) == 1 or "ffn_gate_inp" in piece.name:  # norms, bias and router
        return types.F32
    if kind == "q4_0" and piece.name in VOCABULARY:
        kind = "q8_0"

    wanted = types[kind.upper()]
    block, _ = gguf.GGML_QUANT_SIZES[wanted]
    return wanted if piece.shape[-1] % block == 0 else types.F16
