"""A published checkpoint into sharded arrays, one tensor of the files at a time.

Our layers are stacked, so an array is filled layer by layer where it lives; the host holds one
layer of one array, and of that only what its own devices need.
"""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, Sharding

from seekjax.config import KernelConfig, ModelConfig
from seekjax.errors import WeightsError, need
from seekjax.hf import fp8
from seekjax.hf.config_keys import check_prediction
from seekjax.hf.config_reader import Published, read_config
from seekjax.hf.files import Files, read_json
from seekjax.hf.names import Tensor, join, split, tensors
from seekjax.hf.quote import listed
from seekjax.model.abstract import abstract_variables

SCALE = "_scale_inv"
Source = dict[
    tuple[int, ...], tuple[Tensor, int]
]  # of one of our arrays: place in its leading axes -> (tensor, number of the part)


def load(directory: Path, kernel: KernelConfig = KernelConfig()) -> tuple[ModelConfig, dict]:
    """The model of a published checkpoint and its {"params", "balance"}, placed by the rules on the
    mesh in use, or on the default device.

    Matrices are in kernel.dtype, norms, router and bias in float32. Nothing is read before names,
    shapes and types of all tensors are known to fit config.json. Raises WeightsError.
    """
    published, files = check(Path(directory).expanduser())
    model = published.model
    sources: dict[tuple[str, ...], Source] = defaultdict(dict)
    for tensor in tensors(model):
        if tensor.row.kind != "copy":
            for k, part in enumerate(tensor.parts):
                sources[part.path][part.at] = tensor, k

    def make(path, wanted: jax.ShapeDtypeStruct) -> jax.Array:
        here = sources.get(tuple(key.key for key in path))
        if here is None:  # the balance bias of a model that routes without one
            return jnp.zeros(wanted.shape, wanted.dtype, device=wanted.sharding)
        exact = next(iter(here.values()))[0].row.kind in ("exact", "bias")
        made = _stacked if path[1].key.endswith("_layers") else _whole
        return made(
            wanted if exact else wanted.update(dtype=kernel.dtype),
            here,
            files,
            published.interleaved,
        )

    variables = jax.tree_util.tree_map_with_path(
        make, abstract_variables(model, replace(kernel, weights="float32"))
    )
    return model, variables


def check(folder: Path) -> tuple[Published, Files]:
    """Whether a folder is a checkpoint: its config, and its tensors by name, shape and type. Raises
    WeightsError, listing all that is wrong."""
    need(folder.is_dir(), f"there is no folder {folder}.", WeightsError)
    need((folder / "config.json").exists(), f"{folder} holds no config.json.", WeightsError)
    published = read_config(read_json(folder / "config.json"))
    files = Files(folder)
    if published.model.mtp_depth and not any(
        name.startswith(f"model.layers.{published.model.layers}.") for name in files.entries
    ):
        published = published._replace(
            model=replace(published.model, mtp_depth=0)
        )  # transformers leaves prediction modules out and their number in
    check_prediction(published.model)
    model, most = (
        published.model,
        4 * len(files.entries) + 100_000,
    )  # before as many names are made as a config can ask for
    need(
        (model.layers + model.mtp_depth) * model.experts <= most,
        f"{folder / 'config.json'} asks for {model.layers} layers of {model.experts} "
        f"experts, but there are only {len(files.entries)} tensors.",
        WeightsError,
    )
    wanted = {tensor.name: tensor for tensor in tensors(published.model)}
    wrong: dict[str, list[str]] = defaultdict(list)
    scales = set()
    for name, tensor in wanted.items():
        entry = files.entries.get(name)
        if entry is None:
            if tensor.row.kind != "copy":
                wrong["missing"].append(name)
            continue
        if entry.shape != tensor.shape:
            wrong["of another shape than config.json says"].append(
                f"{name} {list(entry.shape)} instead of {list(tensor.shape)}"
            )
        if entry.dtype == fp8.E4M3:
            if not published.fp8 or tensor.row.kind != "matrix":
                wrong["in FP8 against config.json or the layout"].append(name)
            scale = files.entries.get(name + SCALE)
            scales.add(name + SCALE)
            if scale is None:
                wrong["in FP8 without scales"].append(name)
            elif len(tensor.shape) == 2 and (
                scale.shape != fp8.blocks(tensor.shape)
                or scale.dtype.name not in ("float32", "float8_e8m0fnu")
            ):
                wrong["scales of another shape or type"].append(
                    f"{name}{SCALE} {scale.dtype.name}{list(scale.shape)} instead of "
                    f"float32{list(fp8.blocks(tensor.shape))}"
                )
        elif entry.dtype.name == "float8_e8m0fnu":
            wrong["of a type that only scales have"].append(name)
    wrong["unknown"] = [name for name in files.entries if name not in wanted and name not in scales]
    need(
        not any(wrong.values()),
        f"{folder} does not hold the tensors that its config.json describes: {listed(wrong)}.",
        WeightsError,
    )
    for tensor in wanted.values():
        original = {"embed_VD": "model.embed_tokens.weight", "head_DV": "lm_head.weight"}.get(
            tensor.row.ours
        )
        need(
            tensor.row.kind != "copy"
            or tensor.name not in files.entries
            or files.same(tensor.name, original),
            f"{tensor.name} differs from {original}: seekjax shares it with the prediction module.",
            WeightsError,
        )
    return published, files


def values(files: Files, tensor: Tensor) -> np.ndarray:
    """A tensor's values: float32 where the file has FP8 blocks, else in the type of the file."""
    x = files.read(tensor.name)
    if x.dtype != fp8.E4M3:
        return x
    scale = files.read(tensor.name + SCALE).astype(np.float32)
    need(
        bool(np.isfinite(scale).all() and (scale > 0).all()),
        f"{tensor.name}{SCALE} has scales that are no positive numbers.",
        WeightsError,
    )
    return fp8.dequantise(x, scale)


def paired(files: Files, tensor: Tensor, interleaved: bool) -> np.ndarray:
    """A tensor's values in float32, rotary pairs side by side whatever the files have."""
    x = values(files, tensor).astype(np.float32)
    if interleaved or not any("R" in part.axes for part in tensor.parts):
        return x
    ours = [
        pair(one, part.axes.index("R")) if "R" in part.axes else one
        for one, part in zip(split(x, tensor), tensor.parts)
    ]
    return join(ours, tensor)


def _stacked(
    wanted: jax.ShapeDtypeStruct, here: Source, files: Files, interleaved: bool
) -> jax.Array:
    """A stack of layers, filled one after another where it lives."""
    whole = jnp.zeros(wanted.shape, wanted.dtype, device=wanted.sharding)
    place = wanted.sharding
    if isinstance(
        place, NamedSharding
    ):  # of a layer: that of the stack without its first dimension, which nothing splits
        place = NamedSharding(place.mesh, type(place.spec)(*place.spec[1:]))
    layer_of = jax.ShapeDtypeStruct(wanted.shape[1:], wanted.dtype, sharding=place)
    for layer in range(wanted.shape[0]):
        inner = {at[1:]: source for at, source in here.items() if at[0] == layer}
        whole = _filler(wanted.sharding)(whole, _whole(layer_of, inner, files, interleaved), layer)
        jax.block_until_ready(whole)  # or the pieces of many layers would wait in memory
    return whole


def _whole(
    wanted: jax.ShapeDtypeStruct, here: Source, files: Files, interleaved: bool
) -> jax.Array:
    """An array out of one tensor, or out of one per expert: the host reads the smallest box that
    has all of its devices' parts."""
    indices = wanted.sharding.addressable_devices_indices_map(wanted.shape).values()
    cuts = [[cut.indices(size)[:2] for cut, size in zip(index, wanted.shape)] for index in indices]
    box = [
        (min(low for low, _ in column), max(high for _, high in column)) for column in zip(*cuts)
    ]
    host = np.empty([high - low for low, high in box], wanted.dtype)
    inner = tuple(slice(*cut) for cut in box)

    def read(place: tuple[int, ...]) -> None:
        tensor, k = here[place]
        x = split(values(files, tensor), tensor)[k]
        if not interleaved and "R" in tensor.parts[k].axes:
            x = pair(x, tensor.parts[k].axes.index("R"))
        if place:
            host[place[0] - box[0][0]] = x[inner[1:]]
        else:
            host[...] = x[inner]

    with ThreadPoolExecutor(
        2
    ) as pool:  # one reads while the other turns; more would hold more tensors at a time
        list(
            pool.map(
                read, [place for place in here if not place or box[0][0] <= place[0] < box[0][1]]
            )
        )
    return jax.make_array_from_callback(
        wanted.shape,
        wanted.sharding,
        lambda index: host[
            tuple(
                slice(cut.indices(size)[0] - low, cut.indices(size)[1] - low)
                for cut, size, (low, _) in zip(index, wanted.shape, box)
            )
        ],
    )


def pair(x: np.ndarray, axis: int) -> np.ndarray:
    """Rotary halves [a0 a1 ... b0 b1 ...] as neighbouring pairs [a0 b0 a1 b1 ...]."""
    return x.take(np.arange(x.shape[axis]).reshape(2, -1).T.ravel(), axis)


@cache
def _filler(place: Sharding):
    """(stack, layer's array, number) -> stack, in the memory it already has."""

    def fill(stack, piece, layer):
        raw = {2: jnp.uint16, 4: jnp.uint32}[
            stack.dtype.itemsize
        ]  # moved as integers: for bfloat16, XLA on CPU converts all of the stack to float32
        dtype = stack.dtype
        stack, piece = (jax.lax.bitcast_convert_type(x, raw) for x in (stack, piece))
        return jax.lax.bitcast_convert_type(
            jax.lax.dynamic_update_index_in_dim(stack, piece, layer, 0), dtype
        )

    return jax.jit(fill, donate_argnums=0, out_shardings=place)
