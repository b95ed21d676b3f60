"""A small checkpoint of each kind to read, write and break."""

import json
from dataclasses import replace

import jax
import numpy as np

from seekjax.config import KernelConfig, ModelConfig, RopeConfig
from seekjax.model.abstract import abstract_variables

V3 = ModelConfig(
    vocab=11,
    embed=6,
    layers=2,
    heads=2,
    q_latent=5,
    kv_latent=4,
    nope=3,
    rotary=2,
    value=3,
    hidden=7,
    expert_hidden=3,
    experts=4,
    experts_per_token=2,
    expert_groups=2,
    groups_per_token=1,
    context=64,
    rope=RopeConfig(factor=4, original_context=16),
)
V2 = replace(
    V3,
    scoring="softmax",
    group_score="max",
    balance_choice="routed",
    renormalise=False,
    route_scale=16.0,
    mtp_depth=0,
    shared_experts=2,
)
LITE = replace(
    V2,
    q_latent=0,
    expert_groups=1,
    groups_per_token=1,
    rope=RopeConfig(factor=4, original_context=16, mscale=0.707, mscale_all=0.707),
)
WIDE = replace(V3, embed=200, hidden=130, kv_latent=129)  # several blocks with ragged edges


def drawn(model, seed=0):
    """Random variables; a bias only where the layout has one."""
    rng = np.random.default_rng(seed)

    def value(path, x):
        moved = path[0].key == "params" or model.scoring == "sigmoid"
        return jax.device_put(np.asarray(rng.normal(size=x.shape) * moved, x.dtype))

    return jax.tree_util.tree_map_with_path(value, abstract_variables(model, KernelConfig()))


def unpack(path):
    """(header, bytes of the tensors) of a safetensors file."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def pack(path, header, data):
    """Write such a file; the header as JSON, or as the bytes given."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def raw_tensors(folder):
    """{name: (type, shape, bytes)} of all files of a folder."""
    tensors = {}
    for path in folder.glob("*.safetensors"):
        header, data = unpack(path)
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                tensors[name] = entry["dtype"], tuple(entry["shape"]), data[start:end]
    return tensors
