"""What a token costs when decoding: with 8 to 128 routed experts, and with 128 to 4096 tokens in
the cache, against the bytes it reads.

    python -m tests.benchmarks.decode_cost [--turns 9]

The shape is `mini` of decode.py, f32, greedy, random weights and prompts; the number of choices per
token and the width of an expert stay. Bytes are counted: every matrix of the layers and the head
once per step, of the experts those that some token of the step chose (counted on random tokens, per
layer), one row of the embedding per token, and every slot of the latent cache once. Bandwidth is
measured in the same turns: the sum of an array of 1 GiB by NumPy on every core, and a product of a
vector with a matrix of 1 GiB by XLA. Results: tests/benchmarks/results/decode_cost.md
"""

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from decode import SHAPES, drawn

from seekjax.config import KernelConfig, ModelConfig
from seekjax.generate.decode import decode_steps, prefill
from seekjax.generate.generator import bucket
from seekjax.generate.sampling import Sampling, sampling_arrays
from seekjax.generate.state import Decoder, decoding_variables
from seekjax.quant.tree import tree_bytes
from seekjax.seeds import row_keys
from tests.benchmarks.mini import alternate, heading

STEPS, PROMPT = 32, 32
MODEL = ModelConfig(**SHAPES["mini"], mtp_depth=0, context=2**14, init_std=0.02)


class Ready:
    """A model with weights, and what a step of a batch reads of them."""

    def __init__(self, model: ModelConfig):
        self.decoder = Decoder(model, KernelConfig())
        self.variables = decoding_variables(self.decoder, drawn(model), consume=True)

    def used(self, batch: int) -> float:
        """Experts that a step reads per layer, over eight batches of random tokens."""
        run = jax.jit(
            lambda tokens_BT: [
                seen["load_E"]
                for seen in self.decoder.forward(
                    self.variables, tokens_BT, None, 0
                ).balance.values()
            ]
        )
        random = np.random.default_rng(1)
        loads = [run(random.integers(0, self.decoder.model.vocab, (batch, 1))) for _ in range(8)]
        return float(np.mean([np.count_nonzero(load_E) for load in loads for load_E in load]))

    def weight_bytes(self, batch: int) -> float:
        share = self.used(batch) / self.decoder.model.experts
        routed = sum(
            x.nbytes
            for path, x in jax.tree_util.tree_leaves_with_path(self.variables["params"])
            if x.ndim == 3 and x.shape[0] == self.decoder.model.experts and path[-2].key == "ffn"
        )
        embed = self.variables["params"]["embed"]
        return (
            tree_bytes(self.variables)
            - embed.nbytes
            + batch * embed[0].nbytes
            - (1 - share) * routed
        )


class Steps:
    """Each call decodes STEPS tokens more of every row."""

    def __init__(self, ready: Ready, batch: int, prompt: int, turns: int):
        model, sampling = ready.decoder.model, Sampling(temperature=0)
        self.ready, self.rest = ready, (sampling_arrays(sampling), np.full(8, -1, np.int32))
        end, self.slots = prompt + STEPS * (turns + 1) + 1, bucket(prompt + STEPS * (turns + 1) + 2)
        tokens_BT = (
            np.random.default_rng(2).integers(0, model.vocab, (batch, prompt)).astype(np.int32)
        )
        whole = np.full(batch, prompt, np.int32), np.full(batch, end, np.int32)
        self.state = prefill(
            ready.decoder,
            ready.variables,
            tokens_BT,
            *whole,
            row_keys(sampling.seed, batch),
            *self.rest,
            self.slots,
        )

    def __call__(self):
        self.state = decode_steps(
            self.ready.decoder, self.ready.variables, self.state, *self.rest, STEPS
        )
        return self.state.length_B

    def cache_bytes(self) -> int:
        return tree_bytes(self.state.cache)


def bandwidths() -> dict:
    """Functions that read 1 GiB."""
    big = np.ones(2**28, np.float32)
    parts, pool = np.split(big, os.cpu_count()), ThreadPoolExecutor(os.cpu_count())
    matrix, row, product = (
        jnp.ones((2**14, 2**14)),
        jnp.ones((1, 2**14)),
        jax.jit(lambda row, matrix: row @ matrix),
    )
    return {"numpy": lambda: list(pool.map(np.sum, parts)), "xla": lambda: product(row, matrix)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=9)
    turns = parser.parse_args().turns
    print(heading())
    reads = bandwidths()

    ready = {experts: Ready(replace(MODEL, experts=experts)) for experts in (8, 32, 128)}
    steps = {
        (batch, experts): Steps(ready[experts], batch, PROMPT, turns)
        for batch in (1, 8)
        for experts in ready
    }
    seconds = alternate(steps | reads, turns)
    best = 2**30 / min(seconds["numpy"], seconds["xla"])
    print(
        f"reading 1 GiB: NumPy {2**30 / seconds['numpy'] / 1e9:.1f} GB/s, XLA "
        f"{2**30 / seconds['xla'] / 1e9:.1f} GB/s\n"
    )
    print(
        "| batch | routed experts | parameters | tokens/s | cost of a token against 8 "
        "experts | experts read per layer | MB read per step | GB/s | of the bandwidth |"
        "\n|---|---|---|---|---|---|---|---|---|"
    )
    for (batch, experts), run in steps.items():
        took, size = (
            seconds[batch, experts] / STEPS,
            ready[experts].weight_bytes(batch) + run.cache_bytes(),
        )
        count = sum(x.size for x in jax.tree.leaves(ready[experts].variables["params"])) / 1e6
        print(
            f"| {batch} | {experts} | {count:.0f}M | {batch / took:.1f} | "
            f"{seconds[batch, experts] / seconds[batch, 8]:.2f}x | "
            f"{ready[experts].used(batch):.1f} | "
            f"{size / 1e6:.1f} | {size / took / 1e9:.1f} | {size / took / best:.0%} |",
            flush=True,
        )
    del steps, ready

    one = Ready(MODEL)
    steps = {
        (batch, prompt): Steps(one, batch, prompt, turns)
        for batch in (1, 8)
        for prompt in (128, 1024, 4096)
    }
    seconds = alternate(steps | reads, turns)
    best = 2**30 / min(seconds["numpy"], seconds["xla"])
    print(
        f"\nreading 1 GiB: NumPy {2**30 / seconds['numpy'] / 1e9:.1f} GB/s, XLA "
        f"{2**30 / seconds['xla'] / 1e9:.1f} GB/s\n"
    )
    print(
        "| batch | tokens in the cache | slots | ms per step | MB of weights | MB of "
        "cache | ms beyond the shortest | MB beyond it | GB/s of what is beyond |"
        "\n|---|---|---|---|---|---|---|---|---|"
    )
    for (batch, prompt), run in steps.items():
        more, bytes_more = (
            (seconds[batch, prompt] - seconds[batch, 128]) / STEPS,
            run.cache_bytes() - steps[batch, 128].cache_bytes(),
        )
        rate = f"{bytes_more / more / 1e9:.1f}" if bytes_more and more > 0 else "-"
        print(
            f"| {batch} | {prompt} | {run.slots} | "
            f"{1e3 * seconds[batch, prompt] / STEPS:.2f} | "
            f"{one.weight_bytes(batch) / 1e6:.1f} | {run.cache_bytes() / 1e6:.1f} | "
            f"{1e3 * more:.2f} | {bytes_more / 1e6:.1f} | {rate} |",
            flush=True,
        )
    print(f"\nload {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
