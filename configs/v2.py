"""DeepSeek-V2, 236B (arXiv 2405.04434, section 3.1; V2.5 shares it): 8.1T tokens.

    python train.py v2 --data.tokenizer tokenizer.json --data.sources corpus/

Hardware: a multiple of 256 accelerators of 80 GB; micro_batch gives each of 256 one sequence per
forward pass. Expect 235.7B parameters of which 21B are active, 155.3 GFLOPs per token and 69,120
bytes of bf16 cache per token. Time: 172,800 H800 hours per 1T tokens are published, 1.4M hours in
all.

`--model.context 163840` is the released model, which YaRN extends to 160K positions (128K claimed).
The balance losses are the paper's, over sequences: of experts (alpha1 = 0.003), of devices
(alpha2 = 0.05) and of what is sent to devices (alpha3 = 0.02), where the eight expert groups are
the devices, however this run is sharded. Not included: the dropping of tokens per device. Nothing
moves the routing bias.
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
        embed=5120,
        layers=60,
        heads=128,
        q_latent=1536,
        kv_latent=512,
        nope=128,
        rotary=64,
        value=128,
        rope=RopeConfig(factor=40, mscale=0.707, mscale_all=0.707),
        hidden=12288,
        expert_hidden=1536,
        experts=160,
        shared_experts=2,
        experts_per_token=6,
        expert_groups=8,
        groups_per_token=3,
        scoring="softmax",
        group_score="max",
        renormalise=False,
        route_scale=16.0,
        balance_choice="routed",
        group_balance=0.05 / 0.003,
        send_balance=0.02 / 0.003,
        mtp_depth=0,
    ),
    data=DataConfig(sequence=4096),
    optimizer=OptimizerConfig(
        learning_rate=2.4e-4,
        warmup=2000,
        schedule=(
            Piece(until=0.6, to=1.0),
            Piece(until=0.9, to=0.316),
            Piece(until=1.0, to=0.316**2),
        ),
    ),
    train=TrainConfig(
        steps=219_642,
        batch=9216,
        micro_batch=256,
        batch_start=2304,
        batch_ramp=225e9 / 8.1e12,
        balance_rate=0.0,
        balance_loss=0.003,
    ),
    kernel=KernelConfig(dtype="bfloat16"),
    mesh=MeshConfig(fsdp=32, expert=8),
)
