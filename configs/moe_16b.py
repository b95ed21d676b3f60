"""DeepSeekMoE-16B (arXiv 2401.06066): the mixture of experts before latent attention, 2T tokens.

    python train.py moe_16b --data.tokenizer tokenizer.json --data.sources corpus/

Hardware: a multiple of 64 accelerators of 80 GB; micro_batch gives each of 64 eight sequences per
forward pass. Expect 16.4B parameters of which 2.8B are active, 74.4 TFLOPs per 4K tokens and
229,376 bytes of bf16 cache per token. Time: 106,449 steps of 18.9M tokens; at 200 TFLOP/s each, 64
accelerators need 31 days.

The balance loss is the paper's expert-level one with its factor 0.001; nothing moves the routing
bias. The released checkpoint was trained with the rotary halves side by side; this run, like all
others here, interleaves them.
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
from sharding.mesh_config import MeshConfig

config = Config(
    model=ModelConfig(
        vocab=102400,
        embed=2048,
        layers=28,
        attention="mha",
        heads=16,
        q_latent=0,
        kv_latent=0,
        nope=0,
        rotary=128,
        value=128,
        hidden=10944,
        expert_hidden=1408,
        experts=64,
        shared_experts=2,
        experts_per_token=6,
        expert_groups=1,
        groups_per_token=1,
        scoring="softmax",
        group_score="max",
        renormalise=False,
        route_scale=1.0,
        balance_choice="routed",
        mtp_depth=0,
    ),
    data=DataConfig(sequence=4096),
    optimizer=OptimizerConfig(
        learning_rate=4.2e-4,
        warmup=2000,
        schedule=(
            Piece(until=0.8, to=1.0),
            Piece(until=0.9, to=0.316),
            Piece(until=1.0, to=0.316**2),
        ),
    ),
    train=TrainConfig(
        steps=106_449, batch=4608, micro_batch=512, balance_rate=0.0, balance_loss=0.001
    ),
    kernel=KernelConfig(dtype="bfloat16"),
    mesh=MeshConfig(fsdp=8, expert=8),
)
