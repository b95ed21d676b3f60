"""The plan's memory next to what XLA plans for the same step.

    python -m tests.benchmarks.plan

The compiler's temporaries are those of compile_tpu.md (TPU v5p, ahead of time) and memory.md (CPU);
nothing is compiled here. Results: tests/benchmarks/results/plan.md
"""

import importlib
from dataclasses import replace

from seekjax.plan.layout import lay_out
from seekjax.plan.memory import memory
from sharding.mesh_config import MeshConfig
from sharding.show import human
from tests.benchmarks import mini

MIB, GIB = 2**20, 2**30
V3 = {"batch": 512, "batch_start": 0, "batch_ramp": 0.0}

# config, mesh, changes of train and kernel, temporaries of the compiler, its source
COMPILED = [
    (
        "tiny",
        MeshConfig(data=1, fsdp=2, expert=2, tensor=2),
        {"batch": 16},
        {},
        103 * MIB,
        "compile_tpu.md",
    ),
    (
        "v2_lite",
        MeshConfig(data=1, fsdp=8, expert=8, tensor=1),
        {},
        {},
        69.5 * GIB,
        "compile_tpu.md",
    ),
    (
        "v3",
        MeshConfig(data=1, fsdp=8, expert=64, tensor=1),
        V3,
        {"capacity": 2.0},
        37.8 * GIB,
        "compile_tpu.md",
    ),
    (
        "v3",
        MeshConfig(data=1, fsdp=8, expert=64, tensor=1),
        V3,
        {},
        104.84 * GIB,
        "compile_tpu.md, refused",
    ),
]
MINI = [("latent", 527 * MIB), ("none", 1585 * MIB)]


def row(name, config, mesh, compiled, source) -> str:
    layout = lay_out(config, mesh.sizes(10**6))
    planned = memory(layout)
    temporaries = planned.total - planned.state
    largest = max(planned.rows(), key=planned.rows().get)
    return (
        f"| {name} | {layout.devices} | {config.kernel.remat} | {human(planned.state)} | "
        f"{human(temporaries)} | {human(compiled)} | {temporaries / compiled:.2f}x | {largest} | "
        f"{source} |"
    )


def main() -> None:
    print(
        "| config | devices | remat | state | temporaries, plan | compiler | plan / compiler | "
        "largest of the plan | source |\n|---|---|---|---|---|---|---|---|---|"
    )
    for name, mesh, train, kernel, compiled, source in COMPILED:
        config = importlib.import_module(f"configs.{name}").config
        config = replace(
            config,
            train=replace(config.train, **train),
            kernel=replace(config.kernel, **kernel),
        )
        capacity = ", capacity 2" if kernel else ""
        print(row(name + capacity, config, mesh, compiled, source))
    for remat, compiled in MINI:
        config = mini.config(sequence=256, batch=16, remat=remat)
        print(row("mini", config, MeshConfig(1), compiled, "memory.md"))


if __name__ == "__main__":
    main()
