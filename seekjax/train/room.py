"""Whether the devices of a run have room for it, from the plan and before anything compiles."""

import sys

import jax

from seekjax.config import Config
from seekjax.memory import shortage_of
from seekjax.plan.layout import lay_out
from seekjax.plan.memory import memory


def note_shortage(config: Config) -> None:
    """Say on stderr, in one line, that a pre-training will not fit into what is free here.

    What a step holds between and within layers is an estimate (seekjax/plan/memory.py), so the run
    goes on; weights, gradients and moments are exact.
    """
    if config.kind or config.lora.rank or jax.process_index():
        return
    text = shortage_sentence(config)
    if text:
        print(f"note: {text}", file=sys.stderr, flush=True)


def shortage_sentence(config: Config) -> str:
    """Return that sentence, "" if the run fits or what is free is not known."""
    layout = lay_out(config, config.mesh.sizes(jax.device_count()))
    planned = memory(layout)
    devices = jax.local_devices()[: layout.devices]
    exact = planned.state + planned.gradients

    for size, verdict in ((exact, "cannot fit"), (planned.total, "may not fit")):
        missing = shortage_of(dict.fromkeys(devices, int(size)))
        if missing:
            held = "weights, gradients and moments" if verdict == "cannot fit" else "a step"
            return (
                f"the run {verdict}: {held} would take {missing}; take more devices, a smaller "
                f"--train.micro-batch or --kernel.remat full, and see `seekjax plan {config.name}`."
            )
    return ""
