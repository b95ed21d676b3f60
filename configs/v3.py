"""DeepSeek-V3, 671B (arXiv 2412.19437, section 4.2; R1 and V3.1 share its shape): 14.8T tokens.

    python train.py v3 --data.tokenizer tokenizer.json --data.sources corpus/

Hardware: 2,048 accelerators of 80 GB; micro_batch gives every four that share a tensor axis one
sequence per forward pass. Expect 671.0B parameters of which 36.6B are active, 250.5 GFLOPs per
token and 70,272 bytes of bf16 cache per token; published: 2.664M H800 hours.

`--model.context 163840` is the released model: YaRN is on where the context exceeds 4096. The two
extensions that follow (section 4.3) are configs/v3_long.py.
"""

from seekjax.config import (
    Config,
    DataConfig,
    KernelConfig,
    ModelConfig,
    OptimizerConfig,
    Piece,
    RopeConfig,
    TrainConfig,
)
from sharding.mesh_config import MeshConfig

config = Config(
    model=ModelConfig(
        vocab=129280,
        embed=7168,
        layers=61,
        dense_layers=3,
        heads=128,
        q_latent=1536,
        kv_latent=512,
        nope=128,
        rotary=64,
        value=128,
        rope=RopeConfig(factor=40),
        hidden=18432,
        expert_hidden=2048,
        experts=256,
        experts_per_token=8,
        expert_groups=8,
        groups_per_token=4,
    ),
    data=DataConfig(sequence=4096, fim_rate=0.1),
    optimizer=OptimizerConfig(
        learning_rate=2.2e-4,
        warmup=2000,
        schedule=(
            Piece(until=10 / 14.8, to=1.0),
            Piece(until=14.3 / 14.8, to=0.1, shape="cosine"),
            Piece(until=14.633 / 14.8, to=0.1),
            Piece(until=1.0, to=7.3 / 220),
        ),
    ),
    train=TrainConfig(
        steps=242_804,
        batch=15360,
        micro_batch=512,
        batch_start=3072,
        batch_ramp=469e9 / 14.8e12,
        balance_schedule=(
            Piece(until=14.3 / 14.8, to=1.0),
            Piece(until=1.0, to=0.0),
        ),
    ),
    kernel=KernelConfig(dtype="bfloat16"),
    mesh=MeshConfig(fsdp=8, expert=64, tensor=4),
)
