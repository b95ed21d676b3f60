"""What post-training does to a small model, from nothing: the exhibits of the README, three seeds
each, with their controls.

    python -m tests.benchmarks.exhibits run --out runs/exhibits [--seeds 0 1 2] [--only zero r1]
    python -m tests.benchmarks.exhibits show --out runs/exhibits

`run` trains, each part on a core of its own so that wall clocks can be compared, and goes on where
it was stopped. `show` writes exhibits.json, exhibits.png and curves.png into
tests/benchmarks/results/exhibits/. A part is a workflow, so `python -m tests.benchmarks.exhibits
plan --out runs/exhibits` prints every line.

    # R1-Zero: reinforcement from the base model; the same with rewards dealt out regardless of the
    # answer
    zero
    # a cold start on solved problems, then reinforcement; instead of the latter, the same time of
    # more of the cold start
    r1
    # a cold start that thinks in one language or another, then reinforcement with and without the
    # reward for consistency
    language
    # a narrower base model: the teacher's probabilities against reinforcement for the same time
    distill
    addition   the smoke test: sums by somebody who forgets every second carry
"""

import argparse
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from configs.r1 import COUNTDOWN, GRPO, MUON, NARROW
from seekjax.commands.workflow import command_of, run_workflow
from seekjax.workflow import Evaluate, Options, Step, Train, Workflow

DEALT: Options = {
    "grpo.rewards": [("dealt:reward", 1.0), ("accuracy", 0.0)],
    "grpo.preflight": False,
}
RL = 80  # steps of reinforcement, about as long as 500 steps of fine-tuning


def measured(model: str, task: str = "countdown:1") -> Evaluate:
    return Evaluate(model, tasks=[task], samples=4, max_new=128)


def grpo(name: str, init: str | Path, steps: int = RL, more: Options | None = None) -> Train:
    """Reinforcement from an earlier step, or from a folder of another part."""
    options = {"grpo.tasks": COUNTDOWN, **GRPO, "train.steps": steps, **(more or {})}
    return start(Train("grpo", name=name, options=options), init)


def sft(name: str, init: str | Path, steps: int, more: Options | None = None) -> Train:
    """Fine-tuning from an earlier step, or from a folder of another part."""
    options = {"sft.tasks": COUNTDOWN, "train.steps": steps, **MUON, **(more or {})}
    return start(Train("sft", name=name, options=options), init)


def start(step: Train, init: str | Path) -> Train:
    if isinstance(init, Path):
        return replace(step, options={"init": str(init), **step.options})
    return replace(step, init=init)


def paid(language: float) -> Options:
    return {"grpo.rewards": [("accuracy", 1.0), ("format", 0.1), ("language", language)]}


def steps_of(part: str, folder: Path) -> list[Step]:
    """The steps of a part; `folder` has the folders of all parts of one seed."""
    base, reason = folder / "base" / "base", folder / "r1" / "reason"
    sums: Options = {"sft.tasks": ["addition:3"], "sft.attempts": 1.0}
    carrying: Options = {"grpo.tasks": ["addition:3"], "optimizer.learning_rate": 2e-4}
    parts: dict[str, list[Step]] = {
        "base": [Train("countdown", name="base"), measured("base")],
        "r1": [
            sft("cold", base, 300),
            measured("cold"),
            grpo("reason", "cold"),
            measured("reason"),
            sft("more", "cold", 500),
            measured("more"),
        ],
        "zero": [
            grpo("zero", base),
            measured("zero"),
            grpo("dealt", base, RL, DEALT),
            measured("dealt"),
        ],
        "addition": [
            Train(
                "countdown",
                name="forgetful",
                options={**sums, "data.sequence": 192, "train.steps": 600},
            ),
            measured("forgetful", task="addition:3"),
            grpo("carrying", "forgetful", 30, carrying),
            measured("carrying", task="addition:3"),
        ],
        "language": [
            sft("mixed", base, 200, {"sft.language": "mixed"}),
            grpo("with", "mixed", 25, paid(0.5)),
            grpo("without", "mixed", 25, paid(0.0)),
        ],
        "distill": [
            Train("countdown", name="little", options={**NARROW, "train.steps": 500}),
            measured("little"),
            Train(
                "distill",
                name="taught",
                init="little",
                options={
                    "distill.teacher": str(reason),
                    "distill.tasks": COUNTDOWN,
                    "train.steps": 250,
                    **MUON,
                },
            ),
            measured("taught"),
            grpo("alone", "little", 48),
            measured("alone"),
        ],
    }
    return parts[part]


PARTS = ("base", "r1", "zero", "addition", "language", "distill")
NEEDS = {"zero": "base", "r1": "base", "language": "base", "distill": "r1"}


def one(part: str, out: Path, seed: int) -> int:
    """A part, in this process."""
    from seekjax.commands.cli import run_command
    from seekjax.commands.status import exit_status
    from seekjax.commands.train import train_run

    folder = out / str(seed)
    workflow = Workflow(part, steps_of(part, folder))
    words = ["--out", str(folder / part), "--seed", str(seed)]
    commands = {"train.py": train_run, "seekjax": lambda words: run_command(words) == 0}
    return exit_status(lambda: run_workflow(part, workflow, words, commands))


def everything(out: Path, seeds: list[int], only: list[str]) -> None:
    """All parts, as many at a time as there are cores, each on one of them."""
    waiting = [(part, seed) for part in PARTS for seed in seeds if part in only]
    running, done, cores = {}, set(), sorted(os.sched_getaffinity(0))
    while waiting or running:
        for core in [
            core for core, (job, process) in running.items() if process.poll() is not None
        ]:
            job, process = running.pop(core)
            done.add(job)
            print(
                f"{time.strftime('%H:%M:%S')} {job[0]} of seed {job[1]}: "
                f"{'finished' if process.returncode == 0 else 'FAILED'}",
                flush=True,
            )
        for core in cores:
            ready = [
                job
                for job in waiting
                if NEEDS.get(job[0]) not in only or (NEEDS[job[0]], job[1]) in done
            ]
            if core in running or not ready:
                continue
            waiting.remove(job := ready[0])
            (out / str(job[1]) / job[0]).mkdir(
                parents=True, exist_ok=True
            )  # lines go through it to others
            log = (out / str(job[1]) / f"{job[0]}.log").open("w")
            command = [
                sys.executable,
                "-m",
                "tests.benchmarks.exhibits",
                "one",
                "--out",
                str(out),
                "--seeds",
                str(job[1]),
                "--only",
                job[0],
            ]
            running[core] = (
                job,
                subprocess.Popen(
                    command,
                    stdout=log,
                    stderr=log,
                    preexec_fn=lambda core=core: os.sched_setaffinity(0, {core}),
                ),
            )
        time.sleep(0.5)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["run", "show", "plan", "one"])
    parser.add_argument("--out", type=Path, default=Path("runs/exhibits"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    asked = parser.parse_args()
    if asked.what == "one":
        return one(asked.only[0], asked.out, asked.seeds[0])
    if asked.what == "run":
        everything(asked.out, asked.seeds, asked.only)
    elif asked.what == "plan":
        for part in asked.only:
            folder = asked.out / "0"
            lines = Workflow(part, steps_of(part, folder)).lines(folder / part, seed=0)
            for step, words in lines.items():
                print(f"{step:>16}  {command_of(words)}")
    else:
        from tests.benchmarks.exhibits_show import show

        show(asked.out, asked.seeds, asked.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
