"""The default run: a model with all of DeepSeek-V3's parts learns the Python standard library on a laptop.

    python train.py            (about 5 minutes on two cores; the first loss within a minute)
"""

from seekjax.config import Config, KernelConfig

config = Config(kernel=KernelConfig(remat="none"))
