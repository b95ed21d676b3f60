"""DeepSeek-R1-Zero in small (2501.12948, section 2.2): reinforcement straight from the base model,
with rewards for right answers and no cold start.

    # the same line again continues where it was stopped
    python train.py r1_zero
    python train.py r1_zero --out runs/r1                from the base model of `python train.py r1`

Hardware: two CPU cores, two minutes beyond the base model's three to five. Expect 12 % to 17 % of
512 held-out problems right before and 15 % to 24 % after (three seeds of 80 steps, one of 60;
random answers: 5.5 %), where 300 steps of a cold start take the same base models to 35 % to 40 %.
"""

from configs.r1 import COUNT, FROM, GRPO, evals
from seekjax.workflow import Pipeline

pipeline = Pipeline(
    about=__doc__,
    stages={
        "base": f"train.py countdown {FROM % 'base'}",
        "zero": f"train.py grpo --init {{out}}/base {FROM % 'zero'} {COUNT} {GRPO} --train.steps 60",
        **evals("base", "zero"),
    },
)
