"""Which stage of training a config asks for."""

from seekjax.config import Config, DpoConfig, GrpoConfig, SftConfig
from seekjax.train.pretrain import Pretraining
from seekjax.train.stage import Stage


def stage_of(config: Config) -> type[Stage]:
    """Pre-training, or what config.post says follows it."""
    if isinstance(config.post, GrpoConfig):
        from .grpo import Reinforcement
        return Reinforcement
    if isinstance(config.post, SftConfig):
        from .sft import FineTuning
        return FineTuning
    if isinstance(config.post, DpoConfig):
        from .dpo import Preference
        return Preference
    return Pretraining
