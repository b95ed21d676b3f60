"""How tracing, lowering and compiling a training step of `mini` grow with depth: layers are
scanned, so they should not.

    python -m tests.benchmarks.depth

Every depth is compiled in turn, three times, without a compilation cache. Results:
tests/benchmarks/results/depth.md
"""

from statistics import median

import jax

from tests.benchmarks import mini

DEPTHS, TURNS = (6, 24), 3


def main() -> None:
    jax.config.update("jax_enable_compilation_cache", False)
    print(mini.heading())
    lowering, compiling = {layers: [] for layers in DEPTHS}, {layers: [] for layers in DEPTHS}
    mini.Step(
        mini.config(layers=DEPTHS[0])
    )  # the first compilation of a process also loads and starts things
    for _ in range(TURNS):
        for layers in DEPTHS:
            jax.clear_caches()
            step = mini.Step(mini.config(layers=layers))
            lowering[layers].append(step.lowering)
            compiling[layers].append(step.compiling)
    first = median(compiling[DEPTHS[0]])
    print(
        f"\n| layers | s to trace and lower | s to compile | compile against {DEPTHS[0]} "
        "layers |\n|---|---|---|---|"
    )
    for layers in DEPTHS:
        seconds = median(compiling[layers])
        print(
            f"| {layers} | {median(lowering[layers]):.1f} | {seconds:.1f} | "
            f"{seconds / first:.2f}x |"
        )


if __name__ == "__main__":
    main()
