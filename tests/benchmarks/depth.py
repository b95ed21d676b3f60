"""How tracing, lowering and compiling a training step of `mini` grow with depth: layers are scanned, so they should not.

    python tests/benchmarks/depth.py

Every depth is compiled in turn, three times, without a compilation cache. Results: tests/benchmarks/results/depth.md
"""

from statistics import median

import jax
import mini

DEPTHS, TURNS = (6, 12, 24), 3


def main() -> None:
    jax.config.update("jax_enable_compilation_cache", False)
    print(mini.heading())
    steps = {layers: [] for layers in DEPTHS}
    mini.Step(mini.config(layers=DEPTHS[0]))  # the first compilation of a process also loads and starts things
    for _ in range(TURNS):
        for layers in DEPTHS:
            jax.clear_caches()
            step = mini.Step(mini.config(layers=layers))
            steps[layers].append((step.lowering, step.compiling))
    lowering, compiling = ({layers: median(times) for layers, times in ((layers, [pair[i] for pair in pairs]) for layers, pairs in steps.items())}
                           for i in range(2))
    print(f"\n| layers | s to trace and lower | s to compile | compile against {DEPTHS[0]} layers |\n|---|---|---|---|")
    for layers in DEPTHS:
        print(f"| {layers} | {lowering[layers]:.1f} | {compiling[layers]:.1f} | {compiling[layers] / compiling[DEPTHS[0]]:.2f}x |")


if __name__ == "__main__":
    main()
