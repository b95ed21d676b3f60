"""What the prediction module brings as a draft for a trained run: acceptance, tokens per step and
tokens/s beside plain decoding, in turn in one process.

    python train.py tiny --out runs/tiny
    python -m tests.benchmarks.draft runs/tiny [--turns 7] [--batches 1 8]

Prompts are the first 32 ids of held-out documents, each turn others; 128 tokens after each, prefill
left out. "greedy" is temperature 0, "0.7" as the README's example has it, "1" plain sampling.
Results: tests/benchmarks/results/decode.md
"""

import argparse
from pathlib import Path
from statistics import median

from seekjax.config import DataConfig
from seekjax.data import load_corpus
from seekjax.generate.generator import Generator
from seekjax.generate.sampling import Sampling
from seekjax.open import need_tokenizer, on_mesh, open_model
from sharding.mesh import MeshConfig
from tests.benchmarks.mini import heading

PROMPT, NEW = 32, 128
WAYS = {
    "greedy": {"temperature": 0.0},
    "0.7": {"temperature": 0.7, "top_p": 0.95},
    "1": {"temperature": 1.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", default="stdlib")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    asked = parser.parse_args()
    print(heading(), flush=True)
    with on_mesh(MeshConfig(data=1)):
        opened = open_model(asked.run)
        tokenizer = need_tokenizer(opened)
        documents = load_corpus(DataConfig(sources=(asked.data,))).sources[0].held_out
        texts = [
            ids
            for ids in (
                tokenizer.encode(documents[i])[: PROMPT - 1].tolist() for i in range(len(documents))
            )
            if len(ids) == PROMPT - 1
        ]
        sides = {
            draft: Generator(opened.model, opened.variables, opened.kernel, draft=draft)
            for draft in (False, True)
        }
        print(
            "| batch | temperature | plain tokens/s | with draft | | accepted | tokens "
            "per step |\n|---|---|---|---|---|---|---|"
        )
        for batch in asked.batches:
            for way, dial in WAYS.items():
                rates, drafted = {draft: [] for draft in sides}, []
                for turn in range(-1, asked.turns):  # the first compiles
                    prompts = [
                        [opened.begin, *texts[(turn * batch + row) % len(texts)]]
                        for row in range(batch)
                    ]
                    for draft, generator in sides.items():
                        generation = generator.stream(
                            prompts, Sampling(max_new=NEW, seed=turn + 1, **dial), chunk=NEW
                        )
                        for _ in generation:
                            pass
                        if turn >= 0:
                            (begin, before), (end, tokens) = (
                                generation.timings[0],
                                generation.timings[-1],
                            )
                            rates[draft].append((tokens - before) / (end - begin))
                            drafted += [generation] if draft else []
                rounds, accepted, tokens = (
                    sum(values)
                    for values in zip(
                        *((w.row_steps, w.accepted, w.tokens - batch) for w in drafted)
                    )
                )
                ratio = median(b / a for a, b in zip(rates[False], rates[True]))
                print(
                    f"| {batch} | {way} | {median(rates[False]):.0f} | "
                    f"{median(rates[True]):.0f} | {ratio:.2f}x | {accepted / rounds:.0%} "
                    f"| {tokens / rounds:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
