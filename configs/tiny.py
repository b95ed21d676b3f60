"""The default run: a DeepSeek-V3-shaped model learns the Python standard library on a laptop."""

from seekjax.config import Config

config = Config()
