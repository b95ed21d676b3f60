"""What training in FP8 costs in loss: the same runs in float32, bfloat16 and FP8.

    python -m tests.benchmarks.fp8_training train --out FOLDER [--steps N]
    python -m tests.benchmarks.fp8_training table --out FOLDER
    python -m tests.benchmarks.fp8_training bytes
    python -m tests.benchmarks.fp8_training cost

`train` runs `tiny`, cut to two layers without a prediction module and to 8 sequences of 128 tokens
a step, at a learning rate of 3e-3, on the standard library and on stories of known entropy; --whole
runs all of it. For each seed all forms see the same weights and the same data in the same order.
A run that FOLDER has already is not repeated. `table` prints the losses and draws the curves,
`bytes` counts what a step keeps for its backward pass, and `cost` times a linear layer. Results:
tests/benchmarks/results/fp8_training.md
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from statistics import mean

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from configs.tiny import config as TINY
from seekjax.config import Config, DataConfig, Fp8Config, KernelConfig, OptimizerConfig
from seekjax.kernels.fp8 import linear
from seekjax.model.abstract import named_variables
from seekjax.model.transformer import Transformer
from seekjax.placement import use_mesh
from seekjax.quant.tree import tree_bytes
from seekjax.train.pretrain import Pretraining
from seekjax.train.state import RunSpec
from sharding.mesh import MeshConfig
from sharding.place import unbox
from tests.benchmarks import mini

FORMS = {
    "float32": KernelConfig(remat="product"),
    "bfloat16": KernelConfig(remat="product", dtype="bfloat16"),
    "fp8": KernelConfig(remat="product", dtype="fp8"),
    "fp8, blocks": KernelConfig(remat="product", dtype="fp8", fp8=Fp8Config(gradients="block")),
}
SOURCES, SEEDS = ("stdlib", "stories"), (0, 1, 2)
LAST = 20  # steps whose training losses are averaged


def config(source: str, form: str, steps: int, whole: bool) -> Config:
    tiny = replace(
        TINY,
        data=DataConfig(sources=(source,)),
        mesh=MeshConfig(data=1),
        kernel=FORMS[form],
        optimizer=OptimizerConfig(),
    )
    if whole:
        return replace(tiny, train=replace(tiny.train, steps=steps))
    return replace(
        tiny,
        model=replace(tiny.model, layers=2, mtp_depth=0),
        data=replace(tiny.data, sequence=128),
        train=replace(tiny.train, steps=steps, batch=8, eval_batches=8),
    )


def train(out: Path, steps: int, whole: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    programs: dict = {}
    for source in SOURCES:
        for seed in SEEDS:
            for form in FORMS:
                file = out / f"{source} {form} {seed}.json"
                if not file.exists():
                    settings = config(source, form, steps, whole)
                    result = run(settings, seed, programs.setdefault(form, {}))
                    file.write_text(json.dumps(result))
                    print(file.stem, result["held_out"], flush=True)


def run(config: Config, seed: int, program: dict) -> dict:
    """The losses of one run. Its program serves all seeds and sources of a form."""
    training = Pretraining(replace(config, train=replace(config.train, seed=seed)))
    with use_mesh(config.mesh):
        parts = training.build(Path())
        step = program.setdefault("step", parts.step)
        program.setdefault("measure", parts.evaluate.measure)
        parts.evaluate.measure = program["measure"]
        step.placed = parts.evaluate.measure.placed = None
        step.bytes_V = parts.evaluate.measure.bytes_V = training.tokenizer.bytes_V

        state, losses = RunSpec(training.config).start(), []
        for number in range(config.train.steps):
            state, metrics = step(state, parts.source.batch(number, state))
            losses.append(float(metrics["loss"]))
        figures, _ = parts.evaluate(state)
    return {
        "losses": losses,
        "held_out": figures["loss"],
        "entropy": parts.evaluate.entropy.get("stories"),
    }


def table(out: Path) -> None:
    results = {file.stem: json.loads(file.read_text()) for file in sorted(out.glob("*.json"))}
    print("held-out loss, and its change against bfloat16:\n")
    print("| source | seed | float32 | bfloat16 | FP8 | FP8, blocks of gradients |")
    print("|---|---|---|---|---|---|")
    for source in SOURCES:
        for seed in SEEDS:
            row = {form: results.get(f"{source} {form} {seed}") for form in FORMS}
            base = row["bfloat16"]
            if base is None:
                continue
            cells = []
            for result in row.values():
                change = result and result["held_out"] / base["held_out"] - 1
                cells.append(f"{result['held_out']:.4f} ({change:+.2%})" if result else "")
            print(f"| {source} | {seed} | {' | '.join(cells)} |")

    print("\nmean change of the last training losses against bfloat16 and float32:\n")
    for source in SOURCES:
        for form in ("fp8", "fp8, blocks"):
            for other in ("bfloat16", "float32"):
                changes = []
                for seed in SEEDS:
                    pair = [results.get(f"{source} {name} {seed}") for name in (form, other)]
                    if all(pair):
                        ours, theirs = (mean(each["losses"][-LAST:]) for each in pair)
                        changes.append(ours / theirs - 1)
                if changes:
                    each = ", ".join(f"{change:+.2%}" for change in changes)
                    print(f"* {source}, {form} against {other}: {mean(changes):+.2%} ({each})")
    draw(results, out / "fp8_training.png")


def draw(results: dict, file: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(SOURCES), figsize=(10, 6), sharex=True, squeeze=False)
    for column, source in enumerate(SOURCES):
        for form in FORMS:
            runs = [results.get(f"{source} {form} {seed}") for seed in SEEDS]
            bases = [results.get(f"{source} bfloat16 {seed}") for seed in SEEDS]
            pairs = [(a["losses"], b["losses"]) for a, b in zip(runs, bases) if a and b]
            if not pairs:
                continue
            losses, base = np.mean(pairs, 0)  # over the seeds that have both
            axes[0][column].plot(losses, label=form, linewidth=1)
            axes[1][column].plot(100 * (losses / base - 1), label=form, linewidth=1)
        axes[0][column].set_title(source)
        axes[1][column].set_xlabel("step")
    axes[0][0].set_ylabel("loss, nats per token")
    axes[1][0].set_ylabel("change against bfloat16, %")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def kept_bytes() -> None:
    """What jax.vjp of `tiny` holds for 8 sequences of 128 tokens, by remat policy and form."""
    tokens = jnp.zeros((8, 128), jnp.int32)
    print("| remat | float32 | bfloat16 | FP8 |\n|---|---|---|---|")
    for remat in ("none", "product"):
        cells = []
        for form in ("float32", "bfloat16", "fp8"):
            model = Transformer(TINY.model, replace(FORMS[form], remat=remat))
            variables = unbox(named_variables(TINY.model))

            def residuals(variables, model=model):
                def hidden(params):
                    output = model.apply({**variables, "params": params}, tokens)
                    return output.hidden_BTD.astype(jnp.float32).sum()

                return jax.vjp(hidden, variables["params"])[1]

            kept = tree_bytes(jax.eval_shape(residuals, variables))
            cells.append(f"{kept / 2**20:.1f} MiB")
        print(f"| {remat} | {' | '.join(cells)} |")


def cost() -> None:
    """Forward and backward of a linear layer of real widths in FP8, relative to float32."""
    print(mini.heading())
    for T, K, N in ((1024, 1024, 2048), (1024, 2048, 1408)):
        keys = jax.random.split(jax.random.key(0), 3)
        shapes = (1, T, K), (K, N), (1, T, N)
        x, w, dy = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes))

        def plain(x, w, dy):
            def product(x, w):
                return jnp.matmul(x, w, precision=lax.Precision.HIGHEST)

            y, pull = jax.vjp(product, x, w)
            return y, pull(dy)

        def in_fp8(x, w, dy, form):
            y, pull = jax.vjp(lambda x, w: linear(x, (w,), Fp8Config(product=form))[0], x, w)
            return y, pull(dy)

        functions = {
            "float32": jax.jit(plain),
            "scaled": jax.jit(lambda x, w, dy: in_fp8(x, w, dy, "scaled")),
            "parts": jax.jit(lambda x, w, dy: in_fp8(x, w, dy, "parts")),
        }
        runs = {name: (lambda f=f: f(x, w, dy)) for name, f in functions.items()}
        seconds = mini.alternate(runs)
        print(f"{T} tokens, {K} to {N}: float32 {seconds['float32'] * 1e3:.0f} ms")
        for name in ("scaled", "parts"):
            print(f"    {name}: {seconds[name] / seconds['float32']:.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["train", "table", "bytes", "cost"])
    parser.add_argument("--out", type=Path, default=Path("runs/fp8_training"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--whole", action="store_true")
    options = parser.parse_args()
    if options.what == "train":
        train(options.out, options.steps, options.whole)
    elif options.what == "table":
        table(options.out)
    else:
        {"bytes": kept_bytes, "cost": cost}[options.what]()


if __name__ == "__main__":
    main()
