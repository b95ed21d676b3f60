"""`seekjax plan`: what a run takes and costs, from its config and a table of chips.

Nothing is allocated or compiled, and no accelerator is needed.
"""

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from seekjax.commands.arguments import load_config, parse
from seekjax.commands.options import read_options
from seekjax.commands.renamed import negated
from seekjax.config import Config
from seekjax.config.ranges import Count, CountOrZero, NotNegative, Share
from seekjax.config.validate import check_run
from seekjax.config.values import check_values
from seekjax.errors import ConfigError, UsageError, need
from seekjax.model.check import check_model
from seekjax.model.count import cache_bytes, parameters
from seekjax.plan import tables
from seekjax.plan.chips import Chip, on_devices, read_chips
from seekjax.plan.cost import Cost, hours_per_trillion, speed_at
from seekjax.plan.counts import TRAINING, forward_flops, published_flops
from seekjax.plan.inference import Serving
from seekjax.plan.layout import Layout, lay_out
from seekjax.plan.memory import POLICIES, memory
from seekjax.plan.meshes import Choice, assess, best
from seekjax.plan.traffic import transfers
from seekjax.train.schedule import tokens_at

PLANNED = ("", "sft")  # kinds of training whose steps are those of pre-training
PUBLISHED = ("v3", "v2", "moe_16b", "v2_lite")  # the configs of published models, largest first


@dataclass(frozen=True)
class PlanOptions:
    """Plan a run. Every field of the config is an option too, as for `seekjax train`."""

    # KIND:COUNT, as h800:2048; without it only what does not depend on a chip
    on: str = ""
    # own chips, a JSON or TOML file of {name: {figure: number}}
    chips: Path | None = None
    # share of the peak that the run reaches; 0 = a roofline of compute, memory and links
    mfu: Share = 0.0
    # device-hours that a trillion tokens take, as published or measured, instead of a roofline
    hours_per_trillion: NotNegative = 0.0
    # device-hours per trillion tokens of another model, to compare with; 0 = none
    against: NotNegative = 0.0
    # of pre-training; default: those of the config
    tokens: NotNegative | None = None
    # device-hours of further phases, as context extension and post-training
    device_hours: tuple[NotNegative, ...] = ()
    # dollars per device-hour; default: the chip's
    price: NotNegative | None = None
    # FLOPs that training on one token takes, where a paper rounds; 0 = counted
    flops_per_token: NotNegative = 0.0
    # plan generation instead of training
    inference: bool = False
    # tokens of a sequence that is generated
    context: Count = 4096
    # sequences per device that are generated; 0 = as many as fit
    batch: CountOrZero = 0
    # how weights are stored for generation
    weights: Literal["float32", "bfloat16", "fp8", "int8", "int4"] = "bfloat16"
    # dtype of the cache
    cache: Literal["float32", "bfloat16", "fp8"] = "bfloat16"
    # sides of a TPU topology, as 4x4x4: also compile the step for it, which takes minutes
    compile: str = ""
    # print the figures as JSON
    json: bool = False


def plan(argv: list[str]) -> None:
    """Run the command: print the plan of a config or a run."""
    own, words = own_words(argv)
    if "--help" in words or "-h" in words:
        read_options(PlanOptions, ["--help"], "seekjax plan CONFIG")
    options = read_options(PlanOptions, own, "seekjax plan CONFIG")
    check_values(options)
    config = parse(words, "seekjax plan")
    check_model(config.model)
    check_run(config)

    chip, devices = None, 1
    if options.on:
        chip, devices = on_devices(options.on, read_chips(options.chips))

    need(
        not options.compile or (chip and not options.inference),
        "--compile needs a training on chips: name them, as --on v5p:64 --compile 4x4x4.",
        UsageError,
    )

    # Generating needs the model alone
    if options.inference:
        print(inference_text(config, options, chip, devices))
        return

    need(
        config.kind in PLANNED and not config.lora.rank,
        f"{config.name} is not planned: a plan is of pre-training or of fine-tuning all weights; "
        "--inference plans generating with its model.",
    )

    # Without devices, what does not depend on them
    if chip is None:
        need(
            not (options.mfu or options.hours_per_trillion),
            "--on KIND:COUNT is missing: name the devices, as --on h800:2048.",
            UsageError,
        )
        layout = lay_out(config, _mesh_sizes(config, _own_count(config)))
        _show_model(config, layout, options)
        return
    has_mesh = any(word.startswith("--mesh.") for word in words)
    show_training(config, options, chip, devices, has_mesh)


def own_words(argv: list[str]) -> tuple[list[str], list[str]]:
    """Return the words of the plan's own options, and the others, which are the config's."""
    takes_values: dict[str, bool] = {}
    for field in fields(PlanOptions):
        option = "--" + field.name.replace("_", "-")
        takes_values[option] = field.type is not bool
        if field.type is bool:
            takes_values[negated(option)] = False

    # A value belongs to the option before it
    own: list[str] = []
    others: list[str] = []
    into = others
    for word in argv:
        option = word.partition("=")[0].replace("_", "-")
        is_own = option in takes_values
        if word.startswith("--"):
            into = own if is_own else others
        into.append(word)
        if is_own and not takes_values[option]:
            into = others
    return own, others


def show_training(
    config: Config, options: PlanOptions, chip: Chip, devices: int, has_mesh: bool
) -> None:
    """Print the plan of a training on some devices."""
    found = best(config, chip, devices)
    chosen, note = _own_choice(config, chip, devices, has_mesh, found[0])
    layout = chosen.layout

    compiled = None
    if options.compile:
        from seekjax.commands.compiled import compile_planned  # a second, for JAX

        compiled = compile_planned(layout, chip, options.compile)

    # The speed as stated, or from the roofline
    flops = options.flops_per_token or published_flops(config.model, config.data.sequence)
    per_trillion, basis = _speed(options, chosen, chip, flops)
    tokens = options.tokens
    if tokens is None:
        tokens = tokens_at(config, config.train.steps)
    price = chip.price if options.price is None else options.price
    cost = Cost(tokens, devices, per_trillion, options.device_hours, price)

    if options.json:
        figures = _figures(config, layout) | {
            "chip": asdict(chip),
            "time": asdict(chosen.time) | {"bound": chosen.time.bound},
            "sent": [asdict(sent) for sent in transfers(layout, chip.node)],
            "meshes": [_mesh_figures(choice) for choice in found[: tables.SHOWN]],
            "cost": asdict(cost) | _cost_figures(cost, flops, basis, options),
        }
        if compiled:
            figures["compiled"] = compiled.figures()
        print(json.dumps(figures, indent=1))
        return

    heading = f"{config.name} on {devices:,} x {chip.name}: {tables.mesh_words(layout)}, "
    heading += f"{layout.micro_batches} x {config.train.batch // layout.micro_batches} sequences"
    parts = [
        tables.model_table(config),
        f"{heading}{note}",
        tables.memory_table(layout, chip),
        tables.traffic_table(chosen, chip),
        tables.meshes_table(found, chip),
        tables.cost_table(cost, flops, chip, layout, basis),
    ]
    if compiled:
        parts.insert(3, compiled.table())
    if options.against:
        parts.append(tables.saving_line(cost, options.against))
    parts.append(tables.source_line(chip))
    print("\n\n".join(parts))


def inference_text(config: Config, options: PlanOptions, chip: Chip | None, devices: int) -> str:
    """Return the plan of generating with a model, as tables or as JSON."""
    if chip is None:
        raise UsageError("--inference needs devices: name them, as --on h200:8.")
    serving = Serving(
        config.model, chip, devices, options.weights, options.cache, options.context, options.batch
    )
    if options.json:
        figures = asdict(serving) | {
            "weight_bytes": serving.weight_bytes,
            "bytes_once": serving.all_bytes,
            "cache_bytes_per_token": serving.token_bytes,
            "largest_batch": serving.largest_batch,
            "seconds_per_token": serving.seconds() if serving.sequences else None,
            "exchange_seconds": serving.exchange_seconds(),
            "exchange_bound_seconds": serving.exchange_bound(),
        }
        return json.dumps(figures, indent=1)

    parts = [
        f"{config.name} generating on {devices:,} x {chip.name}",
        tables.serving_table(serving),
    ]
    if not serving.largest_batch:
        others = {name: _published(name) for name in PUBLISHED}
        parts += [
            f"{config.name} does not fit with a sequence of {options.context:,} tokens"
            f"{_enough(serving)}",
            tables.what_fits(others, serving),
        ]
    parts.append(tables.source_line(chip))
    return "\n\n".join(parts)


def _enough(serving: Serving) -> str:
    """Return how many devices would hold the model and a sequence on each, "" if not even 4,096."""
    for doublings in range(13):
        devices = serving.devices * 2**doublings
        if devices <= 4096 and replace(serving, devices=devices).largest_batch:
            return f"; it does on --on {serving.chip.name}:{devices}"
    return ""


def _published(name: str) -> Config:
    config = load_config(name)
    if not isinstance(config, Config):
        raise ConfigError(f"{name} is not a config of one run.")
    return config


def _own_count(config: Config) -> int:
    """Return the devices of the config's mesh, with 1 where an axis takes what is left."""
    sizes = [max(1, size) for size in vars(config.mesh).values()]
    return math.prod(sizes)


def _mesh_sizes(config: Config, devices: int) -> dict[str, int]:
    """Return the sizes of the mesh axes. Raises ConfigError if they do not fit the devices."""
    try:
        return config.mesh.sizes(devices)
    except ValueError as error:  # sharding has its own sentences, and no ConfigError
        raise ConfigError(str(error)) from error


def _own_choice(
    config: Config, chip: Chip, devices: int, has_mesh: bool, recommended: Choice
) -> tuple[Choice, str]:
    """Return the config's mesh if it has this many devices, else the recommended one.

    Also returns a note on the second case. Raises ConfigError if the command line asks for a mesh
    of another number of devices.
    """
    own = _own_count(config)
    data_is_free = config.mesh.data == 0 and devices % own == 0
    need(
        own == devices or data_is_free or not has_mesh,
        f"the mesh has {own:,} devices and --on {chip.name}:{devices} has {devices:,}: make them "
        "equal, or leave the mesh out and see what is recommended.",
    )
    if own != devices and not data_is_free:
        return recommended, f" (recommended: the config's mesh has {own:,} devices)"

    # A mesh that grows with the devices may have more replicas than sequences
    try:
        return assess(lay_out(config, _mesh_sizes(config, devices)), chip), ""
    except ConfigError:
        if has_mesh:
            raise
        return recommended, " (recommended: the config's mesh does not divide its batch)"


def _speed(options: PlanOptions, chosen: Choice, chip: Chip, flops: float) -> tuple[float, str]:
    """Return device-hours per trillion tokens, and where they come from."""
    need(
        not (options.mfu and options.hours_per_trillion),
        "--mfu and --hours-per-trillion both state the speed: give one of them.",
        UsageError,
    )
    layout = chosen.layout
    if options.hours_per_trillion:
        return options.hours_per_trillion, "from --hours-per-trillion"
    if options.mfu:
        peak = chip.peak(layout.config.kernel.dtype)
        speed = speed_at(options.mfu, flops, peak, layout.devices)
        return hours_per_trillion(speed, layout.devices), f"at a stated MFU of {options.mfu:.1%}"
    speed = layout.step_tokens / chosen.time.serial
    without = ", without what is left out" if chosen.time.left_out else ""
    return hours_per_trillion(speed, layout.devices), f"the roofline, nothing overlapped{without}"


def _show_model(config: Config, layout: Layout, options: PlanOptions) -> None:
    """Print what does not depend on a chip."""
    if options.json:
        print(json.dumps(_figures(config, layout), indent=1))
        return
    heading = f"{config.name} on {layout.devices:,} devices: {tables.mesh_words(layout)}"
    last = "time and cost: add --on KIND:COUNT, as --on h800:2048"
    print(
        "\n\n".join([tables.model_table(config), heading, tables.memory_table(layout, None), last])
    )


def _figures(config: Config, layout: Layout) -> dict[str, Any]:
    """Return what depends on config and mesh alone, for JSON."""
    parts = forward_flops(config.model, config.data.sequence)
    return {
        "name": config.name,
        "parameters": asdict(parameters(config.model)),
        "cache_bytes_per_token": cache_bytes(config.model),
        "training_flops_per_token": {name: TRAINING * flops for name, flops in parts.items()},
        "mesh": dict(layout.axes),
        "tokens_per_step": layout.step_tokens,
        "memory": asdict(memory(layout)),
        "memory_by_remat": {remat: memory(layout, remat).total for remat in POLICIES},
    }


def _mesh_figures(choice: Choice) -> dict[str, Any]:
    return {
        "mesh": dict(choice.layout.axes),
        "micro_batch": choice.micro_batch,
        "memory": choice.memory.total,
        "seconds": choice.time.serial,
        "seconds_overlapped": choice.time.overlapped,
        "bound": choice.time.bound,
        "uncounted": choice.time.uncounted,
    }


def _cost_figures(cost: Cost, flops: float, basis: str, options: PlanOptions) -> dict[str, Any]:
    return {
        "basis": basis,
        "tokens_per_second": cost.tokens_per_second,
        "flops_per_device": flops * cost.tokens_per_second / cost.devices,
        "device_hours": cost.hours,
        "dollars": cost.dollars,
        "days": cost.days,
        "days_per_trillion": cost.days_per_trillion,
        "saving": cost.saving(options.against) if options.against else None,
    }
