"""Load a checkpoint of sparse files in a process of its own and print the high-water marks: python
load_memory.py FOLDER [LAYERS [WEIGHTS]]."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from seekjax.config import KernelConfig, ModelConfig
from seekjax.hf.config_writer import write_config
from seekjax.hf.files import INDEX
from seekjax.hf.load import load
from seekjax.hf.names import tensors
from seekjax.hf.save import stored_as
from seekjax.hf.tensor_file import DTYPES, NAMES

MODEL = ModelConfig(
    vocab=8192,
    embed=1024,
    layers=5,
    heads=8,
    q_latent=256,
    kv_latent=128,
    nope=64,
    rotary=32,
    value=64,
    hidden=4096,
    expert_hidden=704,
    experts=32,
    experts_per_token=4,
    mtp_depth=0,
)


def sparse(folder, model):
    """The files of a model in bf16 with ones in its norms and nothing else: every other byte is a
    zero that takes no room on the disk. Returns bytes in all, and of the largest tensor."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(write_config(model, "bfloat16")))
    placed, total, largest = {}, 0, 0
    stored = [one for tensor in tensors(model) for one in stored_as(tensor, "bf16")]
    for number in range(4):
        header, at = {}, 0
        for name, dtype, shape in stored[number::4]:
            size = dtype.itemsize
            for n in shape:
                size *= n
            header[name] = {"dtype": NAMES[dtype], "shape": shape, "data_offsets": [at, at + size]}
            placed[name] = f"model-{number}.safetensors"
            at, largest = at + size, max(largest, size)
        text = json.dumps(header).encode()
        with open(folder / f"model-{number}.safetensors", "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + at)
            for entry in header.values():
                if len(entry["shape"]) == 1:
                    file.seek(8 + len(text) + entry["data_offsets"][0])
                    dtype = DTYPES[entry["dtype"]]
                    file.write(np.ones(entry["shape"], dtype).tobytes())
        total += at
    (folder / INDEX).write_text(json.dumps({"weight_map": placed}))
    return total, largest


def peak():
    """Of this program alone: what getrusage tells may be that of the process it was started
    from."""
    [line] = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    ]
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    weights = sys.argv[3] if len(sys.argv) > 3 else "float32"
    folder, kernel = Path(sys.argv[1]), KernelConfig(dtype="bfloat16", weights=weights)
    folder.mkdir()
    large = replace(MODEL, layers=int(([*sys.argv, "5"])[2]))
    sparse(
        folder / "small",
        replace(MODEL, vocab=8, embed=8, hidden=8, expert_hidden=8, q_latent=8, kv_latent=8),
    )
    load(folder / "small", kernel)  # so that the programs themselves do not count
    total, largest = sparse(folder / "large", large)
    before = peak()
    model, variables = load(folder / "large", kernel)
    jax.block_until_ready(variables)
    held = sum(x.nbytes for x in jax.tree.leaves(variables))
    print(
        json.dumps(
            {"total": total, "largest": largest, "held": held, "beyond": peak() - before - held}
        )
    )
