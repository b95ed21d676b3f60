"""Training tokens per second of `mini`: seekjax against transformers' DeepseekV3ForCausalLM on
torch, the same shape, AdamW and clipping in both.

    python -m tests.benchmarks.train_mini [--peer PYTHON] [--turns 7] [cores] [none] [product] [latent] [grouped_mm] [eager]

PYTHON is the interpreter that has torch and transformers (default: this one). none, product and
latent are our remat, and cores is product with one emulated device for each core, each with its
share of the batch; grouped_mm and eager are the peer's ways to run its experts. All without a name.
Each side is a process of its own that sleeps while another one runs a step; all take turns within
one run, so that a busy machine slows them alike. CPU seconds, summed over cores, suffer least from
it. Results: tests/benchmarks/results/train_mini.md
"""

import argparse
import os
import resource
import sys
import time
from statistics import median

from tests.benchmarks.harness import Side, serve

SHAPE = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "moe_intermediate_size": 256,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "n_shared_experts": 1,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "q_lora_rank": 128,
    "kv_lora_rank": 64,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
    "initializer_range": 0.006,
    "tie_word_embeddings": False,
    "use_cache": False,
}
BATCH, SEQUENCE = 16, 256
SIDES = {
    "cores": "ours",
    "none": "ours",
    "product": "ours",
    "latent": "ours",
    "grouped_mm": "peer",
    "eager": "peer",
}


def ours(remat: str):
    """A step of seekjax, its number of parameters, and versions."""
    cores = os.cpu_count() if remat == "cores" else 1
    os.environ["JAX_NUM_CPU_DEVICES"] = str(cores)
    import jax

    from sharding.mesh import MeshConfig
    from tests.benchmarks import mini

    step = mini.Step(
        mini.config(remat="product" if remat == "cores" else remat, mesh=MeshConfig(data=cores))
    )
    return (
        lambda: step()[0],
        sum(x.size for x in jax.tree.leaves(step.state.params)),
        mini.heading(),
    )


def peer(experts: str):
    """The same of transformers, with one of its ways to run the experts."""
    import torch
    import transformers
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    torch.manual_seed(0)
    model = DeepseekV3ForCausalLM._from_config(
        DeepseekV3Config(**SHAPE), experts_implementation=experts
    ).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )

    def step():
        tokens = torch.randint(0, SHAPE["vocab_size"], (BATCH, SEQUENCE + 1))
        began = time.perf_counter()
        logits = model(input_ids=tokens[:, :-1]).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        del logits
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - began

    return (
        step,
        sum(p.numel() for p in model.parameters()),
        f"torch {torch.__version__}, transformers {transformers.__version__}",
    )


def serve_steps(side: str, variant: str) -> None:
    """Run one step per line of input and answer with its seconds."""
    step, parameters, versions = {"ours": ours, "peer": peer}[side](variant)
    step()  # warm

    def run(_line: str) -> dict:
        began, seconds = time.process_time(), step()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"seconds": seconds, "cpu": time.process_time() - began, "peak_MiB": peak}

    serve(run, {"parameters": parameters, "versions": versions})


class Steps(Side):
    """A process that trains when it is given a turn, and what it took."""

    def __init__(self, python: str, side: str, variant: str):
        command = [python, "-m", "tests.benchmarks.train_mini", "--serve", side, variant]
        super().__init__(f"{side} {variant}", command)
        self.seconds, self.cpu, self.peak = [], [], 0.0

    def step(self) -> None:
        """Run one step."""
        figures = self.run()
        self.seconds.append(figures["seconds"])
        self.cpu.append(figures["cpu"])
        self.peak = figures["peak_MiB"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer", default=sys.executable, help="the interpreter that has torch and transformers"
    )
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("sides", nargs="*", metavar="SIDE", default=list(SIDES))
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve_steps(*options.serve)

    sides = []
    for variant in options.sides:
        side = SIDES[variant]
        sides.append(Steps(sys.executable if side == "ours" else options.peer, side, variant))
        ready = sides[
            -1
        ].answer()  # one after the other, so that nothing compiles while another one warms up
        print(
            f"{sides[-1].name}: {ready['parameters'] / 1e6:.2f}M parameters, {ready['versions']}",
            flush=True,
        )
    for _ in range(options.turns):
        for side in sides:
            side.step()
        print(
            "  ".join(
                f"{side.name} {side.seconds[-1]:.2f} s, {side.cpu[-1]:.2f} CPU s" for side in sides
            ),
            flush=True,
        )
    for side in sides:
        side.close()

    best = min(
        (median(side.seconds) for side in sides if side.name.startswith("peer")),
        default=float("nan"),
    )
    print(
        f"\nload {os.getloadavg()[0]:.1f}, {options.turns} turns\n\n"
        "| | s per step: median, least | tokens/s | against the best peer | CPU s per "
        "step | peak MiB |\n|---|---|---|---|---|---|"
    )
    for side in sides:
        seconds = median(side.seconds)
        print(
            f"| {side.name} | {seconds:.2f}, {min(side.seconds):.2f} | "
            f"{BATCH * SEQUENCE / seconds:.0f} | {best / seconds:.2f}x | "
            f"{median(side.cpu):.2f} | {side.peak:.0f} |"
        )


if __name__ == "__main__":
    main()
