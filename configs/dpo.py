"""Direct preference optimisation (2305.18290) on pairs of a better and a worse answer, from a
fine-tuned run.

    python train.py dpo --init runs/sft --dpo.pairs pairs.jsonl --out runs/dpo

Hardware: two CPU cores for a model of configs/tiny.py's size; the reference is a second copy of the
weights (with --lora.rank, of the adapters alone). train.batch counts texts, two of each pair.
Expect the loss to begin at log 2 = 0.693, where policy and reference agree, and the share of pairs
whose margin is positive to rise above one half. For a large model take the paper's rate:
--optimizer.learning-rate 1e-6.
"""

from seekjax.config import (
    Config,
    DataConfig,
    DpoConfig,
    KernelConfig,
    OptimizerConfig,
    Piece,
    TrainConfig,
)

config = Config(
    data=DataConfig(sequence=256),
    optimizer=OptimizerConfig(
        learning_rate=5e-5,
        warmup=10,
        schedule=(Piece(until=1.0, to=0.1, shape="cosine"),),
        weight_decay=0.0,
    ),
    kernel=KernelConfig(remat="product"),
    train=TrainConfig(
        steps=100,
        batch=32,
        balance_rate=0.0,
        balance_loss=0.0,
        mtp_weight=0.0,
        log_every=5,
        eval_every=25,
        save_every=25,
    ),
    dpo=DpoConfig(),
)
