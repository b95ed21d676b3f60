r"""Distillation from a teacher's probabilities (1503.02531) into a model of any width with the same
tokenizer; or on the student's own answers (GKD).

    # a new narrow model, on chats
    python train.py distill --distill.teacher runs/sft --model.vocab 2048 --model.embed 64 \
        --distill.chats chats.jsonl --out runs/small
    # the teacher's probabilities are kept, and later runs read them
    python train.py distill --distill.teacher runs/big --init runs/small \
        --distill.tasks countdown:1 --distill.top-k 64 --distill.save-logits logits
    # on the student's own answers
    python train.py distill --distill.teacher runs/big --init runs/small \
        --distill.tasks countdown:1 --distill.on-policy --out runs/own

Hardware: two CPU cores for models of configs/tiny.py's size; a step costs a forward pass of the
teacher more than fine-tuning does, and with saved logits only the first run pays it. On its own
answers a step also draws train.batch texts. Expect kl to fall, fast at first: it is what the
student still lacks, in nats per token, and 0 only where it is as good as its teacher. A student
with --init may keep its balance: --train.balance-rate 0.

Distillation from samples, as DeepSeek-R1's small models were made, needs nothing of this, nor the
same tokenizer:

    seekjax sample runs/big --task countdown:1 --out kept.jsonl
    python train.py sft --init runs/small --sft.chats kept.jsonl --out runs/distilled
"""

from seekjax.config import (
    CONSTANT,
    Config,
    DataConfig,
    DistillConfig,
    KernelConfig,
    OptimizerConfig,
    Piece,
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
        mtp_weight=0.1,
        mtp_schedule=CONSTANT,
        log_every=10,
        eval_every=50,
        save_every=50,
    ),
    distill=DistillConfig(),
)
