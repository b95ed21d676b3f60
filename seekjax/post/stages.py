"""Which stage of training a config asks for."""

from seekjax.config import Config
from seekjax.train.pretrain import Pretraining
from seekjax.train.stage import Stage


def stage_of(config: Config) -> type[Stage]:
    """Pre-training, or what config.post says follows it."""
    return Pretraining
