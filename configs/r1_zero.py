"""DeepSeek-R1-Zero in small (2501.12948, section 2.2): reinforcement straight from a base model, with nothing shown to it but attempts that are right by chance.

    python train.py r1_zero                              the same line again continues where it was stopped
    python train.py r1_zero --out runs/r1                from the base model of `python train.py r1`

Hardware: two CPU cores, about seven minutes. What a model of this size cannot tell apart it does not learn from rewards alone: see the exhibits in the
README, where a cold start takes the same base model four times as far.
"""

from seekjax.pipeline import Pipeline

from configs.r1 import COUNT, FROM, GRPO, evals

pipeline = Pipeline(
    about=__doc__,
    stages={
        "base": f"train.py countdown {FROM % 'base'}",
        "zero": f"train.py grpo --init {{out}}/base {FROM % 'zero'} {COUNT} {GRPO} --train.steps 60",
        **evals("base", "zero"),
    },
)
