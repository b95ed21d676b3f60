"""A pre-training run of twenty steps that saves every second one, for trials that interrupt it."""

from seekjax.config import Config, DataConfig, OptimizerConfig, TrainConfig
from sharding.mesh import MeshConfig
from tests.fixtures import ONE_LAYER, PLAIN

config = Config(
    model=ONE_LAYER,
    data=DataConfig(tokenizer="bpe", sequence=32, held_out=0.05),
    optimizer=OptimizerConfig(learning_rate=3e-3, warmup=2, eps=1e-5),
    mesh=MeshConfig(data=1),
    kernel=PLAIN,
    train=TrainConfig(
        steps=20,
        batch=8,
        log_every=1,
        eval_every=10,
        eval_batches=1,
        save_every=2,
        keep=2,
        balance_rate=0.01,
    ),
)
