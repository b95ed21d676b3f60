"""Reading a run's weights in order to use the model: without optimizer state or data position."""

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from seekjax.checkpoint.arrays import check_plausible, saved_arrays
from seekjax.checkpoint.base import ReadBase, read_base_record
from seekjax.checkpoint.config_json import WEIGHTS, read_config
from seekjax.checkpoint.manifest import changed_run_file, damage
from seekjax.checkpoint.write import mismatches, warn
from seekjax.config import Config, KernelConfig, LoraConfig
from seekjax.errors import CheckpointError, ConfigError, RunError, need
from seekjax.memory import check_room
from seekjax.model.abstract import abstract_variables, named_variables
from seekjax.model.check import check_model
from seekjax.model.lora import adapter_axes, adapters, merge
from seekjax.storage import kind_of
from sharding.place import axes_of
from sharding.rules import in_use, sharding


def read_run(
    folder: Path, kernel: KernelConfig | None = None, *, trust: bool = False
) -> tuple[Config, dict[str, Any]]:
    """Return the config of a run and its newest undamaged weights {"params", "balance"}.

    The weights are their moving average if the run keeps one, and have the adapters added in if
    the run trains adapters. They are placed by the rules on the mesh in use, or on the default
    device.

    `kernel` replaces the run's own choice of kernels, except for the format of its weights. A run
    that was trained in FP8 is used in bfloat16 unless `kernel` says otherwise. The
    folder is only read: a damaged step is passed over, not set aside. `trust` lets the config name
    code from outside this package for the model and its kernels. Raises RunError if the
    folder is not a run's, if the weights do not match its config, or if it holds adapters whose
    base is elsewhere (seekjax.open.open_model reads those).
    """
    folder = Path(folder).expanduser()
    need(
        folder.is_dir(),
        f"there is no run folder {folder}: name one that train.py has written (--out, "
        "by default runs/CONFIG).",
        RunError,
    )
    need(
        kind_of(folder) == "run",
        f"{folder} is not a run folder: it holds no checkpoints/ (train.py writes one "
        "at its first save).",
        RunError,
    )

    # Orbax does not open a relative path
    return read_step(newest_undamaged(folder.absolute() / "checkpoints"), folder, kernel, trust)


def read_step(
    step: Path,
    folder: Path,
    kernel: KernelConfig | None,
    trust: bool,
    read_base: ReadBase | None = None,
) -> tuple[Config, dict[str, Any]]:
    """Return what `read_run` does, of one undamaged step of a run in `folder`.

    `read_base` reads the weights that the step names, if it holds adapters alone.
    """
    change = changed_run_file(folder, step)
    if change is not None:
        _warn_once(
            f"{folder} has changed since its checkpoint was saved ({change}): texts and figures "
            "may differ from the run's; copy the file back if that is not intended"
        )
    config = read_step_config(step, trust=trust)
    stored = config.kernel
    kernel = kernel or stored.without_fp8()
    kernel = replace(kernel, weights=stored.weights, vocabulary=stored.vocabulary)
    config = replace(config, kernel=kernel, out=folder)

    # Orbax opens every array to describe it, so once is enough
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        saved = saved_arrays(reader, step)

    record = read_base_record(step) if config.lora.rank else None
    if record is not None:
        need(read_base, f"{folder} holds adapters alone: its base is {record.words}.", RunError)
        assert read_base is not None
        variables = _restore_onto(read_base(record), step, saved, config)
    else:
        check_plausible(step, saved, config.model)
        abstract = abstract_variables(config.model, config.kernel)
        check_room(
            abstract,
            0,
            f"reading {folder}",
            "quantise it (seekjax quantize --to int8 or int4) on a machine with more, or use a "
            "--mesh",
            RunError,
        )
        variables = _restore_whole(step, saved, config, abstract)

    check_finite(step, variables["params"])
    if config.lora.rank:
        config = replace(config, lora=LoraConfig())
    return config, variables


def _restore_whole(
    step: Path, saved: dict[str, Any], config: Config, abstract: dict[str, Any]
) -> dict[str, Any]:
    """Return {"params", "balance"} of a step that holds all of its weights."""
    if not config.lora.rank:
        return restore(step, saved, abstract)
    added = abstract_adapters(config, abstract["params"])
    frozen = {"base": abstract["params"]}
    wanted = {"params": added, "balance": abstract["balance"], "frozen": frozen}
    state = restore(step, saved, wanted)
    return _merged(state["frozen"]["base"], state, config)


def _restore_onto(
    base: dict[str, Any], step: Path, saved: dict[str, Any], config: Config
) -> dict[str, Any]:
    """Return {"params", "balance"} of a step of adapters, added to the weights of `base`."""
    check_plausible(step, base, config.model)
    abstract = abstract_variables(config.model, config.kernel)
    differences = mismatches(base, abstract["params"])
    need(
        not differences,
        f"the base of {step} {'; '.join(differences[:1])}: config.json does not match it.",
        RunError,
    )
    added = abstract_adapters(config, abstract["params"])
    wanted = {"params": added, "balance": abstract["balance"]}
    return _merged(base, restore(step, saved, wanted), config)


def _merged(base: dict[str, Any], state: dict[str, Any], config: Config) -> dict[str, Any]:
    """Return {"params", "balance"}: the adapters of a state added to frozen weights."""
    axes = _axes(config)

    def add_adapters(base, params):
        return merge(base, params, axes, config.lora)

    params = jax.jit(add_adapters, donate_argnums=0)(base, state["params"])
    return {"params": params, "balance": state["balance"]}


def abstract_adapters(config: Config, params: dict[str, Any]) -> dict[str, Any]:
    """Return a run's adapters before they exist, placed like the abstract weights `params`."""
    axes = _axes(config)
    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def make_adapters(params):
        return adapters(params, axes, config.lora, 0)

    def place(x, names):
        placement = sharding(names) if in_use() else default
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placement)

    added = jax.eval_shape(make_adapters, params)
    return jax.tree.map(place, added, adapter_axes(axes, config.lora))


def read_adapters(folder: Path, *, trust: bool) -> tuple[Path, Config, dict[str, Any]]:
    """Return a run's newest undamaged step, its config and its adapters, without their base.

    The adapters are their moving average if the run keeps one. Raises RunError, also for a run
    that trains all weights.
    """
    step = newest_undamaged(folder.absolute() / "checkpoints")
    config = read_step_config(step, trust=trust)
    need(config.lora.rank, f"{folder} trained all weights, not adapters.", RunError)

    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        saved = saved_arrays(reader, step)
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(saved.get("params"))]
    layers = config.model.layers + config.model.mtp_depth
    need(
        config.lora.rank * layers <= sum(sizes),
        f"{step} has fewer adapters than a model of {layers} layers: config.json does not match.",
        RunError,
    )
    weights = abstract_variables(config.model, config.kernel)["params"]
    state = restore(step, saved, {"params": abstract_adapters(config, weights)})
    return step, config, state["params"]


def _axes(config: Config) -> Any:
    """Return the logical axes of a model's weights."""
    return axes_of(named_variables(config.model))["params"]


def check_finite(step: Path, params: dict[str, Any]) -> None:
    """Raise RunError if a norm's scale is not a number, as after a training that diverged.

    All weights are then, and the norms are a thousandth of them.
    """
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not name.endswith("_norm") or not x.is_fully_addressable:
            continue
        need(
            np.isfinite(np.asarray(x)).all(),
            f"{step} holds weights that are not numbers ({name}): the training had diverged; "
            "delete that step to use the one before it.",
            RunError,
        )


def read_step_config(step: Path, *, trust: bool) -> Config:
    """Return the config of a step, whose model and kernels are about to be used.

    Raises RunError for what `read_config` refuses, and for a model that cannot be built.
    """
    path = step / "config.json"
    config = read_config(path, trust=trust, parts=WEIGHTS)
    try:
        check_model(config.model)
    except ConfigError as error:
        raise RunError(f"{path} does not describe a model: {error}") from error
    return config


def newest_undamaged(checkpoints: Path) -> Path:
    """Return the folder of the newest step that matches its manifest.

    Prints a message on stderr, once, for damaged steps that are newer. Raises RunError if there is
    none.
    """
    steps = []
    if checkpoints.is_dir():
        steps = [path for path in checkpoints.iterdir() if path.name.isdecimal()]
    steps.sort(key=lambda path: int(path.name), reverse=True)

    reasons = []
    for step in steps:
        reason = damage(step)
        if reason is None:
            if reasons:
                _warn_once(
                    f"{checkpoints} has damaged checkpoints ({'; '.join(reasons)}): using step "
                    f"{step.name}"
                )
            return step
        reasons.append(f"{step.name}: {reason}")

    if not steps:
        raise RunError(f"{checkpoints.parent} has not saved a checkpoint yet.")
    raise RunError(f"no checkpoint in {checkpoints} is whole ({'; '.join(reasons)}).")


@cache
def _warn_once(text: str) -> None:
    warn(text)


def restore(step: Path, saved: dict[str, Any], abstract: dict[str, Any]) -> dict[str, Any]:
    """Return the arrays of `abstract` from one step's train state, each read where it is placed.

    `saved` are the arrays that the step holds. "params" are the moving average of the weights if
    the step has one. The optimizer's moments are not read. Raises RunError if the step has other
    arrays, and CheckpointError if Orbax cannot read it.
    """
    # names in the train state, which has the weights twice if it has a moving average
    weights = "ema" if saved.get("ema") else "params"
    saved_name = {name: weights if name == "params" else name for name in abstract}
    wanted = {saved_name[name]: tree for name, tree in abstract.items() if tree}

    differences = mismatches(_same_parts(saved, wanted), wanted)
    if differences:
        more = f"; and {len(differences) - 1} more" if len(differences) > 1 else ""
        raise RunError(
            f"checkpoint {step} {differences[0]}{more}: config.json does not match these weights."
        )

    placement = jax.tree.map(_restore_args, wanted)
    arguments = ocp.args.PyTreeRestore(wanted, placement, partial_restore=True)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        try:
            state = reader.restore(step / "state", args=arguments)
        except Exception as error:
            raise CheckpointError(
                f"checkpoint {step} is whole, but Orbax {ocp.__version__} cannot read it: "
                f"{type(error).__name__}: {error}"
            ) from error
    return {name: state.get(saved_name[name], {}) for name in abstract}


def _same_parts(saved: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of a saved state that are wanted; of "frozen", which holds more than
    weights, only the wanted parts.
    """
    parts = {}
    for name, tree in wanted.items():
        part = saved.get(name, {})
        if name == "frozen":
            part = {inner: part.get(inner, {}) for inner in tree}
        parts[name] = part
    return parts


def _restore_args(x: jax.ShapeDtypeStruct) -> ocp.ArrayRestoreArgs:
    """Return how Orbax restores one array."""
    return ocp.ArrayRestoreArgs(sharding=x.sharding, global_shape=x.shape, dtype=x.dtype)
