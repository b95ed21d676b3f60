"""A run of reinforcement of six steps that saves every one, for trials that interrupt it."""

from seekjax.config import (
    CONSTANT,
    Config,
    DataConfig,
    GrpoConfig,
    Objective,
    OptimizerConfig,
    TrainConfig,
)
from sharding.mesh import MeshConfig
from tests.fixtures import ONE_LAYER, PLAIN

config = Config(
    model=ONE_LAYER,
    data=DataConfig(tokenizer="byte", sequence=40),
    optimizer=OptimizerConfig(learning_rate=3e-3, warmup=1, schedule=CONSTANT),
    mesh=MeshConfig(data=1),
    kernel=PLAIN,
    train=TrainConfig(
        steps=6, batch=16, log_every=1, eval_every=6, save_every=1, keep=2, balance_rate=0.0
    ),
    grpo=GrpoConfig(
        tasks=("addition:1",),
        rewards=(("tests.scripts.own_reward:vowels", 1.0),),
        prompts=4,
        group=4,
        max_new=8,
        eval_problems=4,
        preflight=False,
        objective=Objective(kl=0.0),
    ),
)
