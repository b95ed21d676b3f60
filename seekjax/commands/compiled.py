"""`seekjax plan --compile`: the step compiled for a TPU that is not here, next to the plan."""

import math
import re
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax

from seekjax.errors import ConfigError, UsageError, need
from seekjax.plan.chips import Chip
from seekjax.plan.layout import Layout
from seekjax.plan.memory import memory
from seekjax.plan.program import collectives
from seekjax.plan.tables import align
from seekjax.plan.traffic import transfers
from seekjax.train.ahead import CompiledStep, compile_ahead, tpu_devices
from sharding.mesh_config import MeshConfig
from sharding.show import human


@dataclass(frozen=True)
class Comparison:
    """A plan and what the compiler says of the same step."""

    layout: Layout
    chip: Chip
    torus: str
    step: CompiledStep

    def figures(self) -> dict[str, Any]:
        """Return the compiler's figures for JSON."""
        sizes = {name: value for name, value in vars(self.step).items() if name != "text"}
        by_kind = {name: asdict(kind) for name, kind in collectives(self.step.text).items()}
        return sizes | {"peak": self.step.peak, "collectives": by_kind}

    def table(self) -> str:
        """Return memory and bytes sent by both, and the compiler's collectives."""
        planned, step = memory(self.layout), self.step
        by_kind = collectives(step.text)
        sent = [
            transfer.inside + transfer.between
            for transfer in transfers(self.layout, self.chip.node)
        ]
        received = [kind.bytes for kind in by_kind.values()]
        rows = [
            (f"compiled for {self.chip.name} {self.torus}", "plan", "compiler", "plan / compiler"),
            _row("state, and the batch", planned.state, step.arguments),
            _row("everything else", planned.total - planned.state, step.temporaries),
            _row("all", planned.total, step.peak),
            _row("received in a step", sum(sent), sum(received)),
        ]

        collected = [("collective", "in the program", "in a step", "bytes")]
        for name, kind in by_kind.items():
            if kind.written:
                collected.append((name, str(kind.written), f"{kind.runs:,}", human(kind.bytes)))
        note = (
            "bytes of a collective are those of its result on one device; a ragged all-to-all "
            "counts its whole\nbuffer, of which only the rows that exist travel (compiled in "
            f"{step.seconds:.0f} s with jax {jax.__version__})"
        )
        return f"{align(rows, left=1)}\n\n{align(collected, left=1)}\n{note}"


def compile_planned(layout: Layout, chip: Chip, torus: str) -> Comparison:
    """Compile the planned step for the chips of a topology, as "4x4x4".

    Raises UsageError for a topology of another size or one that libtpu does not have, ConfigError
    with the compiler's reason if it refuses the step.
    """
    _check_size(torus, chip, layout.devices)
    devices = tpu_devices(chip.name, torus)
    need(
        len(devices) == layout.devices,
        f"{chip.name} {torus} has {len(devices):,} devices in {layout.devices:,} chips, and a plan "
        "counts one in each: choose a kind with one, as v5p.",
        UsageError,
    )
    config = replace(layout.config, mesh=MeshConfig(**layout.sizes))
    try:
        step = compile_ahead(config, devices)
    except jax.errors.JaxRuntimeError as error:
        words = " ".join(str(error).split())[:400]
        raise ConfigError(f"the compiler for {chip.name} refuses the step: {words}") from error
    return Comparison(layout, chip, torus, step)


def _check_size(torus: str, chip: Chip, devices: int) -> None:
    need(
        re.fullmatch(r"\d+(x\d+)*", torus),
        f"--compile {torus} is not a topology: give the sides of one, as 4x4x4.",
        UsageError,
    )
    sides = [int(side) for side in torus.split("x")]
    need(
        math.prod(sides) == devices,
        f"--compile {torus} has {math.prod(sides):,} chips and --on {chip.name}:{devices} has "
        f"{devices:,}: make them equal.",
        UsageError,
    )


def _row(name: str, planned: float, compiled: float) -> tuple[str, str, str, str]:
    ratio = f"{planned / compiled:.2f}x" if compiled else ""
    return name, human(planned), human(compiled), ratio
