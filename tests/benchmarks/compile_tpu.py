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

`python -m tests.benchmarks.compile_tpu`, next to what `seekjax plan` says: plans, not runs; no TPU
was there. The seconds of compiling are those of a machine that did other things too.

* Memory, plan over compiler: V2-Lite 0.89x, V3 0.84x, `tiny` 0.77x.
  In V3, head and embedding are whole on every chip (1.73 GiB each in bfloat16), and each of their
  two uses, by the main model and the prediction module, has a gradient of its own, which the plan
  counts. The compiler also holds each gradient a second time, transposed, and each weight in
  float32 while it is gathered (3.45 GiB). Next to these come buffers of rows that have arrived: in
  the backward pass of a layer 14 arrays of 0.88 GiB, not all at a time, of which the plan counts
  four.
  A TPU pads the last axis to 128 lanes, so that the width of `tiny`, 192, takes 256, and its state
  twice what its numbers do.
* A ragged all-to-all is given a buffer for the worst case, which the plan does not count: in V2-Lite
  nearly all of the difference in what is received.
* All-reduces that stand for gathers: in V2-Lite 46 of 57 GiB are the weights of attention, gathered
  64-way along the model width. The compiler lays these arrays out with the width innermost, where
  the parts of 64 devices do not follow each other in memory, and writes such a gather as a sum of
  slices padded with zeros, which moves twice the bytes. The experts' weights, split 8-way, are real
  all-gathers. An explicit gather along an outer axis would need the attention's weights stored in
  another order; that was not tried. 7 GiB are the sums of the gradients of embedding and head over
  all micro-batches.
* `tiny_nodes` has the axes `node` and `context`: 33 ragged all-to-alls, where one hop has 14, and no
  splash attention, which has no positions of queries. The plan's memory is 0.74x of the compiler's,
  for the same padding.
* With libtpu 0.0.50 (jax 0.12) no weight gradient of experts is dense; with 0.0.42 (jax 0.10.2)
  those of the grouped product still are.
* What is left to gain: the gate of a row travels as one float32, which the TPU pads to 128 lanes:
  540 GiB of the 6.2 TiB of V2-Lite's worst-case buffers.
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
TWICE = ONCE | {"batch": 1024, "micro_batch": 1024}
BOUND = {"capacity": 2.0}
SIXTEEN = {"batch": 16}  # two sequences a chip; with one, as the config has it, padding weighs more

RUNS = {
    "tiny": Run("tiny", "2x2x2", MeshConfig(data=1, fsdp=2, expert=2, tensor=2), SIXTEEN),
    "v2_lite": Run("v2_lite", "4x4x4", MeshConfig(data=1, fsdp=8, expert=8)),
    "tiny_nodes": Run("tiny", "2x2x2", MeshConfig(data=1, node=2, expert=2, context=2)),
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
