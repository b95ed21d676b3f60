"""`seekjax eval MODEL --task NAME`: pass@1, pass@k and cons@k on held-out problems."""

import json
import re
from pathlib import Path
from typing import Any

import jax

from seekjax.config.generation import EvalConfig
from seekjax.console import progress
from seekjax.errors import DataError
from seekjax.eval.evaluator import Evaluator
from seekjax.open import OpenedModel, weights_fingerprint
from seekjax.post.rollout.grader import GradedSample
from seekjax.post.rollout.statistics import figures, sentence
from seekjax.storage import write_atomically
from seekjax.tasks import Problem
from seekjax.tasks.countdown import floor

# pass@k of random valid answers, the baseline of a result
FLOORS = {"countdown": floor}


def evaluate_tasks(
    opened: OpenedModel, settings: EvalConfig, rows: int | None
) -> tuple[dict[str, Any], float]:
    """Return what the report holds of a model, and the tokens per second.

    Only the first process has the figures. Raises DataError if no answer could be graded.
    """
    evaluator = Evaluator(opened, settings, held_out=True, rows=rows)
    groups: list[list[GradedSample]] = []
    with progress(", ".join(settings.task)) as show:
        for batch in evaluator:
            groups += batch
            show(len(groups) / len(evaluator.problems), f"{len(groups):,} problems")

    report: dict[str, Any] = {"task": list(settings.task), "side": "held out"}
    if jax.process_index() == 0:
        report |= figures(groups, evaluator.grader.think_in_prompt)
        if not report["problems"]:
            raise DataError(f"the verifier failed on every problem: {first_error(groups)}.")

    if len(evaluator.problems) < settings.problems:
        report["wanted"] = settings.problems
    random_answers = random_floor(evaluator.problems, settings.samples)
    if random_answers:
        report["floor"] = random_answers

    # what the figures depend on
    for name in ("temperature", "top_k", "top_p"):
        report[name] = getattr(settings, name)
    report["max_new"] = evaluator.max_new
    report["template"] = settings.template
    report["template_settings"] = list(settings.template_settings)
    report["seed"] = settings.seed
    report["weights"] = weights_fingerprint(opened.folder)
    report["dtype"] = opened.kernel.dtype
    return report, evaluator.rate


def first_error(groups: list[list[GradedSample]]) -> str:
    """Return the message of the first answer that could not be graded."""
    for group in groups:
        for answer in group:
            if answer.error:
                return answer.error
    return ""


def random_floor(problems: list[Problem], samples: int) -> dict[str, float]:
    """Return pass@1 and pass@k of random valid answers; {} unless all tasks define them."""
    of_task: dict[str, list[Problem]] = {}
    for problem in problems:
        of_task.setdefault(problem.task, []).append(problem)
    if not of_task.keys() <= FLOORS.keys():
        return {}

    result = {}
    for k in sorted({1, samples}):
        total = 0.0
        for task, group in of_task.items():
            total += FLOORS[task](group, k) * len(group)
        result[f"pass@{k}"] = round(total / len(problems), 6)
    return result


def report_path(folder: Path, task: tuple[str, ...]) -> Path:
    """Return the default file of a report, such as eval-countdown-1.json."""
    name = re.sub(r"[^A-Za-z0-9._+-]", "-", "+".join(task))
    return folder / f"eval-{name}.json"


def print_and_write(
    settings: EvalConfig,
    report: dict[str, Any],
    rate: float,
    path: Path,
) -> None:
    """Print the report's line and write the report atomically, in the first process.

    Raises DataError if the file cannot be written.
    """
    if jax.process_index():
        return

    fewer = ""
    if "wanted" in report:
        fewer = f" (there are fewer than {report['wanted']} distinct ones)"
    speed = f"; {rate:,.0f} tokens/s" if rate else ""
    print(
        f"{', '.join(settings.task)}: {report['problems']} held-out problems{fewer} x "
        f"{report['samples']}: {sentence(report)}{speed}; {path}"
    )
    write_report(report, path)


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write a report atomically. Raises DataError if the file cannot be written."""
    try:
        write_atomically(path, json.dumps(report, indent=1) + "\n")
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror}): name another file with --report."
        ) from error
