"""A published checkpoint's folder: its config and its tensors, checked before any is read."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from seekjax.config import ModelConfig
from seekjax.errors import WeightsError, need
from seekjax.hf import fp8_blocks
from seekjax.hf.config_keys import check_prediction
from seekjax.hf.config_reader import PublishedConfig, read_config
from seekjax.hf.files import TensorFiles
from seekjax.hf.names import Tensor, join, split, tensors
from seekjax.hf.quote import listed
from seekjax.hf.tensor_file import Entry
from seekjax.hf.untrusted import read_json
from seekjax.quant.fp8 import E4M3

SCALE = "_scale_inv"  # ends the name of a matrix's scales
SHARED = {"embed_VD": "model.embed_tokens.weight", "head_DV": "lm_head.weight"}

FREQUENCIES = "rotary_emb.inv_freq"  # ends the name of a buffer that early files hold
JOIN = "eh_proj.weight"  # the tensor that only a prediction module has
LAYER_TENSORS = 7  # a layer has two norms, four of attention, and some of its feed-forward
EXPERT_TENSORS = 3
MISSING_AT_MOST = 1000  # tensors that a sentence about missing ones may be about
SAMPLED = 2**16  # first values of a matrix that are looked at

Faults = dict[str, list[str]]  # what is wrong -> the tensors


class PublishedCheckpoint(NamedTuple):
    """A folder whose tensors are those of its config."""

    config: PublishedConfig
    files: TensorFiles
    notes: tuple[str, ...] = ()  # what was read otherwise than the folder says, in sentences

    def values(self, tensor: Tensor) -> np.ndarray:
        """Return a tensor: float32 if the file has FP8 blocks, else in the dtype of the file."""
        x = self.files.read(tensor.name)
        if x.dtype != E4M3:
            sample = x.ravel()[:SAMPLED].astype(np.float32)
            need(np.isfinite(sample).all(), _not_numbers(tensor.name), WeightsError)
            return x

        scale = self.files.read(tensor.name + SCALE).astype(np.float32)
        need(
            bool(np.isfinite(scale).all() and (scale > 0).all()),
            f"{tensor.name}{SCALE} has scales that are not positive numbers.",
            WeightsError,
        )
        return fp8_blocks.dequantise(x, scale)

    def vocabulary_dtype(self) -> Literal["float32", "bfloat16"]:
        """Return the dtype that holds the values of embedding and head exactly."""
        names = set(SHARED.values())
        halves = all(self.files.entries[name].dtype.name == "bfloat16" for name in names)
        return "bfloat16" if halves else "float32"

    def part(self, tensor: Tensor, number: int) -> np.ndarray:
        """Return one of our arrays that a tensor holds, with rotary pairs as neighbours."""
        x = split(self.values(tensor), tensor)[number]
        axes = tensor.parts[number].axes
        if self.config.interleaved or "R" not in axes:
            return x
        return interleave_pairs(x, axes.index("R"))

    def interleaved_values(self, tensor: Tensor) -> np.ndarray:
        """Return a tensor in float32, with rotary pairs as neighbours."""
        x = self.values(tensor).astype(np.float32)
        rotary = any("R" in part.axes for part in tensor.parts)
        if self.config.interleaved or not rotary:
            return x

        ours = []
        for array, part in zip(split(x, tensor), tensor.parts):
            if "R" in part.axes:
                array = interleave_pairs(array, part.axes.index("R"))
            ours.append(array)
        return join(ours, tensor)


def open_published(folder: Path) -> PublishedCheckpoint:
    """Read config.json and the headers of all files, and check them against each other.

    Raises WeightsError, listing all that is wrong with names, shapes and dtypes.
    """
    need(folder.is_dir(), f"there is no folder {folder}.", WeightsError)
    need((folder / "config.json").exists(), f"{folder} holds no config.json.", WeightsError)
    config = read_config(read_json(folder / "config.json"))
    files = TensorFiles(folder)
    unused = _remove_unused(config.model, files)

    config = config._replace(model=_without_missing_prediction(config.model, files))
    check_prediction(config.model)
    _check_plausible(config.model, files, folder)

    described = {tensor.name: tensor for tensor in tensors(config.model)}
    _check_tensors(described, config, files, folder)
    _check_copies(described, files)
    _check_norms(described, files)
    return PublishedCheckpoint(config, files, unused)


def _remove_unused(model: ModelConfig, files: TensorFiles) -> tuple[str, ...]:
    """Drop tensors that every reader computes or leaves out; return a sentence for each kind.

    These are the rotary frequencies that early files hold, and prediction modules of which
    config.json has none.
    """
    buffers = [name for name in files.entries if name.endswith(FREQUENCIES)]
    modules = []
    if model.mtp_depth == 0:
        modules = _prediction_tensors(model, files)
    for name in (*buffers, *modules):
        del files.entries[name]

    notes = []
    if buffers:
        notes.append(
            f"{len(buffers)} tensors *{FREQUENCIES} are not read: config.json defines the "
            "rotary frequencies."
        )
    if modules:
        notes.append(
            f"{len(modules)} tensors of prediction modules are not read: config.json has "
            "num_nextn_predict_layers 0."
        )
    return tuple(notes)


def _prediction_tensors(model: ModelConfig, files: TensorFiles) -> list[str]:
    """Return the tensors of the layers after the model's that are prediction modules."""
    prefixes = []
    layer = model.layers
    while f"model.layers.{layer}.{JOIN}" in files.entries:
        prefixes.append(f"model.layers.{layer}.")
        layer += 1
    return [name for name in files.entries if name.startswith(tuple(prefixes))]


def _without_missing_prediction(model: ModelConfig, files: TensorFiles) -> ModelConfig:
    """The model without prediction modules if the files have none.

    transformers leaves the modules out and keeps their number in config.json.
    """
    first = f"model.layers.{model.layers}."
    if any(name.startswith(first) for name in files.entries):
        return model
    return replace(model, mtp_depth=0)


def _check_plausible(model: ModelConfig, files: TensorFiles, folder: Path) -> None:
    """Raise WeightsError for a config whose list of tensors would be absurdly long.

    The list is not made for it: the least number of tensors follows from the sizes alone.
    """
    layers = model.layers + model.mtp_depth
    expert_layers = layers - model.dense_layers
    least = LAYER_TENSORS * layers + EXPERT_TENSORS * expert_layers * model.experts
    need(
        least <= 2 * len(files.entries) + MISSING_AT_MOST,
        f"{folder / 'config.json'} describes {layers} layers, {expert_layers} of them with "
        f"{model.experts} experts, but there are only {len(files.entries)} tensors.",
        WeightsError,
    )


def _check_tensors(
    described: dict[str, Tensor],
    config: PublishedConfig,
    files: TensorFiles,
    folder: Path,
) -> None:
    """Raise WeightsError unless the files have the tensors that the config describes."""
    faults: Faults = defaultdict(list)
    scales = set()
    for name, tensor in described.items():
        entry = files.entries.get(name)
        if entry is None:
            if tensor.row.kind != "copy":
                faults["missing"].append(name)
            continue

        if entry.shape != tensor.shape:
            faults["of another shape than config.json says"].append(
                f"{name} {list(entry.shape)} instead of {list(tensor.shape)}"
            )
        if entry.dtype == E4M3:
            scales.add(name + SCALE)
            if not config.fp8 or tensor.row.kind != "matrix":
                faults["in FP8 against config.json or the layout"].append(name)
            _check_scale(tensor, files.entries.get(name + SCALE), faults)
        elif entry.dtype.name == "float8_e8m0fnu":
            faults["of a type that only scales have"].append(name)

    expected = described.keys() | scales
    faults["unknown"] = [name for name in files.entries if name not in expected]
    need(
        not any(faults.values()),
        f"{folder} does not hold the tensors that its config.json describes: {listed(faults)}.",
        WeightsError,
    )


def _check_scale(
    tensor: Tensor,
    scale: Entry | None,
    faults: Faults,
) -> None:
    """Add what is wrong with the scales of a matrix in FP8."""
    if scale is None:
        faults["in FP8 without scales"].append(tensor.name)
        return
    if len(tensor.shape) != 2:
        return

    rows, columns = tensor.shape
    shape = fp8_blocks.blocks((rows, columns))
    if scale.shape != shape or scale.dtype.name not in ("float32", "float8_e8m0fnu"):
        faults["scales of another shape or type"].append(
            f"{tensor.name}{SCALE} {scale.dtype.name}{list(scale.shape)} instead of "
            f"float32{list(shape)}"
        )


def _check_copies(described: dict[str, Tensor], files: TensorFiles) -> None:
    """Raise WeightsError for a prediction module with an embedding or a head of its own."""
    for tensor in described.values():
        if tensor.row.kind != "copy" or tensor.name not in files.entries:
            continue
        original = SHARED[tensor.row.ours]
        need(
            files.equal(tensor.name, original),
            f"{tensor.name} differs from {original}: seekjax shares it with the prediction module.",
            WeightsError,
        )


def _check_norms(described: dict[str, Tensor], files: TensorFiles) -> None:
    """Raise WeightsError for scales of norms, or biases, that no training leaves.

    They are a millionth of the weights. A diverged training has made all of them NaN, and a
    download that was only allocated has zeros.
    """
    for name, tensor in described.items():
        if len(tensor.shape) != 1 or tensor.row.kind not in ("exact", "bias"):
            continue
        x = files.read(name).astype(np.float32)
        need(np.isfinite(x).all(), _not_numbers(name), WeightsError)
        need(
            tensor.row.kind == "bias" or x.any(),
            f"{name} holds only zeros: the file was never filled, get it again.",
            WeightsError,
        )


def _not_numbers(name: str) -> str:
    return f"{name} holds values that are not numbers: the weights are damaged, get them again."


def interleave_pairs(x: np.ndarray, axis: int) -> np.ndarray:
    """Turn rotary halves [a0 a1 ... b0 b1 ...] into neighbouring pairs [a0 b0 a1 b1 ...]."""
    order = np.arange(x.shape[axis]).reshape(2, -1).T.ravel()
    return x.take(order, axis)


def separate_pairs(x: np.ndarray, axis: int) -> np.ndarray:
    """Turn neighbouring rotary pairs into halves: the inverse of `interleave_pairs`."""
    order = np.arange(x.shape[axis]).reshape(-1, 2).T.ravel()
    return x.take(order, axis)
