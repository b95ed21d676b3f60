"""A model that compiles in seconds, for every kind of post-training."""

import json

import pytest

from seekjax.config import (
    Config,
    DataConfig,
    KernelConfig,
    OptimizerConfig,
    TrainConfig,
)
from sharding.mesh import MeshConfig
from tests.fixtures import tiny_model

MODEL = tiny_model(hidden=512, expert_hidden=32, dense_layers=0, mtp_depth=0)


@pytest.fixture(scope="session")
def tiny():
    """Config of a run that starts from random weights: tiny(out, sft=..., **train)."""

    def config(out, sft=None, dpo=None, distill=None, **train) -> Config:
        return Config(
            model=MODEL,
            data=DataConfig(tokenizer="byte", sequence=64, held_out=0.2),
            optimizer=OptimizerConfig(warmup=2, learning_rate=1e-2),
            mesh=MeshConfig(data=1),
            kernel=KernelConfig(attention="plain", experts="loop", remat="none"),
            sft=sft,
            dpo=dpo,
            distill=distill,
            out=out,
            train=TrainConfig(
                **{
                    "steps": 6,
                    "batch": 4,
                    "balance_rate": 0.0,
                    "log_every": 1,
                    "eval_every": 3,
                    "eval_batches": 1,
                    "save_every": 2,
                    **train,
                }
            ),
        )

    return config


@pytest.fixture(scope="session")
def chats(tmp_path_factory):
    """A file of twelve short conversations."""
    file = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    file.write_text(
        "".join(
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": f"{n}+1"},
                        {"role": "assistant", "content": f"<think>so</think>{n + 1}"},
                    ]
                }
            )
            + "\n"
            for n in range(12)
        )
    )
    return str(file)
