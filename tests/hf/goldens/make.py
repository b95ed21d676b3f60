"""Make the golden checkpoints beside this file: small random models, and what transformers computes
from them in float32.

    pip install -e '.[parity]'
    python -m tests.hf.goldens.make

`v2` and `v2_lite` are as transformers writes them (rope_parameters); in `v2_lite` config.json is
turned into the published dialect, the weights lie in several files, and the epsilon is so large
that the latents' norms show that they have another one, as in Moonlight-16B-A3B. `v3` has a
prediction module, which transformers reads and cannot write: seekjax writes that one.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch

from seekjax.hf.load import load
from seekjax.hf.save import save
from tests.fixtures import PLAIN
from tests.hf import peers
from tests.hf.test_parity import with_modules

HERE = Path(__file__).parent
SIZES = {
    "vocab_size": 29,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "q_lora_rank": 10,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
    "intermediate_size": 20,
    "moe_intermediate_size": 6,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "max_position_embeddings": 640,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 40.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}
MODELS = {
    "v2": (
        "v2",
        SIZES
        | {
            "topk_method": "group_limited_greedy",
            "routed_scaling_factor": 16.0,
            "rope_parameters": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
        },
    ),
    "v2_lite": (
        "v2",
        SIZES
        | {
            "q_lora_rank": None,
            "rms_norm_eps": 0.1,
            "topk_method": "greedy",
            "n_group": 1,
            "topk_group": 1,
            "routed_scaling_factor": 1.0,
            "rope_parameters": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
        },
    ),
    "v3": (
        "v3",
        SIZES
        | {
            "n_shared_experts": 1,
            "routed_scaling_factor": 2.5,
            "rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
        },
    ),
}


def published_dialect(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config |= {
        "rope_theta": rope.pop("rope_theta"),
        "rope_scaling": rope | {"type": rope.pop("rope_type")},
        "scoring_func": "softmax",
        "moe_layer_freq": 1,
    }
    path.write_text(json.dumps(config, indent=2) + "\n")


def make(name, kind, config):
    folder, rng = HERE / name, np.random.default_rng(0)
    shutil.rmtree(folder, ignore_errors=True)
    peers.made(kind, config, 0).to(torch.bfloat16).save_pretrained(
        folder, max_shard_size="8KB" if name == "v2_lite" else "1GB"
    )
    (folder / "generation_config.json").unlink()
    depth = 0
    if name == "v2_lite":
        published_dialect(folder)
    if name == "v3":
        depth, (model, variables) = 1, load(folder, PLAIN)
        model, variables = with_modules(model, variables, depth, rng)
        shutil.rmtree(folder)
        save(folder, model, variables, "bf16")
    tokens = rng.integers(0, config["vocab_size"], (2, 12 + depth)).astype(np.int32)
    read = peers.reread(kind, folder, depth)
    np.savez_compressed(
        folder / "expected.npz", tokens=tokens, **peers.expected(read[0], tokens, read[1])
    )


if __name__ == "__main__":
    for name, (kind, config) in MODELS.items():
        make(name, kind, config)
