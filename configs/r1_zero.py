"""DeepSeek-R1-Zero in small (2501.12948, section 2.2): reinforcement straight from the base model,
with rewards for right answers and without a cold start.

    # the same line again continues where it was stopped
    python train.py r1_zero
    # from the base model of `python train.py r1`
    python train.py r1_zero --out runs/r1

Hardware: two CPU cores, two minutes beyond the base model's three to five. Expect 12 % to 17 % of
512 held-out problems right before and 15 % to 24 % after (three seeds of 80 steps, one of 60;
random answers: 5.5 %), where 300 steps of a cold start take the same base models to 35 % to 40 %.
"""

from configs.r1 import COUNTDOWN, GRPO, evaluate
from seekjax.workflow import Train, Workflow

workflow = Workflow(
    about=__doc__,
    steps=[
        Train("countdown", name="base"),
        Train(
            "grpo",
            name="zero",
            init="base",
            options={"grpo.tasks": COUNTDOWN, **GRPO, "train.steps": 60},
        ),
        evaluate("base"),
        evaluate("zero"),
    ],
)
