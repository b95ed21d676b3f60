"""`seekjax eval MODEL --task NAME`: pass@1, pass@k and cons@k on held-out problems."""

import json
import re
from pathlib import Path
from typing import Any

import jax

from seekjax.data import DataError
from seekjax.eval.evaluator import EvalConfig, Evaluator
from seekjax.open import OpenedModel, weights_fingerprint
from seekjax.post.rollout.statistics import figures, sentence
from seekjax.storage import write_atomically
from seekjax.tasks import Problem
from seekjax.tasks.countdown import floor

FLOORS = {
    "countdown": floor
}  # pass@k of random valid answers: what a result is to be reported above


def examined(
    opened: OpenedModel, asked: EvalConfig, rows: int | None
) -> tuple[dict[str, Any], float]:
    """What report.json holds of a model, and the tokens per second. Raises DataError where no
    answer could be judged.
    """
    exam = Evaluator(opened, asked, held_out=True, rows=rows)
    groups = [group for some in exam for group in some]
    post = exam.config.post
    seen = {
        "task": list(asked.task),
        "side": "held out",
        **(figures(groups, exam.judge.think_in_prompt) if jax.process_index() == 0 else {}),
    }
    if not seen.get("problems", 1):
        raise DataError(
            "the verifier failed on every problem: "
            f"{next(one.error for group in groups for one in group if one.error)}."
        )
    if len(exam.problems) < asked.problems:
        seen["wanted"] = asked.problems
    if found := random_floor(exam.problems, asked.samples):
        seen["floor"] = found
    settings = {
        name: getattr(post, name)
        for name in ("temperature", "top_k", "top_p", "max_new", "template")
    }
    return seen | settings | {
        "seed": asked.seed,
        "weights": weights_fingerprint(opened.folder),
        "dtype": opened.kernel.dtype,
    }, exam.rate


def random_floor(problems: list[Problem], samples: int) -> dict[str, float]:
    """pass@1 and pass@k of random valid answers, where every task knows it."""
    names = {problem.task for problem in problems}
    if not names <= FLOORS.keys():
        return {}
    sides = [
        (FLOORS[name], [problem for problem in problems if problem.task == name]) for name in names
    ]
    return {
        f"pass@{k}": round(
            sum(floor(some, k) * len(some) for floor, some in sides) / len(problems), 6
        )
        for k in sorted({1, samples})
    }


def report_path(folder: Path, task: tuple[str, ...]) -> Path:
    """eval-countdown-1.json."""
    return folder / f"eval-{re.sub(r'[^A-Za-z0-9._+-]', '-', '+'.join(task))}.json"


def tell(asked: EvalConfig, seen: dict[str, Any], rate: float, path: Path) -> None:
    """Print the report's line and write it, whole or not at all; the first process does."""
    if jax.process_index():
        return
    few = f" (there are no {seen['wanted']} that differ)" if "wanted" in seen else ""
    speed = f"; {rate:,.0f} tokens/s" if rate else ""
    print(
        f"{', '.join(asked.task)}: {seen['problems']} held-out problems{few} x "
        f"{seen['samples']}: {sentence(seen)}{speed}; {path}"
    )
    try:
        write_atomically(path, json.dumps(seen, indent=1) + "\n")
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror}): name another place with --report."
        ) from error
