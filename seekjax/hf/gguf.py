"""Weights into one GGUF file of llama.cpp's deepseek2 architecture, which runs them on a laptop:
through the `gguf` package and its quantisers.

The file's tensors are the published ones under llama.cpp's names, except that all experts of a
layer are one tensor and that kv_b_proj is its two parts, the first one transposed, as attention in
the latent space reads them. Prediction modules are left out: llama.cpp has no use for them there.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np

from seekjax.config import ModelConfig
from seekjax.errors import WeightsError, need
from seekjax.extras import import_extra
from seekjax.hf.gguf_tokenizer import add_tokenizer
from seekjax.hf.names import Tensor, join, split, tensors
from seekjax.hf.save import fetch
from seekjax.model.rope import extended
from seekjax.storage import new_file

Type = Literal["f32", "f16", "q8_0", "q4_0"]
Read = Callable[[Tensor], np.ndarray]  # a tensor of the published layout, float32
FILE_TYPE = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}
LITE = (26, 27)  # layers by which llama.cpp tells a model without a query latent


class Piece(NamedTuple):
    """One tensor of the file: parts that lie one after the other, each made when it is its turn."""

    name: str
    shape: tuple[int, ...]  # as NumPy has it: rows last, the reverse of llama.cpp's
    parts: tuple[Callable[[Read], np.ndarray], ...]


def import_gguf() -> ModuleType:
    """Import the `gguf` package. Raises WeightsError if it is not installed."""
    return import_extra("gguf", "gguf", "a GGUF file", WeightsError)


def save_gguf(
    path: Path, model: ModelConfig, read: Read, kind: Type = "f32", tokenizer: Path | None = None
) -> None:
    """Write a file that llama.cpp opens; it appears whole, or not at all.

    `read` gives the published tensors (`reader`, or from files); `tokenizer` is the folder that has
    tokenizer.json, without which the file knows ids only. Norms, router and balance bias stay
    float32, the embedding and the head are at least q8_0, and a matrix whose rows no block of 32
    divides is float16. Raises WeightsError.
    """
    gguf = import_gguf()
    check(model)
    with new_file(Path(path).expanduser(), WeightsError) as temporary:
        writer = gguf.GGUFWriter(temporary, "deepseek2")
        describe(writer, model, gguf)
        writer.add_file_type(gguf.LlamaFileType[FILE_TYPE[kind]])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        add_tokenizer(writer, model.vocab, tokenizer)
        pieces = [(piece, stored_as(piece, kind, gguf)) for piece in contents(model, gguf)]
        for piece, quantisation in pieces:
            shape = gguf.quant_shape_to_byte_shape(piece.shape, quantisation)
            writer.add_tensor_info(
                piece.name, shape, np.dtype(np.uint8), math.prod(shape), quantisation
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for piece, quantisation in pieces:
            done = [
                gguf.quantize(np.ascontiguousarray(part(read), np.float32), quantisation)
                .view(np.uint8)
                .ravel()
                for part in piece.parts
            ]
            writer.write_tensor_data(np.concatenate(done))
        writer.close()


def reader(variables: dict) -> Read:
    """The published tensors out of {"params", "balance"}."""
    return lambda tensor: join([fetch(variables, part) for part in tensor.parts], tensor).astype(
        np.float32
    )


def check(model: ModelConfig) -> None:
    """Raise WeightsError for a model that llama.cpp's deepseek2 would not open or would compute
    otherwise."""

    def fits(condition: bool, what: str) -> None:
        need(
            condition, f"llama.cpp's deepseek2 has no place for a model with {what}.", WeightsError
        )

    mixture = model.layers > model.dense_layers
    fits(
        model.attention == "mla" and model.nope > 0,
        f"model.attention {model.attention} and model.nope {model.nope}",
    )
    fits(
        bool(model.q_latent) != (model.layers in LITE),
        f"model.q_latent {model.q_latent} and {model.layers} layers: it takes 26 or 27 "
        "layers for one "
        "without a query latent, and any other number for one with it",
    )
    fits(not mixture or model.shared_experts > 0, "experts of which none is shared")
    fits(
        not mixture or model.groups_per_token == model.expert_groups or model.group_score == "top2",
        "model.group_score max: it scores a group by its two best experts",
    )
    fits(
        not extended(model) or model.rope.mscale == model.rope.mscale_all > 0,
        "model.rope.mscale unlike mscale_all: it takes them to be one",
    )


def describe(writer, model: ModelConfig, gguf: ModuleType) -> None:
    """The keys that say how the model computes. Latent attention is told as one key and value head
    as wide as the cache, with what each head really has beside it.
    """
    writer.add_name("seekjax")
    for add, value in (
        (writer.add_vocab_size, model.vocab),
        (writer.add_context_length, model.context),
        (writer.add_embedding_length, model.embed),
        (writer.add_block_count, model.layers),
        (writer.add_leading_dense_block_count, model.dense_layers),
        (writer.add_feed_forward_length, model.hidden),
        (writer.add_head_count, model.heads),
        (writer.add_head_count_kv, 1),
        (writer.add_layer_norm_rms_eps, model.norm_eps),
        (writer.add_kv_lora_rank, model.kv_latent),
        (writer.add_key_length, model.kv_latent + model.rotary),
        (writer.add_value_length, model.kv_latent),
        (writer.add_key_length_mla, model.nope + model.rotary),
        (writer.add_value_length_mla, model.value),
        (writer.add_rope_dimension_count, model.rotary),
        (writer.add_rope_freq_base, model.rope.base),
        (writer.add_expert_feed_forward_length, model.expert_hidden),
        (writer.add_expert_shared_count, model.shared_experts),
    ):
        add(value)
    if model.q_latent:
        writer.add_q_lora_rank(model.q_latent)
    if model.layers > model.dense_layers:
        writer.add_expert_count(model.experts)
        writer.add_expert_used_count(model.experts_per_token)
        writer.add_expert_weights_scale(model.route_scale)
        writer.add_expert_weights_norm(model.renormalise)
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType[model.scoring.upper()])
        if model.groups_per_token < model.expert_groups:
            writer.add_expert_group_count(model.expert_groups)
            writer.add_expert_group_used_count(model.groups_per_token)
    if extended(model):
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(model.rope.factor)
        writer.add_rope_scaling_orig_ctx_len(model.rope.original_context)
        writer.add_rope_scaling_yarn_beta_fast(model.rope.beta_fast)
        writer.add_rope_scaling_yarn_beta_slow(model.rope.beta_slow)
        writer.add_rope_scaling_yarn_log_mul(
            0.1 * model.rope.mscale_all
        )  # by llama.cpp's own custom a tenth, which its loader takes back


def contents(model: ModelConfig, gguf: ModuleType) -> Iterator[Piece]:
    """Every tensor of the file, in the order of the layers."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.DEEPSEEK2, model.layers)
    experts: dict[str, list[Tensor]] = {}
    for tensor in tensors(replace(model, mtp_depth=0)):
        published = tensor.name.replace("e_score_correction_bias", "e_score_correction.bias")
        if ".kv_b_proj." in published:
            H, N, U, C = (tensor.sizes[letter] for letter in "HNUC")
            for part, shape in enumerate(((H, C, N), (H, U, C))):
                name = names.get_name(
                    published.replace("kv_b", "kv"[part] + "_b"), try_suffixes=(".weight",)
                )
                yield Piece(
                    name,
                    shape,
                    (lambda read, tensor=tensor, part=part: _half(read(tensor), tensor, part),),
                )
        elif ".experts." in published:
            together = re.sub(r"\.experts\.\d+\.", ".experts.", published)
            experts.setdefault(together, []).append(tensor)
            if len(experts[together]) == model.experts:
                name = names.get_name(together, try_suffixes=(".weight",))
                yield Piece(
                    name,
                    (model.experts, *tensor.shape),
                    tuple((lambda read, one=one: read(one)) for one in experts.pop(together)),
                )
        else:
            yield Piece(
                names.get_name(published, try_suffixes=(".weight", ".bias")),
                tensor.shape,
                (lambda read, tensor=tensor: read(tensor),),
            )


def stored_as(piece: Piece, kind: Type, gguf: ModuleType):
    """The quantisation of a tensor."""
    types = gguf.GGMLQuantizationType
    if len(piece.shape) == 1 or "ffn_gate_inp" in piece.name:
        return types.F32
    wanted = (
        types.Q8_0
        if kind == "q4_0" and piece.name in ("token_embd.weight", "output.weight")
        else types[kind.upper()]
    )
    return types.F16 if piece.shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0] else wanted


def _half(x: np.ndarray, tensor: Tensor, part: int) -> np.ndarray:
    """Of kv_b_proj: w_uk as [H, C, N] or w_uv as [H, U, C]."""
    ours = split(x, tensor)[part]  # [C, H, N] or [C, H, U]
    return ours.transpose((1, 0, 2) if part == 0 else (1, 2, 0))
