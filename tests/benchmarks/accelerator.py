"""What seekjax does on an accelerator, in one command of under eight minutes, without network.

    python -m tests.benchmarks.accelerator --chip h100            # one GPU or TPU
    JAX_PLATFORMS=cpu python -m tests.benchmarks.accelerator --chip cpu --smallest   # try it all here

It trains `small` and a mixture with a billion active parameters in bfloat16 (and FP8 if --fp8), with
the learned router and with a forced balance; times each form of attention and of grouped product in
the same step; decodes a V2-Lite shape. Written next to each: model FLOPs utilisation of the chip's
published peak, and the plan's memory and time.

Each part is a process of its own, so that its memory is free again and its peak its own. A part that
fails says why, and the next one starts; none starts after --minutes. Results:
tests/benchmarks/results/accelerator.md (--smallest: only on the screen).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).with_name("results") / "accelerator.md"
COLUMNS = (
    "part",
    "tokens/s",
    "ms",
    "MFU",
    "peak memory",
    "plan's memory",
    "compiled in",
    "note",
)
STEPS = 10
ROWS = {"small": 16, "billion": 4}  # sequences of a step
BILLION = {
    "vocab": 32768,
    "embed": 2048,
    "layers": 12,
    "dense_layers": 1,
    "heads": 16,
    "q_latent": 0,
    "kv_latent": 512,
    "nope": 128,
    "rotary": 64,
    "value": 128,
    "hidden": 8192,
    "expert_hidden": 1408,
    "experts": 24,
    "shared_experts": 2,
    "experts_per_token": 6,
    "expert_groups": 1,
    "groups_per_token": 1,
    "mtp_depth": 0,
}
# What --smallest makes of every model: all parts run, and the figures say nothing
SMALLEST = {
    "vocab": 512,
    "embed": 64,
    "layers": 2,
    "heads": 2,
    "q_latent": 0,
    "kv_latent": 32,
    "nope": 16,
    "rotary": 8,
    "value": 16,
    "hidden": 64,
    "expert_hidden": 32,
}


def even(logit_BTE):
    """Score experts in turn by position, whatever the router says: each gets the same load."""
    import jax.numpy as jnp

    T, E = logit_BTE.shape[1:]
    rank_TE = (jnp.arange(E) - 7 * jnp.arange(T)[:, None]) % E
    return jnp.broadcast_to(1 / (1.0 + rank_TE), logit_BTE.shape) + 0 * logit_BTE


def model_of(name: str, smallest: bool):
    """The model of a part."""
    from configs.small import config as small
    from configs.v2_lite import config as v2_lite
    from seekjax.config import ModelConfig

    models = {"small": small.model, "billion": ModelConfig(**BILLION), "v2_lite": v2_lite.model}
    return replace(models[name], **SMALLEST) if smallest else models[name]


def config_of(part: dict[str, Any], smallest: bool):
    """The training run of a part."""
    from configs.small import config as small

    model = model_of(part["model"], smallest)
    if part.get("router") == "even":
        model = replace(model, scoring="tests.benchmarks.accelerator:even")
    rows = 1 if smallest else ROWS[part["model"]]
    sequence = 128 if smallest else 2048
    kernel = replace(small.kernel, remat="latent", **part.get("kernel", {}))
    return replace(
        small,
        model=model,
        kernel=kernel,
        data=replace(small.data, sequence=sequence),
        train=replace(small.train, batch=rows, micro_batch=0),
    )


def train(part: dict[str, Any], chip: str, smallest: bool) -> dict[str, str]:
    """Time the train step of a part on random tokens."""
    from seekjax.plan.chips import CHIPS
    from seekjax.plan.counts import published_flops
    from seekjax.plan.layout import lay_out
    from seekjax.plan.memory import memory
    from sharding.show import human
    from tests.benchmarks.mini import Step

    config = config_of(part, smallest)
    step = Step(config)
    step(2)  # warm
    seconds = median(step(2 if smallest else STEPS))

    per_second = step.tokens / seconds
    peak = CHIPS[chip].peak(config.kernel.dtype)
    used = published_flops(config.model, config.data.sequence) * per_second / peak
    planned = memory(lay_out(config, config.mesh.sizes(1)))
    return {
        "tokens/s": f"{per_second:,.0f}",
        "ms": f"{1000 * seconds:.1f}",
        "MFU": f"{used:.1%}",
        "peak memory": peak_memory(),
        "plan's memory": human(planned.total),
        "compiled in": f"{step.lowering + step.compiling:.0f} s",
    }


def decode(part: dict[str, Any], chip: str, smallest: bool) -> dict[str, str]:
    """Time decoding with random weights in bfloat16; prompts of 128 tokens."""
    import jax
    import numpy as np

    from seekjax.config import KernelConfig
    from seekjax.generate.generator import Generator
    from seekjax.generate.sampling import Sampling
    from seekjax.plan.chips import CHIPS
    from seekjax.plan.inference import Serving
    from tests.benchmarks.decode import drawn

    model = model_of(part["model"], smallest)
    batch, prompt, new = part["batch"], 16 if smallest else 128, 8 if smallest else 64
    variables = drawn(model)
    variables["params"] = jax.tree.map(narrowed, variables["params"])
    kernel = KernelConfig(dtype="bfloat16")
    generator = Generator(model, variables, kernel, consume=True)

    prompts = np.random.default_rng(0).integers(0, model.vocab, (batch, prompt)).tolist()

    def run(count: int) -> float:
        began = time.perf_counter()
        for _ in generator.stream(prompts, Sampling(max_new=count, temperature=0), chunk=count):
            pass
        return time.perf_counter() - began

    # The prefill alone, and the prefill with text: their difference is the text's
    began = time.perf_counter()
    run(1), run(new)
    compiling = time.perf_counter() - began
    pairs = [run(new) - run(1) for _ in range(3)]
    seconds = median(pairs) / (new - 1)

    context = prompt + new
    planned = Serving(model, CHIPS[chip], 1, "bfloat16", "bfloat16", context, batch).seconds()
    return {
        "tokens/s": f"{batch / seconds:,.0f}",
        "ms": f"{1000 * seconds:.2f}",
        "peak memory": peak_memory(),
        "compiled in": f"{compiling:.0f} s",
        "note": f"memory bound of the plan: {1000 * planned:.2f} ms",
    }


def narrowed(x):
    """An array in bfloat16; its float32 form is freed, for both do not fit at once."""
    narrow = x.astype("bfloat16").block_until_ready()
    x.delete()
    return narrow


def peak_memory() -> str:
    """The most that the device has held, if its allocator counts."""
    import jax

    from sharding.show import human

    statistics = jax.local_devices()[0].memory_stats() or {}
    return human(statistics["peak_bytes_in_use"]) if statistics else "not counted"


def parts(fp8: bool) -> dict[str, dict[str, Any]]:
    """What is measured, in this order, by name."""
    found: dict[str, dict[str, Any]] = {}
    dtypes = ["bfloat16", "fp8"] if fp8 else ["bfloat16"]
    for dtype in dtypes:
        for router in ("learned", "even"):
            name = f"train small, {dtype}, {router}"
            found[name] = {"model": "small", "router": router, "kernel": {"dtype": dtype}}
    for batch in (1, 32, 256):
        found[f"decode v2_lite, batch {batch}"] = {"model": "v2_lite", "batch": batch}
    for dtype in dtypes:
        for router in ("learned", "even"):
            name = f"train billion, {dtype}, {router}"
            found[name] = {"model": "billion", "router": router, "kernel": {"dtype": dtype}}

    # Which form wins: the step of `small` with each instead of the one that auto chooses
    for field, forms in {"attention": ("plain", "dot"), "experts": ("block", "ragged")}.items():
        for form in forms:
            kernel = {"dtype": "bfloat16", field: form}
            found[f"train small, {field} {form}"] = {"model": "small", "kernel": kernel}
    return found


def run_part(name: str, options: argparse.Namespace) -> None:
    """Run one part in this process, and print its figures as JSON."""
    part = parts(options.fp8)[name]
    measure: Callable = decode if "batch" in part else train
    print(json.dumps(measure(part, options.chip, options.smallest)), flush=True)


def child(name: str, options: argparse.Namespace, limit: float) -> dict[str, str]:
    """Run one part in a process of its own; its figures, or why there are none."""
    command = [sys.executable, "-m", "tests.benchmarks.accelerator", "--part", name]
    command += ["--chip", options.chip]
    command += ["--smallest"] * options.smallest + ["--fp8"] * options.fp8
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"note": f"stopped after {limit:.0f} s"}
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or ["no message"]
        return {"note": f"failed: {lines[-1][:200]}"}
    return json.loads(ended.stdout.strip().splitlines()[-1])


def main() -> None:
    from seekjax.plan.chips import CHIPS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chip", choices=CHIPS, required=True, help="whose peak counts")
    parser.add_argument("--fp8", action="store_true", help="train in FP8 too")
    parser.add_argument("--minutes", type=float, default=8.0, help="no part starts after these")
    parser.add_argument("--smallest", action="store_true", help="tiny models: only try the parts")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        return run_part(options.part, options)

    # Programs that two parts share are compiled once
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "/tmp/seekjax-accelerator")
    began, lines = time.monotonic(), [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    print("\n".join(lines), flush=True)
    for name in parts(options.fp8):
        left = 60 * options.minutes - (time.monotonic() - began)
        figures = child(name, options, left) if left > 0 else {"note": "no time left"}
        cells = [figures.get(column, "") for column in COLUMNS[1:]]
        lines.append(f"| {' | '.join([name, *cells])} |")
        print(lines[-1], flush=True)

    if not options.smallest:
        RESULTS.write_text(heading(options) + "\n".join(lines) + "\n")


def heading(options: argparse.Namespace) -> str:
    """What was run on what."""
    code = "import jax; print(jax.__version__, jax.devices()[0].device_kind)"
    versions = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    command = f"python -m tests.benchmarks.accelerator --chip {options.chip}"
    command += " --fp8" if options.fp8 else ""
    return (
        f"# On an accelerator\n\n`{command}`, {time.strftime('%Y-%m-%d')}, jax {versions.strip()}. "
        f"Median of {STEPS} steps on random tokens; MFU of the published {options.chip} peak, by "
        "the paper's count of FLOPs (causal, nothing for recomputation). `even` forces a balanced "
        "load, `learned` is a router as initialised.\n\n"
    )


if __name__ == "__main__":
    main()
