"""The smoke test of reinforcement, from nothing, in a few minutes on one core: a base model
that has read sums by somebody who forgets every second carry learns to carry, because right answers
pay; where rewards are dealt out regardless of the answer it does not. A program of its own, because
the test suite compiles without optimising.

    python -m tests.scripts.smoke_addition FOLDER
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import jax

from configs.countdown import config as countdown
from configs.grpo import config as grpo
from seekjax.config import GrpoConfig, SftConfig
from seekjax.config.recipes import find_recipe
from seekjax.post.rl.grpo import Reinforcement
from seekjax.post.tune.sft import FineTuning
from seekjax.train import metrics
from seekjax.train.loop import fit

TASK, RISE = ("addition:2",), 0.2
SMALL = {"layers": 2, "embed": 64, "hidden": 128, "expert_hidden": 32}


def base(out: Path) -> Path:
    fit(
        replace(
            countdown,
            out=out,
            model=replace(countdown.model, **SMALL),
            data=replace(countdown.data, sequence=128),
            optimizer=replace(countdown.optimizer, warmup=20),
            train=replace(
                countdown.train, steps=300, batch=16, log_every=100, eval_every=300, save_every=300
            ),
            sft=SftConfig(tasks=TASK, template="v3", attempts=1.0),
        ),
        FineTuning,
    )
    return out


def accuracy(init: Path, out: Path, steps: int, **settings) -> float:
    """Return the accuracy on held-out problems at the end."""
    without_kl = replace(find_recipe("v3_2"), kl=0.0)
    fit(
        replace(
            grpo,
            init=init,
            out=out,
            data=replace(grpo.data, sequence=64),
            train=replace(grpo.train, steps=steps, log_every=5, eval_every=steps, save_every=steps),
            grpo=GrpoConfig(
                tasks=TASK, max_new=48, eval_problems=256, objective=without_kl, **settings
            ),
        ),
        Reinforcement,
    )
    return next(one["accuracy"] for one in metrics.read(out) if one["split"] == "held_out")


def main(folder: Path) -> None:
    # Both reinforcements are of the same programs, which the second finds here.
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))

    start = base(folder / "base")
    dealt = accuracy(
        start,
        folder / "dealt",
        10,
        rewards=(("tests.benchmarks.dealt:reward", 1.0), ("accuracy", 0.0)),
    )
    began = time.perf_counter()
    paid = accuracy(start, folder / "paid", 40)
    seconds = time.perf_counter() - began
    first, gap = (
        metrics.read(folder / "paid")[0]["accuracy"],
        max(one["gap"] for one in metrics.read(folder / "paid") if "gap" in one),
    )
    print(
        f"right on held-out sums: {paid:.1%} where right answers paid ({seconds:.0f} s), "
        f"{dealt:.1%} where rewards were dealt out; {first:.1%} of the first "
        f"rollout; sampler and trainer differ by {gap:.1e} at most"
    )
    assert paid >= first + RISE, f"reinforcement must raise accuracy by {RISE:.0%}"
    assert paid >= dealt + RISE, f"right answers must pay {RISE:.0%} more than rewards dealt out"
    assert dealt <= first + RISE / 2, "rewards that say nothing must not teach"
    assert gap < 1e-4, "the trainer must find every token as likely as the sampler did"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
