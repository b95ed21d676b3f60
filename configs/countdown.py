"""A base model small enough to watch reinforcement grow: it reads attempts at countdown of the right form, right by chance alone.

    python train.py countdown
    python train.py grpo --init runs/countdown --post.tasks countdown:1 --data.sequence 120 --post.max-new 96 --out runs/zero

Hardware: two CPU cores, under four minutes for 2.5M tokens, then one to two seconds per step of reinforcement (R1-Zero). Expect a loss of 0.2, nine
operations of ten worked out rightly, and 5 % of the answers right, which is what random valid expressions get; 60 steps of GRPO took one such model to 12 %.
Muon learns this in half the steps that AdamW needs.
"""

from seekjax.config import Config, DataConfig, KernelConfig, ModelConfig, OptimizerConfig, Schedule, SftConfig, TrainConfig

config = Config(
    model=ModelConfig(vocab=272, embed=96, layers=3, context=512, heads=4, q_latent=48, kv_latent=32, nope=16, rotary=16, value=24, hidden=256,
                      expert_hidden=64, experts=8, experts_per_token=2, expert_groups=2, groups_per_token=2, mtp_depth=0, init_std=0.07),
    data=DataConfig(tokenizer="byte", sequence=256, packing="fit", mask_documents=True),
    optimizer=OptimizerConfig(name="muon", learning_rate=5e-3, warmup=50, schedule=Schedule((1.0,), (0.1,), ("cosine",))),
    kernel=KernelConfig(remat="product"),
    train=TrainConfig(steps=1200, batch=8, balance_rate=0.01, log_every=50, eval_every=400, save_every=400),
    post=SftConfig(tasks=("countdown:1",), template="v3", attempts=0.75),
)
