"""The default run: a model with all of DeepSeek-V3's parts learns the source of Python's standard
library on a laptop.

    python train.py

Hardware: two CPU cores, four to six minutes for 0.63M tokens; the first loss within a minute.
Expect 1.68 bits per byte of held-out source, of which `xz -6` needs 1.69, and a MaxVio under 0.5
from step 50 on. The published std of 0.006 and gamma of 0.001 are for models and runs a thousand
times larger; a narrow model that takes 310 steps needs more of both, and small batches, since at
first it is steps that a short run lacks and not tokens.
"""

from seekjax.config import Config, KernelConfig, ModelConfig, OptimizerConfig, TrainConfig

config = Config(
    model=ModelConfig(init_std=0.06),
    kernel=KernelConfig(remat="product"),
    optimizer=OptimizerConfig(learning_rate=6e-3),
    train=TrainConfig(steps=310, batch=8, balance_rate=0.01, eval_every=155),
)
