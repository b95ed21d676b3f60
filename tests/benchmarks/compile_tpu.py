"""Compile the real train step for TPU v5p without a TPU, and write down what the compiler says of
it, next to the plan.

    pip install 'seekjax[tpu-plan]'
    python -m tests.benchmarks.compile_tpu tiny v2_lite v3    # minutes each; leave it the machine

A name replaces its section of tests/benchmarks/results/compile_tpu.md; RUNS has them all. HLO=folder
keeps the compiled programs. `seekjax plan CONFIG --on v5p:COUNT --compile SIDES` is the command for
any other run.
"""

import os
import re
import sys
from dataclasses import dataclass, field, replace
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"

import jax

from seekjax.commands.compiled import compile_planned
from seekjax.errors import ConfigError
from seekjax.model.count import parameters
from seekjax.plan.chips import CHIPS
from seekjax.plan.layout import lay_out
from seekjax.plan.tables import mesh_words
from sharding.mesh_config import MeshConfig

RESULTS = Path(__file__).with_name("results") / "compile_tpu.md"
HEAD = """# The train step, compiled ahead of time for TPU v5p

`python -m tests.benchmarks.compile_tpu`: plans, not runs; no TPU was there. The compiler writes many
gathers as all-reduces of zero-padded slices.
"""


@dataclass(frozen=True)
class Run:
    """A config on a topology, with what differs from it."""

    config: str
    torus: str
    mesh: MeshConfig
    train: dict[str, Any] = field(default_factory=dict)
    kernel: dict[str, Any] = field(default_factory=dict)

    def planned(self):
        """The run's layout and chip, as `seekjax plan` has them."""
        config = import_module(f"configs.{self.config}").config
        config = replace(
            config,
            train=replace(config.train, **self.train),
            kernel=replace(config.kernel, **self.kernel),
        )
        return lay_out(config, self.mesh.sizes(sys.maxsize)), CHIPS["v5p"]


# One sequence a chip, no accumulation
ONCE = {"batch": 512, "batch_start": 0, "batch_ramp": 0.0}
TWICE = ONCE | {"batch": 1024}
BOUND = {"capacity": 2.0}

RUNS = {
    "tiny": Run("tiny", "2x2x2", MeshConfig(data=1, fsdp=2, expert=2, tensor=2)),
    "v2_lite": Run("v2_lite", "4x4x4", MeshConfig(data=1, fsdp=8, expert=8)),
    "v3": Run("v3", "8x8x8", MeshConfig(data=1, fsdp=8, expert=64), ONCE, BOUND),
    "v3_1024": Run("v3", "8x8x16", MeshConfig(data=1, fsdp=16, expert=64), TWICE, BOUND),
    "v3_dropless": Run("v3", "8x8x8", MeshConfig(data=1, fsdp=8, expert=64), ONCE),
}


def section(name: str) -> str:
    """Compile one of RUNS; what came of it, in Markdown."""
    run = RUNS[name]
    layout, chip = run.planned()
    changes = [f"{key} {value}" for key, value in {**run.train, **run.kernel}.items()]
    config = layout.config
    rows = config.train.rows
    lines = [
        f"## {name}: {parameters(config.model).total / 1e9:.4g}B parameters on v5p {run.torus}",
        "",
        f"* {layout.devices} devices: {mesh_words(layout)}. Batch: {layout.micro_batches} x {rows} "
        f"sequences of {config.data.sequence}. Changed from configs/{run.config}.py beside the "
        f"mesh: {', '.join(changes) or 'nothing'}.",
        f"* jax {jax.__version__}, libtpu {metadata.version('libtpu')}.",
    ]
    try:
        compared = compile_planned(layout, chip, run.torus)
    except ConfigError as error:
        return "\n".join([*lines, f"* **Refused**: {error}", ""])

    text = compared.step.text
    if "HLO" in os.environ:
        Path(os.environ["HLO"], f"{name}.hlo").write_text(text)
    return "\n".join(
        [*lines, f"* Kernels: {kernels(text)}.", "", "```text", compared.table(), "```", ""]
    )


def kernels(text: str) -> str:
    """Which of the kernels that only a TPU has are in the program."""
    patterns = {
        "splash attention": r"^  %splash\S* = .*tpu_custom_call",
        "native ragged dot": r"^  %ragged-dot-none\S* = .*tpu_custom_call",
        "ragged all-to-all": r" ragged-all-to-all(?:-start)?\(",
    }
    words = []
    for kernel, pattern in patterns.items():
        count = len(re.findall(pattern, text, re.M))
        words.append(f"{kernel} yes ({count} calls)" if count else f"{kernel} **no**")
    masked = len(re.findall(r"%output_mask_fusion[.\d]* = pred\[\d+,\d+\]", text))
    if masked:
        words.append(f"**{masked} weight gradients of experts are dense and masked**")
    return ", ".join(words)


def keep(name: str, new: str) -> None:
    """Write a section into the results, in the place of its old one."""
    old = re.split(r"^(?=## )", RESULTS.read_text(), flags=re.M)[1:] if RESULTS.exists() else []
    sections = {part.split(":")[0][3:]: part.strip() + "\n" for part in old} | {name: new}
    ordered = [sections[run] for run in RUNS if run in sections]
    RESULTS.write_text("\n".join([HEAD, *ordered]))


if __name__ == "__main__":
    for wanted in sys.argv[1:] or ("tiny", "v2_lite", "v3"):
        found = section(wanted)
        print(found, flush=True)
        keep(wanted, found)
