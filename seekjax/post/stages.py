"""Which stage of training a config asks for."""

from seekjax.config import Config, DistillConfig, DpoConfig, GrpoConfig, SftConfig
from seekjax.train.pretrain import Pretraining
from seekjax.train.training import Training


def stage_of(config: Config) -> type[Training]:
    """Pre-training, or what config.post says follows it."""
    if isinstance(config.post, GrpoConfig):
        from seekjax.post.rl.grpo import Reinforcement

        return Reinforcement
    if isinstance(config.post, SftConfig):
        from seekjax.post.tune.sft import FineTuning

        return FineTuning
    if isinstance(config.post, DpoConfig):
        from seekjax.post.tune.dpo import Preference

        return Preference
    if isinstance(config.post, DistillConfig):
        if config.post.on_policy:
            from seekjax.post.distill.on_policy import OnPolicy

            return OnPolicy
        from seekjax.post.distill.distillation import Distillation

        return Distillation
    return Pretraining
