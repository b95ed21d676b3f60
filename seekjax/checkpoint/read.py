"""Reading what a run has saved, for whoever only wants to use the model: no optimizer, no data
pipeline."""

from dataclasses import replace
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from seekjax.checkpoint.config_json import read_config
from seekjax.checkpoint.manifest import damage
from seekjax.checkpoint.write import mismatches
from seekjax.config import Config, KernelConfig, LoraConfig
from seekjax.errors import CheckpointError, RunError
from seekjax.model.abstract import abstract_variables, named_variables
from seekjax.model.lora import adapter_axes, adapters, merge
from seekjax.storage import kind_of
from sharding.place import axes_of
from sharding.rules import in_use, sharding


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
    if kind_of(folder) != "run":
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
