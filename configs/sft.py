"""Supervised fine-tuning on chats and solved tasks: the cold start of DeepSeek-R1, from any run or
published checkpoint.

    python train.py sft --init runs/tiny --sft.chats chats.jsonl --out runs/sft
    python train.py sft --init runs/tiny --sft.tasks countdown:1 --out runs/cold
    python train.py sft --init runs/tiny --sft.chats chats.jsonl --lora.rank 8 --out runs/lora

Hardware: two CPU cores for a model of configs/tiny.py's size, about a minute per 100 steps. Expect
the loss on answers to fall from what plain text gives to that of the tasks' own chance: a solved
countdown has a random search in it, an addition nothing. The balance bias stays as it was, and
prediction modules learn with V3's later weight of 0.1. For a large model take R1's rate:
--optimizer.learning-rate 5e-5 (section B.4.1: 5e-5 to 5e-6).
"""

from seekjax.config import (
    CONSTANT,
    Config,
    DataConfig,
    KernelConfig,
    OptimizerConfig,
    Piece,
    SftConfig,
    TrainConfig,
)

config = Config(
    data=DataConfig(sequence=256, packing="fit", mask_documents=True),
    optimizer=OptimizerConfig(
        learning_rate=1e-3, warmup=10, schedule=(Piece(until=1.0, to=0.1, shape="cosine"),)
    ),
    kernel=KernelConfig(remat="product"),
    train=TrainConfig(
        steps=200,
        batch=16,
        balance_rate=0.0,
        mtp_weight=0.1,
        mtp_schedule=CONSTANT,
        log_every=10,
        eval_every=50,
        save_every=50,
    ),
    sft=SftConfig(),
)
