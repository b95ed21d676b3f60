"""Reinforcement on problems whose answers can be checked: GRPO as DeepSeek-V3.2 does it, from any
model that answers some of them.

    python train.py grpo --init runs/sft --grpo.tasks countdown:1 --out runs/grpo

Hardware: two CPU cores for a model of configs/tiny.py's size, a second or two per rollout of 128
samples. Before the first step it samples, and stops with a diagnosis when nothing can be learnt.
Expect accuracy to move towards what the starting model gets right once in eight tries. Other
papers' objectives by one word: --grpo.recipe grpo, r1, dr_grpo, dapo, gspo or cispo
(seekjax/config/recipes.py).
"""

from seekjax.config import (
    CONSTANT,
    Config,
    DataConfig,
    GrpoConfig,
    KernelConfig,
    OptimizerConfig,
    TrainConfig,
)

config = Config(
    data=DataConfig(sequence=96),
    optimizer=OptimizerConfig(learning_rate=2e-4, warmup=5, schedule=CONSTANT, weight_decay=0.0),
    kernel=KernelConfig(remat="product"),
    train=TrainConfig(
        steps=100, batch=128, balance_loss=0.0, log_every=1, eval_every=25, save_every=25
    ),
    grpo=GrpoConfig(prompts=16, group=8),
)
