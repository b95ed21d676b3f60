"""DeepSeek-R1 from nothing, in small (2501.12948): every stage of the paper, on countdown, each
line of which also works by itself.

    # all of it; the same line again continues where it was stopped
    python train.py r1
    python train.py r1 --plan True                       only shows the lines
    python train.py r1 --reason.post.recipe dapo --seed 1 --out runs/dapo

Hardware: two CPU cores; with a device for each (JAX_NUM_CPU_DEVICES=2) 14 minutes, 20 on a slow day
of a shared machine. Expect of 512 held-out problems 16 % right by the base model (random answers:
5.5 %), 37 % after the cold start, 40 % after reinforcement, 41 % of the model that also adds, and
14 % of the narrow student.
"""

from seekjax.workflow import Pipeline

FROM = "--out {out}/%s --train.seed {seed}"
MUON = (
    "--optimizer.name muon --optimizer.learning-rate 3e-3 --train.eval-every 200 "
    "--train.save-every 200"
)
GRPO = (
    "--data.sequence 152 --post.max-new 128 --post.kl 0 --optimizer.learning-rate 1e-4 "
    "--train.log-every 5 --train.eval-every 20 --train.save-every 20"
)
NARROW = "--model.embed 64 --model.hidden 128 --model.expert-hidden 32"
COUNT, BOTH = "--post.tasks countdown:1", "--post.tasks countdown:1 addition:2"


def evals(*names: str, samples: int = 2, task: str = "countdown:1") -> dict[str, str]:
    """Lines that measure what stages have made, on 512 held-out problems."""
    return {
        f"{name}-eval": f"seekjax eval {{out}}/{name} --task {task} --samples {samples} --max-new "
        f"128 --report {{out}}/{name}.json"
        for name in names
    }


pipeline = Pipeline(
    about=__doc__,
    stages={
        "base": f"train.py countdown {FROM % 'base'}",
        "cold": f"train.py sft --init {{out}}/base {FROM % 'cold'} {COUNT} --train.steps 300 {MUON}",
        "reason": f"train.py grpo --init {{out}}/cold {FROM % 'reason'} {COUNT} {GRPO} "
        "--train.steps 40 --post.rewards accuracy 1.0 format 0.1 language 0.1",
        "kept": "seekjax sample {out}/reason --task countdown:1 --problems 1500 --samples 4 "
        "--max-new 128 --seed {seed} --out {out}/kept.jsonl",
        "sft": f"train.py sft --init {{out}}/base {FROM % 'sft'} --post.chats {{out}}/kept.jsonl "
        f"--post.tasks addition:2 --post.weights 3 1 --train.steps 300 {MUON}",
        "all": f"train.py grpo --init {{out}}/sft {FROM % 'all'} {BOTH} {GRPO} --train.steps 20",
        "little": f"train.py countdown {FROM % 'little'} {NARROW} --train.steps 400",
        "student": f"train.py distill --init {{out}}/little --post.teacher {{out}}/all "
        f"{FROM % 'student'} {BOTH} --train.steps 400 {MUON}",
        **evals("base", "cold", "reason", "all", "student"),
    },
)
