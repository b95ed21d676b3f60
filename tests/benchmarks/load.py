"""Seconds and memory that loading a published checkpoint costs per GB: a random model of V2-Lite's
proportions, written by our own `save`.

    python -m tests.benchmarks.load [--folder DIR] [--layers 6] [--turns 3]

Each load is a process of its own. Cold: the files were put out of the page cache first
(posix_fadvise); warm: read just before. Beyond: the highest resident memory over what the process
held before and over the bytes of the weights. The copy column reads the same files by NumPy into
fresh memory, what the disk and the memory alone allow. Results: tests/benchmarks/results/load.md
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

MODEL = {
    "vocab": 32768,
    "embed": 1024,
    "heads": 8,
    "q_latent": 0,
    "kv_latent": 256,
    "nope": 64,
    "rotary": 32,
    "value": 64,
    "hidden": 5472,
    "expert_hidden": 704,
    "experts": 64,
    "shared_experts": 2,
    "experts_per_token": 6,
    "expert_groups": 1,
    "groups_per_token": 1,
    "dense_layers": 1,
    "scoring": "softmax",
    "group_score": "max",
    "renormalise": False,
    "mtp_depth": 0,
}


def write(folder: Path, layers: int) -> None:
    """The checkpoint, in bf16."""
    from decode import drawn

    from seekjax.config import ModelConfig
    from seekjax.hf.save import save

    model = ModelConfig(**MODEL, layers=layers)
    save(folder, model, drawn(model), "bf16")


def once(folder: Path, dtype: str) -> dict:
    """One load here."""
    import jax

    from seekjax.config import KernelConfig
    from seekjax.hf.load import load

    jax.block_until_ready(jax.jit(lambda x: x + 1)(0))  # the runtime itself does not count
    before, began, busy = peak(), time.perf_counter(), time.process_time()
    variables = jax.block_until_ready(load(folder, KernelConfig(dtype=dtype))[1])
    took, busy, held = (
        time.perf_counter() - began,
        time.process_time() - busy,
        sum(x.nbytes for x in jax.tree.leaves(variables)),
    )
    return {"seconds": took, "busy": busy, "held": held, "beyond": peak() - before - held}


def peak() -> int:
    """The highest resident memory of this program; the one that getrusage tells may be that of the
    process it was started from."""
    [line] = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    ]
    return 1024 * int(line.split()[1])


def copy(folder: Path) -> dict:
    """The same files into memory by NumPy."""
    import numpy as np

    began, busy = time.perf_counter(), time.process_time()
    parts = [np.fromfile(path, np.uint8) for path in sorted(folder.glob("*.safetensors"))]
    return {
        "seconds": time.perf_counter() - began,
        "busy": time.process_time() - busy,
        "held": sum(part.nbytes for part in parts),
        "beyond": 0,
    }


def forget(folder: Path) -> None:
    """Put the files out of the page cache."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, help="where the checkpoint is written (default: a temporary folder)"
    )
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--once", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.once:
        print(
            json.dumps(
                copy(asked.folder) if asked.once[0] == "copy" else once(asked.folder, asked.once[1])
            )
        )
        return
    from tests.benchmarks.mini import heading

    print(heading(), flush=True)
    with tempfile.TemporaryDirectory(dir=asked.folder) as top:
        folder = Path(top) / "checkpoint"
        began = time.perf_counter()
        write(folder, asked.layers)
        size, largest = (
            sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 1e9,
            2 * MODEL["vocab"] * MODEL["embed"] / 1e6,
        )
        print(
            f"{size:.2f} GB of bf16, the largest tensor {largest:.0f} MB; drawing and "
            f"writing took {time.perf_counter() - began:.0f} s\n"
        )
        kinds = [
            (what, dtype, cold)
            for what, dtype in (("copy", "-"), ("load", "bfloat16"), ("load", "float32"))
            for cold in (True, False)
        ]
        seen = {kind: [] for kind in kinds}
        for _ in range(asked.turns):
            for kind in kinds:
                what, dtype, cold = kind
                forget(folder) if cold else copy(folder)
                out = subprocess.run(
                    [
                        sys.executable,
                        "-m",
                        "tests.benchmarks.load",
                        "--folder",
                        folder,
                        "--once",
                        what,
                        dtype,
                    ],
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
                seen[kind].append(json.loads(out))
        print(
            "| | into | page cache | s per GB of files | CPU s per GB | GB held | MB of "
            "memory beyond that |\n|---|---|---|---|---|---|---|"
        )
        for (what, dtype, cold), runs in seen.items():
            wall, busy = (median(run[name] for run in runs) / size for name in ("seconds", "busy"))
            print(
                f"| {what} | {dtype if what == 'load' else 'bytes'} | "
                f"{'cold' if cold else 'warm'} | {wall:.2f} | {busy:.2f} | "
                f"{runs[0]['held'] / 1e9:.2f} | "
                f"{max(run['beyond'] for run in runs) / 1e6:.0f} |"
            )
        print(f"\nload {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
