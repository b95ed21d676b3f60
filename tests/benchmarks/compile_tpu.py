"""Compile the real train step for TPU v5p without a TPU, and write down what the compiler says of
it.

    pip install "jax[tpu]"
    # (1 and 10 minutes, and more for v3; leave it the machine)
    python -m tests.benchmarks.compile_tpu [tiny] [v2_lite] [v3] ...

A name replaces its section of tests/benchmarks/results/compile_tpu.md; RUNS has them all.
HLO=folder keeps the compiled programs.
"""

import os
import re
import sys
import time
from collections import defaultdict
from dataclasses import replace
from importlib import import_module, metadata
from pathlib import Path

os.environ.update(JAX_PLATFORMS="cpu", TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")

import jax
import numpy as np
from jax.experimental import topologies

from seekjax.model.count import flops_per_token, parameters
from seekjax.placement import use_mesh
from seekjax.train.state import RunSpec
from seekjax.train.step import BATCH, compile_steps
from sharding.mesh import MeshConfig, make_mesh
from sharding.rules import sharding
from sharding.show import describe, human

RESULTS = Path(__file__).with_name("results") / "compile_tpu.md"
ONCE = {"batch": 512, "batch_start": 0, "batch_ramp": 0.0}  # one sequence a chip, no accumulation
RUNS = {  # name: config, chips as a torus, mesh, train and kernel overrides
    "tiny": ("tiny", "2x2x2", MeshConfig(fsdp=2, expert=2, tensor=2), {}, {}),
    "v2_lite": ("v2_lite", "4x4x4", MeshConfig(fsdp=8, expert=8), {}, {}),
    "v3": ("v3", "8x8x8", MeshConfig(fsdp=8, expert=64), ONCE, {"capacity": 2.0}),
    "v3_dropless": ("v3", "8x8x8", MeshConfig(fsdp=8, expert=64), ONCE, {}),
}
HEAD = """# The train step, compiled ahead of time for TPU v5p

`python -m tests.benchmarks.compile_tpu`: plans, not runs; no TPU was there. Bytes of a collective are those of its result on one chip (for a reduce-scatter of what it
scatters), summed over a step with loops unrolled; a ragged all-to-all counts its whole worst-case buffer, of which only the rows that exist travel. The compiler
writes many gathers as all-reduces of zero-padded slices. cost_analysis counts a loop's body once and a Pallas kernel as nothing.
"""
KINDS = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
)
SIZES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "f8e4m3fn": 1,
    "bf16": 2,
    "f16": 2,
    "s16": 2,
    "u16": 2,
    "f32": 4,
    "s32": 4,
    "u32": 4,
    "s64": 8,
    "u64": 8,
}


def section(name: str) -> str:
    """Compile one of RUNS; what came of it, in Markdown."""
    module, torus, mesh, train, kernel = RUNS[name]
    config = import_module(f"configs.{module}").config
    config = replace(
        config,
        mesh=mesh,
        train=replace(config.train, **train),
        kernel=replace(config.kernel, **kernel),
    )
    devices = topologies.get_topology_desc(platform="tpu", topology_name=f"v5p:{torus}").devices
    micro = config.train.rows
    shape = config.train.batch // micro, micro, config.data.sequence + 1
    changed = ", ".join(f"{key} {value}" for key, value in {**train, **kernel}.items()) or "nothing"
    placed = make_mesh(mesh, devices)
    lines = [
        f"## {name}: {parameters(config.model).total / 1e9:.4g}B parameters on v5p {torus}",
        "",
        f"* Mesh: {describe(placed)}. Batch: {shape[0]} x {shape[1]} sequences of "
        f"{config.data.sequence}. "
        f"Changed from configs/{module}.py beside the mesh: {changed}.",
    ]
    with use_mesh(placed):
        plan = RunSpec(config)
        step, _ = compile_steps(plan, np.ones(config.model.vocab, np.int32))
        batch = jax.ShapeDtypeStruct(shape, np.int32, sharding=sharding(BATCH))
        start = time.perf_counter()
        lowered = step.lower(plan.abstract_state(), {"tokens": batch, "segments": batch})
        lowering, start = time.perf_counter() - start, time.perf_counter()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            return "\n".join(
                [
                    *lines,
                    f"* **Refused** after {time.perf_counter() - start:.0f} s: "
                    f"{' '.join(str(error).split())[:600]}",
                    "",
                ]
            )
        compiling = time.perf_counter() - start
    memory, text = compiled.memory_analysis(), compiled.as_text()
    if "HLO" in os.environ:
        Path(os.environ["HLO"], f"{name}.hlo").write_text(text)
    arguments, outputs, aliased, temporaries = (
        getattr(memory, f"{part}_size_in_bytes") for part in ("argument", "output", "alias", "temp")
    )
    expected = (
        flops_per_token(config.model, config.data.sequence)
        * config.train.batch
        * config.data.sequence
        / len(devices)
    )
    lines += [
        f"* Lowered in {lowering:.0f} s, compiled in {compiling:.0f} s (jax "
        f"{jax.__version__}, libtpu {metadata.version('libtpu')}).",
        f"* Per chip: arguments {human(arguments)}, outputs {human(outputs)} of which "
        f"aliased {human(aliased)}, temporaries {human(temporaries)}; "
        f"**peak {human(arguments + outputs - aliased + temporaries)} of 95.7 GiB**.",
        f"* FLOPs per chip: {compiled.cost_analysis()['flops']:.3g} by cost_analysis, "
        f"{expected:.3g} by seekjax.plan (no recomputation).",
        f"* Kernels: {kernels(text)}.",
        "",
        "| collective | in the program | per step | bytes per chip and step |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {kind} | {written} | {run:,} | {human(size)} |"
        for kind, (written, run, size) in collectives(text).items()
    ]
    return "\n".join([*lines, ""])


def kernels(text: str) -> str:
    """Which of the kernels that only a TPU has are in the program."""
    patterns = {
        "splash attention": r"^  %splash\S* = .*tpu_custom_call",
        "native ragged dot": r"^  %ragged-dot-none\S* = .*tpu_custom_call",
        "ragged all-to-all": r" ragged-all-to-all(?:-start)?\(",
    }
    found = {kernel: len(re.findall(pattern, text, re.M)) for kernel, pattern in patterns.items()}
    masked = len(re.findall(r"%output_mask_fusion[.\d]* = pred\[\d+,\d+\]", text))
    return ", ".join(
        f"{kernel} {f'yes ({count} calls)' if count else '**no**'}"
        for kernel, count in found.items()
    ) + (
        f"; **but {masked} weight gradients of experts are dense and masked**, each "
        "expert over all rows"
        if masked
        else ""
    )


def collectives(text: str) -> dict[str, tuple[int, int, int]]:
    """By kind: how many stand in the program, how many run in a step, and their bytes. A
    reduce-scatter is a fusion named all-reduce-scatter."""
    pieces = re.split(r"^(?:ENTRY )?%([\w.-]+) \(.*\{$", text, flags=re.M)
    bodies = {name: body.split("\n") for name, body in zip(pieces[1::2], pieces[2::2])}
    seen, runs = defaultdict(lambda: [0, 0, 0]), defaultdict(int)

    def visit(name: str, times: int) -> None:
        runs[name] += times
        for line in bodies[name]:
            condition = re.search(
                r" while\(.*condition=%([\w.-]+)", line
            )  # a scan's counter runs up to a constant in it
            trips = (
                max(
                    map(
                        int,
                        re.findall(
                            r"= s32\[\]\S* constant\((\d+)\)", "\n".join(bodies[condition[1]])
                        ),
                    ),
                    default=1,
                )
                if condition
                else 1
            )
            for called in re.findall(r"(?:calls|body)=%([\w.-]+)", line):
                visit(called, times * trips)

    visit(re.search(r"^ENTRY %?([\w.-]+)", text, re.M)[1], 1)
    for name, times in runs.items():
        for line in bodies[name]:
            if match := re.search(r" = (.*?) (" + "|".join(KINDS) + r")(-start)?\(", line):
                kind = "reduce-scatter" if "all-reduce-scatter" in name else match[2]
                arrays = re.findall(r"(\w+)\[([\d,]*)\]", match[1])
                sizes = [
                    SIZES.get(dtype, 0) * int(np.prod([int(n) for n in dims.split(",") if n]))
                    for dtype, dims in arrays
                ]
                size = (
                    max(sizes) if match[3] else sum(sizes)
                )  # a start's result holds its operand too
                seen[kind] = [a + b for a, b in zip(seen[kind], (1, times, times * size))]
    return {kind: tuple(seen[kind]) for kind in KINDS}


if __name__ == "__main__":
    for wanted in sys.argv[1:] or ("tiny", "v2_lite", "v3"):
        print(new := section(wanted), flush=True)
        old = re.split(r"^(?=## )", RESULTS.read_text(), flags=re.M)[1:] if RESULTS.exists() else []
        kept = {part.split(":")[0][3:]: part.strip() + "\n" for part in old} | {wanted: new}
        RESULTS.write_text("\n".join([HEAD, *(kept[name] for name in RUNS if name in kept)]))
