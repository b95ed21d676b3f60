"""What a training step of `mini` costs with 8 to 64 routed experts, and what eight emulated devices
cost against one.

    python -m tests.benchmarks.experts [--turns 5]
    JAX_NUM_CPU_DEVICES=8 python -m tests.benchmarks.experts

The number of choices per token and the width of an expert stay, so the matrix products stay;
parameters, and with them the optimizer, grow. With eight devices: the same batch on one of them, on
eight by data, on eight by experts (dropless). Results: tests/benchmarks/results/experts.md
"""

import argparse

import jax

from seekjax.placement import use_mesh
from seekjax.train.state import RunSpec
from sharding.mesh import MeshConfig
from tests.benchmarks import mini


def update(step: mini.Step):
    """The optimizer's part of that step alone."""
    with use_mesh(step.mesh):
        optimizer = RunSpec(step.config).optimizer
    run = jax.jit(
        lambda grads, opt_state, params: optimizer.update(grads, opt_state, params),
        donate_argnums=1,
    )

    def once():
        updates, opt_state = run(step.state.params, step.state.opt_state, step.state.params)
        step.state = step.state.replace(opt_state=opt_state)
        return updates

    return once


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=5)
    turns = parser.parse_args().turns
    print(mini.heading())
    if jax.device_count() == 8:
        meshes = {
            "one": MeshConfig(data=1),
            "data 8": MeshConfig(data=8),
            "expert 8": MeshConfig(data=1, expert=8),
        }
        steps = {name: mini.Step(mini.config(mesh=mesh)) for name, mesh in meshes.items()}
        seconds = mini.alternate(steps, turns)
        print(
            "\n| devices | s per step | against one | temporary MiB per device |\n|---|---|---|---|"
        )
        for name, step in steps.items():
            room = step.compiled.memory_analysis().temp_size_in_bytes / 2**20
            print(
                f"| {name} | {seconds[name]:.2f} | {seconds[name] / seconds['one']:.2f}x "
                f"| {room:.0f} |"
            )
        return
    steps = {experts: mini.Step(mini.config(experts=experts)) for experts in (8, 16, 32, 64)}
    seconds = mini.alternate(
        {
            (experts, part): run
            for experts, step in steps.items()
            for part, run in (("step", step), ("update", update(step)))
        },
        turns,
    )
    print(
        "\n| routed experts | parameters | s per step | against 8 | s of the optimizer | "
        "s without it | against 8 |\n|---|---|---|---|---|---|---|"
    )
    for experts, step in steps.items():
        whole, part = seconds[experts, "step"], seconds[experts, "update"]
        size = sum(x.size for x in jax.tree.leaves(step.state.params)) / 1e6
        print(
            f"| {experts} | {size:.1f}M | {whole:.2f} | {whole / seconds[8, 'step']:.2f}x "
            f"| {part:.2f} | {whole - part:.2f} | "
            f"{(whole - part) / (seconds[8, 'step'] - seconds[8, 'update']):.2f}x |"
        )


if __name__ == "__main__":
    main()
