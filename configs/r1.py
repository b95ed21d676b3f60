"""DeepSeek-R1 from nothing, in small (2501.12948): every stage of the paper, on countdown, each line of which also works by itself.

    python train.py r1                                   all of it; the same line again continues where it was stopped
    python train.py r1 --plan True                       only shows the lines
    python train.py r1 --reason.post.recipe dapo --seed 1 --out runs/dapo

Hardware: two CPU cores. Expect ...
"""

from seekjax.pipeline import Pipeline

FROM = "--out {out}/%s --train.seed {seed}"
MUON = "--optimizer.name muon --optimizer.learning-rate 3e-3 --train.eval-every 200 --train.save-every 200"
GRPO = "--data.sequence 152 --post.max-new 128 --post.kl 0 --optimizer.learning-rate 1e-4 --train.log-every 5 --train.eval-every 20 --train.save-every 20"
EVAL = "seekjax eval {out}/%s --task countdown:1 --samples 4 --max-new 128 --report {out}/%s.json"
MIX = "--post.tasks countdown:1 addition:2"

pipeline = Pipeline(
    about=__doc__,
    stages={
        "base": "train.py countdown " + FROM % "base",
        "cold": f"train.py sft --init {{out}}/base {FROM % 'cold'} --post.tasks countdown:1 --train.steps 400 {MUON}",
        "reason": f"train.py grpo --init {{out}}/cold {FROM % 'reason'} --post.tasks countdown:1 {GRPO} --train.steps 50 "
                  "--post.rewards accuracy 1.0 format 0.1 language 0.1",
        "kept": "seekjax sample {out}/reason --task countdown:1 --problems 2000 --samples 4 --max-new 128 --out {out}/kept.jsonl",
        "sft": f"train.py sft --init {{out}}/base {FROM % 'sft'} --post.chats {{out}}/kept.jsonl --post.tasks addition:2 --post.weights 3 1 --train.steps 400 {MUON}",
        "all": f"train.py grpo --init {{out}}/sft {FROM % 'all'} {MIX} {GRPO} --train.steps 25",
        "student": f"train.py distill --post.teacher {{out}}/all {FROM % 'student'} {MIX} --model.vocab 272 --model.embed 64 --train.steps 400 {MUON}",
        **{f"{name}-eval": EVAL % (name, name) for name in ("base", "cold", "reason", "all", "student")},
    },
)
