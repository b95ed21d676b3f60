"""DeepSeek-V3, 671B (arXiv 2412.19437, section 4.2; R1 and V3.1 share its shape): 14.8T tokens.

    python train.py v3 --data.tokenizer tokenizer.json --data.sources corpus/

Hardware: 2,048 accelerators of 80 GB; micro_batch gives every four that share a tensor axis one
sequence per forward pass. Expect 671.0B parameters of which 36.6B are active, 250.5 GFLOPs per
token and 70,272 bytes of bf16 cache per token; published: 2.664M H800 hours.

`--model.context 163840` is the released model: YaRN is on where the context exceeds 4096. The two
extensions (section 4.3) start from the trained weights and keep 62.9M tokens per step, each on a
mesh whose batch axes divide its batch. Both take

    --train.steps 1000 --train.batch-start 0 --train.batch-ramp 0 --train.balance-rate 0
    --train.mtp-weight 0.1 --train.mtp-schedule 1:1
    --optimizer.learning-rate 7.3e-6 --optimizer.warmup 0 --optimizer.schedule 1:1

and the first, then the second, these:

    --model.context 32768 --data.sequence 32768 --train.batch 1920 --train.micro-batch 128
    --mesh.fsdp 2 --mesh.expert 64 --mesh.tensor 16

    --model.context 131072 --data.sequence 131072 --train.batch 480 --train.micro-batch 32
    --mesh.fsdp 1 --mesh.expert 32 --mesh.tensor 64
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
