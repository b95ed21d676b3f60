"""What one sees of reinforcement: the figures of a rollout, its texts in rollouts.jsonl, the
progress line, and the pictures."""

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from seekjax.post.plots import draw
from seekjax.post.rollout.grader import Judged
from seekjax.post.rollout.sampler import fetched
from seekjax.post.rollout.statistics import interval
from seekjax.train.metrics import keep_until
from seekjax.train.state import TrainState

if TYPE_CHECKING:
    from seekjax.post.rl.grpo import Reinforcement

KEPT = 4  # groups of each rollout that are written down


class Watch:
    """Looks on, and changes nothing."""

    def __init__(self, stage: "Reinforcement", folder: Path):
        self.stage, self.path, self.begun = stage, folder / "rollouts.jsonl", False

    def before(self, step: int, state: TrainState) -> None:
        """Once, before the first rollout of this start: forget what an interrupted one wrote beyond
        it."""
        if self.begun:
            return
        self.begun = True
        if jax.process_index() == 0:
            keep_until(self.path, step)

    def rollout(
        self,
        step: int,
        texts: dict[str, Any],
        judged: Sequence[Judged],
        advantage_B: np.ndarray,
        everything: tuple[Sequence[Judged], np.ndarray],
    ) -> dict[str, float]:
        """The figures of a rollout, to be reported with its updates; its first groups go to
        rollouts.jsonl. `everything` that was drawn, samples and advantages, tells how good the
        policy is: what is learnt from may have been chosen.
        """
        group = self.stage.config.post.group
        entropy_BS, mask_BT = fetched((texts["entropy"], texts["mask"]))
        figures = summary(everything[0]) | {
            "signal": float((everything[1].reshape(-1, group) != 0).any(1).mean()),
            "entropy": float(entropy_BS[:, 1:][mask_BT].mean()),
        }
        if jax.process_index() == 0:
            with self.path.open("a") as file:
                file.write(
                    json.dumps(
                        {
                            "step": step + 1,
                            "groups": [
                                written(judged[at : at + group], advantage_B[at : at + group])
                                for at in range(0, KEPT * group, group)
                                if at < len(judged)
                            ],
                        }
                    )
                    + "\n"
                )
        return figures

    def line(self, record: dict[str, Any]) -> str:
        """The progress line."""
        kl = f"  kl {record['kl']:.4f}" if "kl" in record else ""
        failed = f"  {record['failed']:.0f} REWARDS FAILED" if record.get("failed") else ""
        return (
            f"reward {record['reward']:.3f}  right {record['accuracy']:.1%}  form "
            f"{record['parsed']:.0%}  signal {record['signal']:.0%}  "
            f"length {record['length']:.0f}  entropy {record['entropy']:.2f}{kl}{failed}"
        )

    def held_out(self, judged: Sequence[Judged]) -> tuple[dict[str, float], str]:
        """Figures on held-out problems, and a sentence of them."""
        figures = summary(judged)
        whole = [one.parts.get("accuracy", 0.0) for one in judged if not math.isnan(one.reward)]
        low, high = interval(whole, len(whole)) if whole else (0.0, 1.0)
        return (
            figures | {"accuracy_low": low, "accuracy_high": high},
            f"{figures['accuracy']:.1%} right ({low:.1%} to {high:.1%}, {len(whole)} "
            f"problems), form {figures['parsed']:.0%}, length {figures['length']:.1f}",
        )

    def finish(self, state: TrainState, folder: Path) -> list[str]:
        """The closing lines; draws the pictures."""
        pictures = (
            [f"pictures: {', '.join(map(str, draw(folder)))}"] if jax.process_index() == 0 else []
        )
        tasks = self.stage.config.post.tasks
        return [
            *pictures,
            f"checkpoint: {folder / 'checkpoints' / str(int(state.step))}",
            "next: read what it wrote with " + shlex.join(["seekjax", "rollouts", str(folder)]),
            "  or measure it with "
            + shlex.join(["seekjax", "eval", str(folder), "--task", *tasks]),
        ]


def summary(judged: Sequence[Judged]) -> dict[str, float]:
    """Means over samples, of rewards over those that have one: reward, its parts, accuracy, parsed,
    length, truncated; and how many failed."""
    whole = [one for one in judged if not math.isnan(one.reward)]
    parts = {
        name: float(np.mean([one.parts[name] for one in whole]))
        for name in (whole[0].parts if whole else ())
    }
    return {
        "reward": float(np.mean([one.reward for one in whole])),
        **{
            f"reward/{name}": value
            for name, value in parts.items()
            if name not in ("accuracy", "format")
        },
        "accuracy": parts.get("accuracy", 0.0),
        "parsed": parts.get("format", 0.0),
        "length": float(np.mean([one.tokens for one in judged])),
        "truncated": float(np.mean([one.truncated for one in judged])),
        "failed": float(len(judged) - len(whole)),
    }


def written(judged: Sequence[Judged], advantage_G: np.ndarray) -> dict[str, Any]:
    """A group as rollouts.jsonl has it."""
    return {
        "task": judged[0].problem.task,
        "level": judged[0].problem.level,
        "prompt": judged[0].problem.prompt,
        "samples": [
            {
                "text": one.text,
                "reward": None if math.isnan(one.reward) else one.reward,
                "parts": one.parts,
                "reason": one.reason,
                "advantage": round(float(advantage), 6),
                "tokens": one.tokens,
                "truncated": one.truncated,
                **({"error": one.error} if one.error else {}),
            }
            for one, advantage in zip(judged, advantage_G)
        ],
    }
