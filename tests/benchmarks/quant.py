"""What int8, int4 and fp8 weights cost in bits per byte of a trained run, and what they bring when
decoding a shape of `decode.py`.

    python train.py tiny --out runs/tiny
    # quality: held-out bits per byte and bytes of the weights
    python -m tests.benchmarks.quant --run runs/tiny [--documents 50]
    # speed: greedy tokens/s at batch 1 and 8, random weights, bytes resident
    python -m tests.benchmarks.quant --shape small [--turns 5]

Quality is measured as `seekjax eval` does, on whole rows of text, where the weights are written out
before each product; decoding on a CPU also rounds the activations of int8 products, whose share is
the second column: the mean of |log p| moved, in nats per token, over greedy texts of 64. Results:
tests/benchmarks/results/quant.md
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
from decode import SHAPES

from seekjax.commands.evaluate import evaluate_text
from seekjax.commands.quantize import write_quantised
from seekjax.commands.settings import Eval
from seekjax.config import KernelConfig, ModelConfig
from seekjax.generate.generator import Generator
from seekjax.generate.sampling import Sampling
from seekjax.model.abstract import abstract_variables, named_variables
from seekjax.model.transformer import Transformer, logits
from seekjax.open import on_mesh, open_model
from seekjax.quant.tree import quantise_tree, tree_bytes
from sharding.mesh import MeshConfig
from sharding.place import axes_of
from sharding.show import human
from tests.benchmarks.mini import heading

KINDS = ("float32", "int8", "int4", "fp8")
NEW = 64


def quality(run: Path, data: str, documents: int) -> None:
    """Bits per byte of each format."""
    print(
        "| weights | bytes | bits/byte | against float32 | decoding moves log p by "
        "|\n|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            at = run
            if kind != "float32":
                write_quantised(run, kind, at := Path(folder) / kind)
            bits = evaluate_text(
                Eval(at, data, documents=documents, progress=Path(folder) / f"{kind}.json")
            )[0].bits_per_byte
            if kind == "float32":
                whole = bits
            opened = open_model(at)
            size = human(tree_bytes(opened.variables))
            rows = Generator(opened.model, opened.variables, opened.kernel, draft=False)(
                [[opened.begin]] * 2, Sampling(max_new=NEW, temperature=1.0, seed=1)
            )
            text = np.array([[opened.begin, *row.ids] for row in rows])
            said = jax.nn.log_softmax(
                logits(Transformer(opened.model, opened.kernel).apply(opened.variables, text))
            )
            own = np.take_along_axis(np.asarray(said)[:, :-1], text[:, 1:, None], -1)[..., 0]
            moved = np.abs(own - np.array([row.log_probs for row in rows])).mean()
            print(
                f"| {kind} | {size} | {bits:.4f} | {100 * (bits / whole - 1):+.2f} % | "
                f"{moved:.4f} |",
                flush=True,
            )


def speed(shape: str, turns: int) -> None:
    """Tokens per second of each format, all in turn; the ratio is the median of those of each
    turn."""
    model, kernel, random = (
        ModelConfig(**SHAPES[shape], mtp_depth=0),
        KernelConfig(),
        np.random.default_rng(0),
    )
    axes, generators = axes_of(named_variables(model))["params"], {}
    for kind in KINDS:
        variables = jax.tree.map(
            lambda x: (
                jnp.asarray(0.02 * random.standard_normal(x.shape, np.float32))
                if len(x.shape) > 1
                else jnp.ones(x.shape)
            ),
            abstract_variables(model, kernel),
        )
        if kind != "float32":
            variables["params"] = quantise_tree(
                variables["params"], axes, KernelConfig(weights=kind), consume=True
            )
        generators[kind] = Generator(model, variables, kernel, consume=True)
    forms = {
        kind: str(
            jax.tree_util.tree_flatten_with_path(
                jax.tree.map(lambda x: (x.shape, x.dtype), g.variables)
            )
        )
        for kind, g in generators.items()
    }
    print(
        "| batch | weights | the program of | resident | tokens/s | against float32 "
        "|\n|---|---|---|---|---|---|"
    )
    for batch in (1, 8):
        prompts = random.integers(0, model.vocab, (batch, 32)).tolist()
        seconds = {kind: [] for kind in generators}
        for turn in range(-1, turns):  # the first compiles
            for kind in KINDS if turn % 2 else KINDS[::-1]:
                began = time.perf_counter()
                generators[kind](prompts, Sampling(max_new=NEW, temperature=0))
                seconds[kind] += [time.perf_counter() - began] if turn >= 0 else []
        for kind, g in generators.items():
            same = next(
                other for other in KINDS if forms[other] == forms[kind]
            )  # equal shapes and types: jit runs one program for both
            ratio = median(a / b for a, b in zip(seconds["float32"], seconds[kind]))
            print(
                f"| {batch} | {kind} | {same} | {human(tree_bytes(g.variables))} | "
                f"{batch * NEW / median(seconds[kind]):.1f} | {ratio:.2f}x |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path)
    parser.add_argument("--data", default="stdlib")
    parser.add_argument("--documents", type=int, default=50)
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--turns", type=int, default=5)
    asked = parser.parse_args()
    print(heading(), flush=True)
    with on_mesh(MeshConfig(data=1)):
        if asked.run:
            quality(asked.run, asked.data, asked.documents)
        if asked.shape:
            speed(asked.shape, asked.turns)


if __name__ == "__main__":
    main()
