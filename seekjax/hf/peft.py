"""The adapters of a run in the files of PEFT, for the modules of transformers' DeepSeek models.

    w x + alpha / rank  B A x      A: lora_A.weight [rank, inputs], B: lora_B.weight [outputs, rank]

A module whose outputs are two of our matrices has the adapters of both: the rows of A are those of
the one and then of the other, and B is zero where the outputs of one meet the rank of the other.
Its rank and alpha are twice as large (rank_pattern, alpha_pattern), so that alpha / rank stays.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from seekjax.config import LoraConfig, ModelConfig
from seekjax.errors import WeightsError, need
from seekjax.hf.config_reader import read_config
from seekjax.hf.config_writer import write_config
from seekjax.hf.names import Part, Tensor, factors, letters_of, tensors
from seekjax.hf.published import separate_pairs
from seekjax.hf.tensor_file import Stored, write_file
from seekjax.hf.untrusted import read_json
from seekjax.storage import new_folder

PREFIX = "base_model.model."  # of every name in PEFT's files
LAYER = re.compile(r"model\.layers\.\d+\.")

Adapters = dict[tuple[str, ...], dict[str, np.ndarray]]  # {"a", "b"} by the path of their weight


class Adapter(NamedTuple):
    """The adapter of one linear module."""

    module: str
    a: np.ndarray  # [rank, inputs]
    b: np.ndarray  # [outputs, rank]

    @property
    def kind(self) -> str:
        """The module's name within its layer, as "self_attn.q_b_proj"."""
        return LAYER.sub("", self.module)


def save_adapters(
    directory: Path,
    model: ModelConfig,
    lora: LoraConfig,
    params: dict[str, Any],
    base: str,
    halves: bool = False,
) -> list[str]:
    """Write a new folder that PEFT reads; return sentences about what it does not hold.

    Args:
        directory: The folder; it appears complete or not at all.
        model: The model's config.
        lora: Rank and scale of the adapters.
        params: The adapters, as a run trains them.
        base: The name of the weights that they belong to.
        halves: These have rotary halves instead of neighbouring pairs (rope_interleave false).

    Raises:
        WeightsError: the model has no place in the published layout, its adapters have none in
            PEFT's, or the folder exists.
    """
    write_config(model, "float32", fp8=False, ue8m0=False)
    by_path = _by_path(params)
    _need_modules(by_path)
    modules = []
    for tensor in tensors(model):
        if all(part.path[1:] in by_path for part in tensor.parts) and _is_of_layer(tensor, model):
            modules.append(_adapter(tensor, by_path, halves))

    with new_folder(Path(directory).expanduser(), WeightsError) as folder:
        config = _config(modules, lora, base)
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        stored: list[Stored] = []
        values = []
        for module in modules:
            for name, x in (("lora_A", module.a), ("lora_B", module.b)):
                stored.append((f"{PREFIX}{module.module}.{name}.weight", x.dtype, x.shape))
                values.append(x)
        write_file(folder / "adapter_model.safetensors", stored, values)

    notes = []
    if any(path[0].startswith("mtp_") for path in by_path):
        notes.append(
            "the adapters of prediction modules are left out: transformers does not load these "
            "modules."
        )
    return notes


def has_halves(folder: Path) -> bool:
    """Return whether a published checkpoint has rotary halves. Raises WeightsError."""
    return not read_config(read_json(folder / "config.json")).interleaved


def _by_path(params: dict[str, Any]) -> Adapters:
    """Return the adapters as host arrays, by the path of the weight that they are added to."""
    by_path: Adapters = {}
    for keys, x in jax.tree_util.tree_leaves_with_path(params):
        *path, name = (key.key for key in keys)
        by_path.setdefault(tuple(path), {})[name] = np.asarray(x, np.float32)
    return by_path


def _need_modules(by_path: Adapters) -> None:
    """Raise WeightsError for adapters of routed experts, which are not modules of their own."""
    stacks = [path for path in by_path if len(path) == 3 and path[0] == "expert_layers"]
    experts = [path for path in stacks if path[1] == "ffn"]
    need(
        not experts,
        "these adapters are also on routed experts (lora.experts), which transformers does not "
        "have as linear modules that PEFT could adapt: write whole weights with --to.",
        WeightsError,
    )


def _is_of_layer(tensor: Tensor, model: ModelConfig) -> bool:
    """Return whether a tensor is of one of the model's layers, not of a prediction module."""
    match = LAYER.match(tensor.name)
    return match is not None and int(match[0].split(".")[2]) < model.layers


def _adapter(tensor: Tensor, by_path: Adapters, halves: bool) -> Adapter:
    """Return the adapter of the module that a tensor is the weight of."""
    outputs, inputs = (factors(axis) for axis in tensor.row.axes.split())
    pairs = []
    for number, part in enumerate(tensor.parts):
        out_letters, in_letters = letters_of(outputs, number), letters_of(inputs, number)
        pairs.append(_pair(part, by_path, out_letters, in_letters, halves))

    # B is zero where the outputs of one matrix meet the rank of another
    rank = pairs[0][0].shape[0]
    blocks = []
    for number, (_, b) in enumerate(pairs):
        block = np.zeros((*b.shape[:-1], rank * len(pairs)), b.dtype)
        block[..., rank * number : rank * (number + 1)] = b
        blocks.append(block)
    joined = [len(factor) > 1 for factor in outputs]
    axis = joined.index(True) if any(joined) else 0

    a = np.concatenate([a for a, _ in pairs])
    b = np.concatenate(blocks, axis)
    return Adapter(tensor.name.removesuffix(".weight"), a, b.reshape(-1, len(a)))


def _pair(
    part: Part,
    by_path: Adapters,
    outputs: list[str],
    inputs: list[str],
    halves: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a as [rank, inputs] and b as [outputs..., rank] of one of our matrices."""
    pair = by_path[part.path[1:]]
    a, b = pair["a"][part.at], pair["b"][part.at]
    ours_in, ours_out = part.axes[: len(inputs)], part.axes[len(inputs) :]

    a = a.transpose([len(inputs), *(ours_in.index(letter) for letter in inputs)])
    b = b.transpose([*(1 + ours_out.index(letter) for letter in outputs), 0])
    if halves and "R" in outputs:
        b = separate_pairs(b, outputs.index("R"))
    return a.reshape(len(a), -1), b


def _config(modules: list[Adapter], lora: LoraConfig, base: str) -> dict[str, Any]:
    """Return adapter_config.json."""
    ranks = {module.kind: len(module.a) for module in modules}
    kinds = sorted(ranks)
    wider = {kind: rank for kind, rank in ranks.items() if rank != lora.rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "target_modules": [kind for kind in kinds if not _is_feed_forward(kind)],
        "target_parameters": [f"{kind}.weight" for kind in kinds if _is_feed_forward(kind)],
        "rank_pattern": wider,
        "alpha_pattern": {kind: lora.alpha / lora.rank * rank for kind, rank in wider.items()},
    }


def _is_feed_forward(kind: str) -> bool:
    """Return whether a module is named like a matrix of routed experts.

    transformers 5 has these in one array for all experts, so PEFT takes every module named
    gate_proj, up_proj or down_proj for theirs. Named as parameters, they are what they are.
    """
    return kind.startswith("mlp.")
