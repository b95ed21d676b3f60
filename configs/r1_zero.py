"""DeepSeek-R1-Zero in small (2501.12948, section 2.2): reinforcement straight from a base model, with nothing shown to it but attempts that are right by chance.

    python train.py r1_zero                              the same line again continues where it was stopped
    python train.py r1_zero --out runs/r1                from the base model of `python train.py r1`

Hardware: two CPU cores. Expect ...
"""

from seekjax.pipeline import Pipeline

from configs.r1 import EVAL, FROM, GRPO

pipeline = Pipeline(
    about=__doc__,
    stages={
        "base": "train.py countdown " + FROM % "base",
        "zero": f"train.py grpo --init {{out}}/base {FROM % 'zero'} --post.tasks countdown:1 {GRPO} --train.steps 75",
        **{f"{name}-eval": EVAL % (name, name) for name in ("base", "zero")},
    },
)
