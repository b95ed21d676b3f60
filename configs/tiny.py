"""The default run: a model with all of DeepSeek-V3's parts learns the source of Python's standard
library on a laptop.

    python train.py

Hardware: two CPU cores, five to seven minutes for 1.2M tokens; the first loss within a minute.
Expect about 1.6 bits per byte of held-out source, of which `xz -6` needs 1.7, and a MaxVio under
0.5 from step 50 on. The published std of 0.006 and gamma of 0.001 are for models and runs a
thousand times larger; a narrow model that takes 300 steps needs more of both.
"""

from seekjax.config import Config, KernelConfig, ModelConfig, TrainConfig

config = Config(
    model=ModelConfig(init_std=0.06),
    kernel=KernelConfig(remat="product"),
    train=TrainConfig(steps=300, batch=16, balance_rate=0.01),
)
