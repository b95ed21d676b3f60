"""Tokens per second of `mini` and `small` when decoding: seekjax against transformers'
DeepseekV3ForCausalLM `generate` on torch, same shape, f32.

    python -m tests.benchmarks.decode [--peer PYTHON] [--shape mini] [--turns 5] [--cases 1x32 8x32 1x512] [--new 128]

A case is batch x prompt; each writes --new tokens greedily after random prompts (1: for the prefill
alone). Reported apart: the prefill (until the first token), and the rate of prompt and text
together. PYTHON is the interpreter that has torch and transformers (default: this one); the peer
runs its experts in each of its ways, and its best counts. Every side is a process of its own that
sleeps while another one runs, and all take turns, so that a busy machine slows them alike. `draft`
is ours with the prediction module, untrained: what a step with a guess costs, not what one gains.
Results: tests/benchmarks/results/decode.md
"""

import argparse
import os
import sys
import time
from statistics import median

from tests.benchmarks.harness import Side, serve

SMALL = {
    "vocab": 32768,
    "embed": 768,
    "layers": 12,
    "heads": 12,
    "q_latent": 384,
    "kv_latent": 256,
    "nope": 64,
    "rotary": 32,
    "value": 64,
    "hidden": 3072,
    "expert_hidden": 512,
    "experts": 32,
    "expert_groups": 1,
    "groups_per_token": 1,
}
NAMES = {
    "vocab_size": "vocab",
    "hidden_size": "embed",
    "intermediate_size": "hidden",
    "moe_intermediate_size": "expert_hidden",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "heads",
    "n_shared_experts": "shared_experts",
    "n_routed_experts": "experts",
    "num_experts_per_tok": "experts_per_token",
    "n_group": "expert_groups",
    "topk_group": "groups_per_token",
    "first_k_dense_replace": "dense_layers",
    "q_lora_rank": "q_latent",
    "kv_lora_rank": "kv_latent",
    "qk_nope_head_dim": "nope",
    "qk_rope_head_dim": "rotary",
    "v_head_dim": "value",
}
MINI = {
    "vocab": 8192,
    "embed": 256,
    "layers": 8,
    "dense_layers": 1,
    "heads": 8,
    "q_latent": 128,
    "kv_latent": 64,
    "nope": 32,
    "rotary": 16,
    "value": 32,
    "hidden": 1024,
    "expert_hidden": 256,
    "experts": 16,
    "shared_experts": 1,
    "experts_per_token": 4,
    "expert_groups": 4,
    "groups_per_token": 2,
}
SHAPES = {"mini": MINI, "small": MINI | SMALL}
SIDES = {"plain": "ours", "draft": "ours", "grouped_mm": "peer", "eager": "peer"}


def drawn(model):
    """Weights as a run begins with them: matrices normal, norms 1, the routing bias 0, so that
    tokens spread over the experts as the peer's do."""
    import jax

    from seekjax.config import KernelConfig
    from seekjax.model.abstract import abstract_variables, named_variables
    from seekjax.model.init import init_params
    from sharding.place import axes_of

    named, shapes = named_variables(model), abstract_variables(model, KernelConfig())
    return {
        "params": init_params(model, shapes["params"], axes_of(named)["params"], 0),
        "balance": jax.tree.map(lambda x: jax.numpy.zeros(x.shape), shapes["balance"]),
    }


def ours(variant: str, shape: str, new: int):
    """(batch, prompt) -> seconds of the prefill and of everything; and versions."""
    import numpy as np

    from seekjax.config import KernelConfig, ModelConfig
    from seekjax.generate.generator import Generator
    from seekjax.generate.sampling import Sampling
    from tests.benchmarks.mini import heading

    model, random = (
        ModelConfig(**SHAPES[shape], mtp_depth=int(variant == "draft"), init_std=0.02),
        np.random.default_rng(0),
    )  # std as the peer's
    generator = Generator(
        model, drawn(model), KernelConfig(), draft=variant == "draft", consume=True
    )

    def run(batch: int, prompt: int):
        prompts = random.integers(0, model.vocab, (batch, prompt)).tolist()
        generation = generator.stream(prompts, Sampling(max_new=new, temperature=0), chunk=new)
        for _ in generation:
            pass
        return generation.timings[0][0], generation.timings[-1][0]

    return run, heading()


def peer(experts: str, shape: str, new: int):
    """The same of transformers, with one of its ways to run the experts."""
    import torch
    import transformers
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    torch.manual_seed(0)
    config = DeepseekV3Config(
        **{theirs: SHAPES[shape][name] for theirs, name in NAMES.items()},
        tie_word_embeddings=False,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
    )
    model = DeepseekV3ForCausalLM._from_config(config, experts_implementation=experts).eval()

    def generate(tokens, new: int):
        began = time.perf_counter()
        out = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            min_new_tokens=new,
            max_new_tokens=new,
            do_sample=False,
            use_cache=True,
        )
        assert out.shape[1] == tokens.shape[1] + new
        return time.perf_counter() - began

    def run(batch: int, prompt: int):
        tokens = torch.randint(0, config.vocab_size, (batch, prompt))
        with torch.inference_mode():
            first = generate(tokens, 1)
            return first, generate(tokens, new) if new > 1 else first

    return run, f"torch {torch.__version__}, transformers {transformers.__version__}"


def serve_cases(variant: str, shape: str, new: int) -> None:
    """Run a case per line of input and answer with its seconds."""
    run, versions = {"ours": ours, "peer": peer}[SIDES[variant]](variant, shape, new)
    serve(lambda case: run(*map(int, case.split("x"))), versions)


def side_of(python: str, variant: str, shape: str, new: int) -> Side:
    """Return a process that writes when it is given a case."""
    options = ["--shape", shape, "--new", str(new), "--serve", variant]
    command = [python, "-m", "tests.benchmarks.decode", *options]
    return Side(f"{SIDES[variant]} {variant}", command)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer", default=sys.executable, help="the interpreter that has torch and transformers"
    )
    parser.add_argument("--shape", choices=SHAPES, default="mini")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument(
        "--cases", nargs="+", default=["1x32", "8x32", "1x512"], metavar="BATCHxPROMPT"
    )
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--new", type=int, default=128, help="tokens to write")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve_cases(options.serve, options.shape, options.new)

    sides = [
        side_of(
            sys.executable if SIDES[variant] == "ours" else options.peer,
            variant,
            options.shape,
            options.new,
        )
        for variant in options.sides
    ]
    for side in sides:
        print(f"{side.name}: {side.answer()}", flush=True)
    print(
        f"{options.shape}, {options.new} new tokens, {options.turns} turns\n\n| batch x "
        "prompt | | prefill ms | tokens/s | against the best peer: prefill, tokens/s |"
        "\n|---|---|---|---|---|"
    )
    for case in options.cases:
        batch = int(case.split("x")[0])
        seen = {side.name: [] for side in sides}
        for side in sides:
            side.run(case)  # compiles, warms
        for _ in range(options.turns):
            for side in sides:
                seen[side.name].append(side.run(case))
        first, whole = (
            {name: median(times[i] for times in runs) for name, runs in seen.items()}
            for i in (0, 1)
        )
        best = [
            min((times[name] for name in times if name.startswith("peer")), default=float("nan"))
            for times in (first, whole)
        ]
        for name in seen:
            print(
                f"| {case} | {name} | {1e3 * first[name]:.1f} | "
                f"{batch * options.new / whole[name]:.1f} | {best[0] / first[name]:.2f}x, "
                ""
                f"{best[1] / whole[name]:.2f}x |",
                flush=True,
            )
    print(f"\nload {os.getloadavg()[0]:.1f}")
    for side in sides:
        side.close()


if __name__ == "__main__":
    main()
