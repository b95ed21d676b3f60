"""DeepSeek-R1 from nothing, in small (2501.12948): every step of the paper, on countdown.

    # all of it; the same line again continues where it was stopped
    python train.py r1
    # only show the lines, each of which also works by itself
    python train.py r1 --plan
    python train.py r1 --reason.grpo.recipe dapo --seed 1 --out runs/dapo

Hardware: two CPU cores; with a device for each (JAX_NUM_CPU_DEVICES=2) 14 minutes, 20 on a slow day
of a shared machine. Expect of 512 held-out problems 16 % right by the base model (random answers:
5.5 %), 37 % after the cold start, 40 % after reinforcement, 41 % of the model that also adds, and
14 % of the narrow student.
"""

from seekjax.workflow import Evaluate, Options, Output, Sample, Train, Workflow

COUNTDOWN = ["countdown:1"]
BOTH = ["countdown:1", "addition:2"]

MUON: Options = {
    "optimizer.name": "muon",
    "optimizer.learning_rate": 3e-3,
    "train.eval_every": 200,
    "train.save_every": 200,
}
GRPO: Options = {
    "data.sequence": 152,
    "grpo.max_new": 128,
    "grpo.kl": 0,
    "optimizer.learning_rate": 1e-4,
    "train.log_every": 5,
    "train.eval_every": 20,
    "train.save_every": 20,
}
NARROW: Options = {"model.embed": 64, "model.hidden": 128, "model.expert_hidden": 32}


def evaluate(model: str) -> Evaluate:
    """Measure the model of a step on 512 held-out problems."""
    return Evaluate(model, tasks=COUNTDOWN, samples=2, max_new=128)


workflow = Workflow(
    about=__doc__,
    steps=[
        Train("countdown", name="base"),
        # The cold start: supervised fine-tuning on solved problems.
        Train(
            "sft",
            name="cold",
            init="base",
            options={"sft.tasks": COUNTDOWN, "train.steps": 300, **MUON},
        ),
        # Reinforcement, with a reward for thinking in one language.
        Train(
            "grpo",
            name="reason",
            init="cold",
            options={
                "grpo.tasks": COUNTDOWN,
                **GRPO,
                "train.steps": 40,
                "grpo.rewards": [("accuracy", 1.0), ("format", 0.1), ("language", 0.1)],
            },
        ),
        # Rejection sampling: the right answers of that model.
        Sample("kept", model="reason", tasks=COUNTDOWN, problems=1500, samples=4, max_new=128),
        # Fine-tuning of the base model on them, and on a second task.
        Train(
            "sft",
            name="sft",
            init="base",
            options={
                "sft.chats": [Output("kept")],
                "sft.tasks": ["addition:2"],
                "sft.weights": [3, 1],
                "train.steps": 300,
                **MUON,
            },
        ),
        # Reinforcement on both tasks.
        Train(
            "grpo",
            name="all",
            init="sft",
            options={"grpo.tasks": BOTH, **GRPO, "train.steps": 20},
        ),
        # A narrower model, distilled from the last one.
        Train("countdown", name="little", options={**NARROW, "train.steps": 400}),
        Train(
            "distill",
            name="student",
            init="little",
            options={
                "distill.teacher": Output("all"),
                "distill.tasks": BOTH,
                "train.steps": 400,
                **MUON,
            },
        ),
        *[evaluate(model) for model in ("base", "cold", "reason", "all", "student")],
    ],
)
