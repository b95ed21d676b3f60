"""Every setting of a run, as frozen dataclasses, one comment per field.

model     the transformer
run       data, optimizer, kernels, loop, and the Config of a whole run
post      fine-tuning, preferences, distillation, reinforcement
validate  what a config must satisfy before anything expensive happens
"""

from seekjax.config.model import ModelConfig, Name, RopeConfig
from seekjax.config.post import (
    ChatConfig,
    DistillConfig,
    DpoConfig,
    GrpoConfig,
    LoraConfig,
    Objective,
    SamplesConfig,
    SamplingConfig,
    SftConfig,
    Template,
)
from seekjax.config.run import (
    CONSTANT,
    Config,
    DataConfig,
    ExtendConfig,
    Fp8Config,
    KernelConfig,
    OptimizerConfig,
    Piece,
    Schedule,
    TrainConfig,
)
from sharding.mesh_config import MeshConfig

__all__ = [
    "CONSTANT",
    "ChatConfig",
    "Config",
    "DataConfig",
    "DistillConfig",
    "DpoConfig",
    "ExtendConfig",
    "Fp8Config",
    "GrpoConfig",
    "KernelConfig",
    "LoraConfig",
    "MeshConfig",
    "ModelConfig",
    "Name",
    "Objective",
    "OptimizerConfig",
    "Piece",
    "RopeConfig",
    "SamplesConfig",
    "SamplingConfig",
    "Schedule",
    "SftConfig",
    "Template",
    "TrainConfig",
]
