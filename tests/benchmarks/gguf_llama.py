"""Our GGUF file in llama.cpp: greedy tokens in f32 are ours, and it decodes at the speed of llama.cpp's own conversion of the same checkpoint.

llama-cpp-python has no wheel on the package index and takes some 20 minutes to build on two cores, so this is no test. Once:

    pip install -e '.[gguf]' llama-cpp-python==0.3.36
    python tests/benchmarks/gguf_llama.py RUN_OR_CHECKPOINT                        # agreement, tokens/s of every type
    python tests/benchmarks/gguf_llama.py CHECKPOINT --theirs THEIR_F32.gguf       # beside the file of their convert_hf_to_gguf.py

Tokens are compared up to the first one on which our two best logits are nearer to each other than 1e-3: there either answer is right.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from seekjax.generate.open import open_model
from seekjax.generate.sampling import Sampling
from seekjax.generate.stream import Generator
from seekjax.hf.convert import to_gguf
from seekjax.model.transformer import Transformer, logits
from sharding.mesh import MeshConfig

PROMPTS, LENGTH, NEW = 4, 16, 64


def ours(folder: Path) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """Prompts of random ids, what we write after them, and how many tokens of that are beyond doubt."""
    opened = open_model(folder)
    random = np.random.default_rng(0)
    size = opened.tokenizer.size if opened.tokenizer else opened.model.vocab
    prompts = [[opened.begin or 0, *random.integers(0, size, LENGTH - 1).tolist()] for _ in range(PROMPTS)]
    rows = Generator(opened.model, opened.variables, opened.kernel, draft=False)(prompts, Sampling(max_new=NEW, temperature=0))
    certain = []
    for prompt, row in zip(prompts, rows):
        scores = np.asarray(logits(Transformer(opened.model, opened.kernel).apply(opened.variables, np.array([prompt + row.ids]))))[0]
        best = np.sort(scores[len(prompt) - 1:-1], -1)
        close = np.nonzero(best[:, -1] - best[:, -2] < 1e-3)[0]
        certain.append(int(close[0]) if len(close) else len(row.ids))
    return prompts, [row.ids for row in rows], certain


def theirs(path: Path, prompts: list[list[int]]) -> tuple[list[list[int]], float]:
    """What llama.cpp writes, and its tokens/s."""
    from llama_cpp import Llama
    llama = Llama(str(path), n_ctx=256, n_threads=2, verbose=False)
    written, seconds = [], 0.0
    for prompt in prompts:
        llama.reset()
        llama.eval(prompt)
        ids, began = [], time.perf_counter()
        while len(ids) < NEW:
            ids.append(int(llama.sample(temp=0.0, top_k=1, repeat_penalty=1.0)))
            llama.eval(ids[-1:])
        seconds += time.perf_counter() - began
        written.append(ids)
    return written, PROMPTS * NEW / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--theirs", type=Path, help="llama.cpp's own conversion of the same checkpoint")
    asked = parser.parse_args()
    prompts, written, certain = ours(asked.model)
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("f32", "f16", "q8_0", "q4_0"):
            path = Path(folder) / f"{kind}.gguf"
            to_gguf(asked.model, path, kind, MeshConfig(data=1))
            found, rate = theirs(path, prompts)
            same = sum(a[:n] == b[:n] for a, b, n in zip(found, written, certain))
            print(f"{kind}: {path.stat().st_size / 1e6:,.1f} MB, {rate:.1f} tokens/s, {same} of {PROMPTS} texts as ours ({certain} tokens beyond doubt)")
            if kind == "f32":
                assert same == PROMPTS, (found, written)
    if asked.theirs:
        print(f"their own f32: {theirs(asked.theirs, prompts)[1]:.1f} tokens/s")


if __name__ == "__main__":
    main()
