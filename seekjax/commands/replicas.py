"""Redundant experts for the commands that generate: from a measured load to a placement."""

import sys
from pathlib import Path

import numpy as np

from seekjax.commands.settings import RedundantExperts
from seekjax.config import ModelConfig
from seekjax.errors import GenerateError, need
from seekjax.generate.load import measure_load
from seekjax.model.replicas import with_replicas
from seekjax.open import OpenedModel
from seekjax.train.record import METRICS, read
from sharding.replicate import Placement, place_experts
from sharding.rules import nodes_in_use, split_by


def add_replicas(opened: OpenedModel, options: RedundantExperts) -> OpenedModel:
    """Return the model with redundant experts, and print what they buy; call it within the mesh.

    Raises GenerateError if the mesh or the model has no place for them, or no load is known.
    """
    if not options.redundant_experts:
        need(
            options.load_text is None,
            "--load-text is for --redundant-experts: add their number, or leave it out.",
            GenerateError,
        )
        return opened

    model, devices = opened.model, split_by("experts")
    check(model, options.redundant_experts, devices)
    load_LE, where = known_load(opened, options.load_text)
    placements = [
        place_experts(
            load_E,
            model.experts + options.redundant_experts,
            devices,
            nodes_in_use(),
            model.expert_groups,
        )
        for load_E in load_LE
    ]
    print(sentence(load_LE, placements, devices, where), file=sys.stderr)
    variables = with_replicas(model, opened.variables, placements)
    return opened._replace(variables=variables)


def check(model: ModelConfig, number: int, devices: int) -> None:
    """Raise GenerateError if there cannot be this many redundant experts."""
    need(
        "expert_layers" in model.stacks,
        "--redundant-experts is for a model with experts, and this one has none: leave it out.",
        GenerateError,
    )
    need(
        devices > 1,
        "--redundant-experts balances devices that split the experts, and this mesh has one: give "
        "--mesh.expert too.",
        GenerateError,
    )
    places = model.experts + number
    need(
        places % devices == 0,
        f"--redundant-experts is {number}: {model.experts} experts and {number} more cannot be "
        f"split evenly over {devices} devices, make it {number + -places % devices}.",
        GenerateError,
    )


def known_load(opened: OpenedModel, text: Path | None) -> tuple[np.ndarray, str]:
    """Return the load of each layer's experts, [L, E], and where it is from, in words.

    Layers are expert layers, then prediction modules.
    """
    if text is not None:
        return measure_load(opened, text), f"on {text}"

    if (opened.folder / METRICS).is_file():
        for record in reversed(read(opened.folder)):
            if "load" in record:
                load_LE = np.array(record["load"], float)
                if np.isfinite(load_LE).all():
                    return load_LE, f"in step {record['step']:,} of the run"
    raise GenerateError(
        f"{opened.folder} has no record of which experts are popular: name a text with --load-text."
    )


def sentence(
    load_LE: np.ndarray,
    placements: list[Placement],
    devices: int,
    where: str,
) -> str:
    """Return the balance of devices without and with redundant experts, in words."""
    before, after = [], []
    for load_E, placement in zip(load_LE, placements):
        plain_D = load_E.reshape(devices, -1).sum(-1)
        placed_D = placement.device_load(load_E, devices)
        before.append(plain_D.max() / plain_D.mean())
        after.append(placed_D.max() / placed_D.mean())
    physical = placements[0].logical_P.size
    over = f" (mean of {len(placements)} layers)" if len(placements) > 1 else ""
    return (
        f"{load_LE.shape[1]} experts in {physical} places on {devices} devices: by the load {where}"
        f", the busiest device has {np.mean(before):.2f}x the mean without redundant experts and "
        f"{np.mean(after):.2f}x with them{over}"
    )
