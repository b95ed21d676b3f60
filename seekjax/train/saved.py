"""Reading what a run has saved, for whoever only wants to use the model: no optimizer, no data
pipeline."""

import hashlib
import json
import types
import typing
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from seekjax.config import Config, KernelConfig, LoraConfig, ModelConfig
from seekjax.model.transformer import Transformer
from seekjax.quant.tree import abstract_tree
from seekjax.validate import split_sizes
from sharding.place import axes_of, unbox
from sharding.rules import in_use, sharding, split_by

from .checkpoint import CheckpointError, mismatches
from .lora import adapter_axes, adapters, merge
from .manifest import damage
from .run import RunError

HASHED = 2**20  # bytes of each published file, from its beginning, that tell it from others


def read_run(folder: Path, kernel: KernelConfig | None = None) -> tuple[Config, dict]:
    """The config of a run and its newest whole weights {"params", "balance"}, the moving average of
    the weights where the run keeps one, and with its adapters added in where it trains those.

    They are placed by the rules on the mesh in use, or on the default device. `kernel` replaces the
    run's own choice of kernels, except for the format of its weights. The folder is only read: a
    damaged step is passed over, not set aside. Raises RunError when it is not a run's, or its
    weights do not fit its config.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise RunError(
            f"there is no run folder {folder}: name one that train.py has written (--out, "
            "by default runs/CONFIG)."
        )
    if not (folder / "checkpoints").is_dir():
        raise RunError(
            f"{folder} is not a run folder: it holds no checkpoints/ (train.py writes one "
            "at its first save)."
        )
    step = newest_whole(folder.absolute() / "checkpoints")  # Orbax finds nothing by a relative path
    config = read_config(step / "config.json")
    config = replace(
        config, kernel=replace(kernel or config.kernel, weights=config.kernel.weights), out=folder
    )
    variables = abstract_variables(config.model, config.kernel)
    if config.lora.rank:
        return replace(config, lora=LoraConfig()), restore_merged(step, config, variables)
    return config, restore(step, variables)


def adopt(config: Config) -> Config:
    """A run that starts from weights has their model and their tokenizer. Raises RunError or
    WeightsError for a folder without them."""
    if config.init is None:
        return config
    folder = config.init.expanduser()
    if (folder / "checkpoints").is_dir():
        model = read_config(newest_whole(folder.absolute() / "checkpoints") / "config.json").model
    else:
        from seekjax.hf.load import check  # it stands on this module

        model = check(folder)[0].model
    if not (folder / "tokenizer.json").is_file():
        raise RunError(
            f"{folder} has no tokenizer.json: copy that of the model there, or name another --init."
        )
    return replace(config, model=model, data=replace(config.data, tokenizer=str(folder)))


def weights_mark(folder: Path) -> str:
    """A hash that tells a folder's weights from others without reading them: of the manifest of a
    run's newest step, which has their SHA-256; of the size and first megabyte of each published
    file.
    """
    steps = {
        int(path.parent.name): path
        for path in folder.glob("checkpoints/*/manifest.json")
        if path.parent.name.isdecimal()
    }
    if steps:
        return hashlib.sha256(steps[max(steps)].read_bytes()).hexdigest()
    found = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            found.update(f"{path.name} {path.stat().st_size} ".encode() + file.read(HASHED))
    return found.hexdigest()


def newest_whole(checkpoints: Path) -> Path:
    """The folder of the newest step that is as its manifest says. Raises RunError when there is
    none."""
    steps = sorted(
        (path for path in checkpoints.iterdir() if path.name.isdecimal()),
        key=lambda path: int(path.name),
        reverse=True,
    )
    reasons = []
    for step in steps:
        if (reason := damage(step)) is None:
            return step
        reasons.append(f"{step.name}: {reason}")
    raise RunError(
        f"no checkpoint in {checkpoints} is whole ({'; '.join(reasons)})."
        if steps
        else f"{checkpoints} holds no checkpoint yet."
    )


def read_config(path: Path) -> Config:
    """The Config that `to_json` wrote. A field it lacks has its default; raises RunError for one
    that this version does not know."""
    try:
        return _made(Config, json.loads(path.read_text()), "")
    except (OSError, ValueError, TypeError) as error:
        raise RunError(
            f"{path} cannot be read as a config: {str(error).partition(chr(10))[0]}"
        ) from error


def abstract_variables(model: ModelConfig, kernel: KernelConfig) -> dict:
    """{"params", "balance"} as ShapeDtypeStructs, each with its place by the rules on the mesh in
    use, or on the default device.

    Raises RunError where that mesh cannot split the model.
    """
    for name, size in split_sizes(model).items():
        if size % split_by(name):
            raise RunError(
                f"the model's {name} is {size}, which this mesh cannot split "
                f"{split_by(name)} ways: make an axis of --mesh smaller."
            )
    named = named_variables(model, kernel)
    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    placed = jax.tree.map(
        lambda x, axes: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=sharding(axes) if in_use() else default
        ),
        unbox(named),
        axes_of(named),
    )
    if kernel.weights != "float32":
        try:
            placed["params"] = abstract_tree(
                placed["params"], axes_of(named)["params"], kernel.weights
            )
        except ValueError as error:
            raise RunError(str(error)) from error
    return placed


def named_variables(model: ModelConfig, kernel: KernelConfig) -> dict:
    """{"params", "balance"} before they exist, each with its logical axes."""
    tokens = jax.ShapeDtypeStruct((split_by("batch"), 8), jnp.int32)
    named = jax.eval_shape(Transformer(model, kernel).init, jax.random.key(0), tokens)
    return {"params": named["params"], "balance": named.get("balance", {})}


def restore(step: Path, abstract: dict) -> dict:
    """The arrays of `abstract` out of one step's train state, each read where it lives; moments are
    left on the disk. "params" are the moving average of the weights, where there is one.
    """
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        there = reader.metadata(step / "state").item_metadata.tree
        params = "ema" if there.get("ema") else "params"
        wanted = {
            params if name == "params" else name: part for name, part in abstract.items() if part
        }
        if found := mismatches(
            {
                name: {kept: there.get(name, {}).get(kept, {}) for kept in part}
                if name == "frozen"
                else there.get(name, {})
                for name, part in wanted.items()
            },
            wanted,
        ):
            raise RunError(
                f"checkpoint {step} "
                f"{found[0]}{f'; and {len(found) - 1} more' if len(found) > 1 else ''}: "
                "its config.json is not its own."
            )
        how = jax.tree.map(
            lambda x: ocp.ArrayRestoreArgs(
                sharding=x.sharding, global_shape=x.shape, dtype=x.dtype
            ),
            wanted,
        )
        try:
            state = reader.restore(
                step / "state", args=ocp.args.PyTreeRestore(wanted, how, partial_restore=True)
            )
        except Exception as error:
            raise CheckpointError(
                f"checkpoint {step} is whole, but Orbax {ocp.__version__} cannot read it: "
                f"{type(error).__name__}: {error}"
            ) from error
    return {name: state.get(params if name == "params" else name, {}) for name in abstract}


def restore_merged(step: Path, config: Config, abstract: dict) -> dict:
    """{"params", "balance"} of a run of adapters: its frozen weights with the adapters added in."""
    axes = axes_of(named_variables(config.model, config.kernel))["params"]
    added = jax.eval_shape(
        lambda params: adapters(params, axes, config.lora, 0), abstract["params"]
    )
    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    added = jax.tree.map(
        lambda x, names: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=sharding(names) if in_use() else default
        ),
        added,
        adapter_axes(axes, config.lora),
    )
    found = restore(
        step,
        {"params": added, "balance": abstract["balance"], "frozen": {"base": abstract["params"]}},
    )
    merged = jax.jit(lambda base, params: merge(base, params, axes, config.lora), donate_argnums=0)(
        found["frozen"]["base"], found["params"]
    )
    return {"params": merged, "balance": found["balance"]}


def _made(kind: Any, value: Any, path: str) -> Any:
    """`value` out of JSON as a field of type `kind`."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        known = typing.get_type_hints(kind)
        if unknown := [name for name in value if name not in known]:
            raise ValueError(
                f"it sets {path}{unknown[0]}, which this version of seekjax does not have."
            )
        return kind(
            **{
                f.name: _made(known[f.name], value[f.name], f"{path}{f.name}.")
                for f in fields(kind)
                if f.name in value
            }
        )
    if origin is tuple:
        return tuple(_made(inner[0], item, path) for item in value)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        kinds = [one for one in inner if one is not type(None)]
        fits = [
            one
            for one in kinds
            if is_dataclass(one) and value.keys() <= {f.name for f in fields(one)}
        ]  # what a stage of training sets, tells which it is
        return _made((fits or kinds)[0], value, path)
    return Path(value) if kind is Path else value
