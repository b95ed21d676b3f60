"""Rollouts per second: seekjax's sampler against transformers' `generate` on torch, same shape,
f32, 16 prompts x 8 samples, temperature 1.

    python -m tests.benchmarks.rollout [--peer PYTHON] [--turns 5] [--prompts 16] [--group 8] [--new 64]

The shape is that of configs/countdown.py, the small setting of `python train.py r1`, with random
weights; nobody stops before --new tokens. The peer may use num_return_sequences, its way to ask for
a group. "cores" is ours with a device for each core (JAX_NUM_CPU_DEVICES), as a user may train.
Sides are processes that take turns, as in decode.py. Results: tests/benchmarks/results/rollout.md
"""

import argparse
import json
import os
import sys
import time
from statistics import median

from tests.benchmarks.decode import NAMES
from tests.benchmarks.harness import Side, serve

PROMPT = 16  # tokens
PEERS = ("grouped_mm", "eager")  # transformers' ways to run experts


def shape() -> dict:
    from configs.countdown import config

    return {name: getattr(config.model, name) for name in {*NAMES.values()}} | {
        "expert_groups": 1,
        "groups_per_token": 1,
    }


def ours(options):
    """Seconds of a rollout."""
    from dataclasses import replace

    import jax
    import numpy as np

    from configs.countdown import config
    from seekjax.config import SamplingConfig
    from seekjax.placement import use_mesh
    from seekjax.post.rollout.sampler import Sampler
    from seekjax.train.state import RunSpec
    from sharding.mesh import MeshConfig

    class Endless:  # a tokenizer whose texts do not end
        eos, pad = -1, 0

    config = replace(
        config,
        data=replace(config.data, sequence=PROMPT + options.new),
        mesh=MeshConfig(),
        model=replace(config.model, **json.loads(options.shape)),
    )
    random = np.random.default_rng(0)
    with use_mesh(config.mesh):
        state = RunSpec(config).start()
        sampling = SamplingConfig(max_new=options.new)
        sequence = config.data.sequence
        sampler = Sampler(config.model, config.kernel, sampling, sequence, Endless)

    def run():
        prompts = [random.integers(0, config.model.vocab, PROMPT) for _ in range(options.prompts)]
        with use_mesh(config.mesh):
            began = time.perf_counter()
            texts = sampler(
                {"params": state.params, "balance": state.balance},
                prompts,
                options.group,
                jax.random.key(0),
            )
            assert (
                int(jax.block_until_ready(texts)["mask"].sum())
                == options.prompts * options.group * options.new
            )
            return time.perf_counter() - began

    return run, f"jax {jax.__version__}, {jax.device_count()} devices"


def peer(options):
    import torch
    import transformers
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    torch.manual_seed(0)
    sizes = json.loads(options.shape)
    config = DeepseekV3Config(
        **{theirs: sizes[name] for theirs, name in NAMES.items()},
        tie_word_embeddings=False,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=0,
    )
    model = DeepseekV3ForCausalLM._from_config(
        config, experts_implementation=options.experts
    ).eval()

    def run():
        tokens = torch.randint(0, config.vocab_size, (options.prompts, PROMPT))
        with torch.inference_mode():
            began = time.perf_counter()
            out = model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                min_new_tokens=options.new,
                max_new_tokens=options.new,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                use_cache=True,
                num_return_sequences=options.group,
            )
        assert out.shape == (options.prompts * options.group, PROMPT + options.new)
        return time.perf_counter() - began

    return (
        run,
        f"torch {torch.__version__}, transformers {transformers.__version__}, {options.experts}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer", default=sys.executable, help="the interpreter that has torch and transformers"
    )
    for name, value in (("turns", 5), ("prompts", 16), ("group", 8), ("new", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--serve", choices=["ours", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--experts", default="grouped_mm", help=argparse.SUPPRESS)
    parser.add_argument("--shape", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        run, versions = {"ours": ours, "peer": peer}[options.serve](options)
        return serve(lambda _line: run(), versions)

    shared = ["--shape", json.dumps(shape())]
    for field in ("prompts", "group", "new"):
        shared += [f"--{field}", str(getattr(options, field))]

    sides = []
    for name in ("ours", "cores", *PEERS):
        python, words = sys.executable, ["--serve", "ours"]
        if name in PEERS:
            python, words = options.peer, ["--serve", "peer", "--experts", name]
        cores = str(len(os.sched_getaffinity(0)))
        environment = {"JAX_NUM_CPU_DEVICES": cores} if name == "cores" else {}
        command = [python, "-m", "tests.benchmarks.rollout", *words, *shared]
        sides.append(Side(name, command, environment=environment))
        print(f"{name}: {sides[-1].answer()}", flush=True)

    seconds = {side.name: [] for side in sides}
    for side in sides:
        side.run()  # compiles, warms
    for _ in range(options.turns):
        for side in sides:
            seconds[side.name].append(side.run())
    tokens = options.prompts * options.group * options.new
    best = min(median(seconds[name]) for name in PEERS)
    print(
        f"\n{options.prompts} prompts x {options.group} samples x {options.new} "
        "tokens\n\n| | seconds | tokens/s | against the better peer |\n|---|---|---|---|"
    )
    for name, times in seconds.items():
        print(
            f"| {name} | {median(times):.2f} | {tokens / median(times):,.0f} | "
            f"{best / median(times):.2f}x |"
        )
    for side in sides:
        side.close()


if __name__ == "__main__":
    main()
