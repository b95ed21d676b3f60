"""DeepSeek-V2-Lite (arXiv 2405.04434, appendix B): latent attention at 16B, 5.7T tokens.

    python train.py v2_lite --data.tokenizer tokenizer.json --data.sources corpus/

Hardware: a multiple of 64 accelerators of 80 GB; micro_batch gives each of 64 eight sequences per
forward pass. Expect 15.7B parameters of which 2.4B are active, and 31,104 bytes of bf16 cache per
token. Time: 302,000 steps of 18.9M tokens; at 200 TFLOP/s each, 64 accelerators need 82 days.

`--model.context 163840` is the released model, which YaRN extends to 160K positions (32K claimed).
The balance loss is the paper's sequence-wise expert loss, alpha1 = 0.001, the only one V2-Lite
trains with; nothing moves the routing bias.
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
        vocab=102400,
        embed=2048,
        layers=27,
        heads=16,
        q_latent=0,
        kv_latent=512,
        nope=128,
        rotary=64,
        value=128,
        rope=RopeConfig(factor=40, mscale=0.707, mscale_all=0.707),
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
        steps=302_000, batch=4608, micro_batch=512, balance_rate=0.0, balance_loss=0.001
    ),
    kernel=KernelConfig(dtype="bfloat16"),
    mesh=MeshConfig(fsdp=8, expert=8),
)
