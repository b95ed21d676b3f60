"""A 509M-parameter DeepSeek-V3 in proportion, 121M active per token: about an evening on one
accelerator.

    python train.py small --data.sources my_text/ --data.tokenizer my_tokenizer.json

Hardware: one GPU or TPU chip with 40 GB; 2.6B tokens. `--mesh.expert 8` on eight of them. Without
--data.sources it reads Python's standard library many times over, which is enough to measure speed
and too little to learn from.
"""

from seekjax.config import (
    Config,
    DataConfig,
    KernelConfig,
    ModelConfig,
    OptimizerConfig,
    Piece,
    TrainConfig,
)

config = Config(
    model=ModelConfig(
        vocab=32768,
        embed=768,
        layers=12,
        dense_layers=1,
        heads=12,
        q_latent=384,
        kv_latent=256,
        nope=64,
        rotary=32,
        value=64,
        hidden=3072,
        expert_hidden=512,
        experts=32,
        shared_experts=1,
        experts_per_token=4,
        expert_groups=4,
        groups_per_token=2,
    ),
    data=DataConfig(sequence=2048),
    optimizer=OptimizerConfig(
        learning_rate=6e-4,
        warmup=500,
        schedule=(
            Piece(until=0.7, to=1.0),
            Piece(until=1.0, to=0.1, shape="cosine"),
        ),
    ),
    train=TrainConfig(steps=10_000, batch=128, micro_batch=32, eval_every=500, save_every=500),
    kernel=KernelConfig(dtype="bfloat16"),
)
