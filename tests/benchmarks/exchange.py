"""The exchange of two hops: copies of a token that cross between eight nodes, bytes of its buffers,
and what a training step costs with it next to the flat exchange.

    python -m tests.benchmarks.exchange [--turns 9]

Eight emulated devices; on them no link is slow, so that the step shows what the second hop costs
and not what it saves. Results: tests/benchmarks/results/exchange.md
"""

import argparse
import os
from dataclasses import replace

os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}

import jax.numpy as jnp
import numpy as np

from seekjax.model.routing import choose
from seekjax.plan.traffic import copies_between
from sharding.exchange.sorted_rows import exchange_sorted
from sharding.exchange.static import fixed_buffers
from sharding.exchange.two_hop import exchange_hops
from sharding.mesh import MeshConfig
from tests.benchmarks import mini
from tests.sharding.crossings import count

B, T, D = 8, 512, 64
V3 = replace(
    mini.MINI, experts=256, experts_per_token=8, expert_groups=8, groups_per_token=4, vocab=320
)
FREE = replace(V3, expert_groups=1, groups_per_token=1)


def copies() -> None:
    """Print the copies of a token that cross, counted and in theory, and the bytes of buffers."""
    random = np.random.default_rng(0)
    x = random.normal(size=(B, T, D)).astype(jnp.bfloat16)
    score = random.uniform(0.1, 1, (B, T, V3.experts)).astype(np.float32)
    theory = copies_between(V3, 8)
    rows = [
        ("flat, choices random", exchange_sorted, FREE, f"{theory['flat']:.2f}"),
        ("two hops, choices random", exchange_hops, FREE, f"{theory['de-duplicated']:.2f}"),
        ("two hops, V3's four of eight groups", exchange_hops, V3, "at most 3.50"),
    ]
    print("\n| exchange between 8 nodes | copies counted | theory | KiB of buffers per token |")
    print("|---|---|---|---|")
    for name, exchange, model, expected in rows:
        choice = np.asarray(choose(jnp.asarray(score), jnp.zeros(model.experts), model))
        found = count(exchange, MeshConfig(node=8), x, choice, fixed_buffers, experts=model.experts)
        size = found.buffers["bf16", D] * 7168 / D / 2**10
        print(f"| {name} | {found.rows:.2f} | {expected} | {size:,.0f} |")


def steps(turns: int) -> None:
    """Print the seconds of a training step of two layers with each exchange."""
    timed = {}
    for dispatch in ("static", "two_hop"):
        config = mini.config(batch=8, layers=2, mesh=MeshConfig(data=1, node=2, expert=4))
        kernel = replace(config.kernel, dispatch=dispatch)
        timed[dispatch] = mini.Step(replace(config, kernel=kernel))
    seconds = mini.alternate(timed, turns)

    print("\n| exchange on node 2 x expert 4 | s per step | against static | temporary MiB |")
    print("|---|---|---|---|")
    for dispatch, step in timed.items():
        room = step.compiled.memory_analysis().temp_size_in_bytes / 2**20
        ratio = seconds[dispatch] / seconds["static"]
        print(f"| {dispatch} | {seconds[dispatch]:.2f} | {ratio:.2f}x | {room:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=9)
    turns = parser.parse_args().turns
    print(mini.heading())
    copies()
    steps(turns)


if __name__ == "__main__":
    main()
