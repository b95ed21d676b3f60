"""The vocabulary: what a dimension of an array means, and what a dimension of the device mesh is
for."""

LOGICAL = {
    "batch": "sequences",
    "sequence": "positions in a sequence",
    "embed": "model width",
    "heads": "attention heads",
    "nope": "head width without position",
    "rotary": "head width with rotary position",
    "value": "head width of values",
    "q_latent": "compressed queries",
    "kv_latent": "compressed keys and values",
    "experts": "routed experts",
    "expert_hidden": "inner width of an expert",
    "hidden": "inner width of a dense feed-forward",
    "vocab": "token ids",
    "layers": "stacked layers",
}

MESH = {
    "data": "replicas of everything; each sees other sequences",
    "fsdp": "replicas of the computation that split parameters and moments",
    "expert": "splits the routed experts; elsewhere it acts like fsdp",
    "tensor": "splits heads, inner widths and the vocabulary",
}
