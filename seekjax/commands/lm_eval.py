"""`seekjax eval MODEL --lm-eval TASK`: load lm-eval's tasks, run them, print and write figures."""

import os
import random
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seekjax.commands.replicas import add_replicas
from seekjax.commands.settings import Eval, Harness
from seekjax.console import progress
from seekjax.data.chat import load_chat
from seekjax.errors import DataError, UsageError, need
from seekjax.eval.report import report_path, write_report
from seekjax.extras import import_extra
from seekjax.generate.generator import Generator
from seekjax.open import need_tokenizer, open_model, weights_fingerprint
from seekjax.registry import did_you_mean

ROWS = 16  # texts at a time, by default
RESAMPLES = 1000  # of a metric whose standard error has no formula


def prepare(options: Harness) -> None:
    """Import lm-eval, which takes seconds.

    Raises UsageError if it is not installed, or if the folder of tasks does not exist.
    """
    folder = options.lm_eval_tasks
    need(
        folder is None or folder.is_dir(),
        f"there is no folder {folder}: name one with tasks in lm-eval's YAML.",
        UsageError,
    )
    # it would fork a process in which JAX's threads run, and draw bars of its own
    os.environ["DISABLE_MULTIPROC"] = "1"
    os.environ["TQDM_DISABLE"] = "1"
    import_extra("lm_eval.evaluator", "lm-eval", "--lm-eval", UsageError)


def report_harness(options: Eval) -> None:
    """Run lm-eval's tasks on a model; print a line for each, and write all figures.

    Raises UsageError for an unknown task, DataError for one whose data set cannot be loaded.
    """
    from seekjax.eval.harness import HarnessModel  # only where lm-eval is installed

    harness, questions = options.harness, options.questions
    names = tuple(filter(None, harness.lm_eval.split(",")))
    loaded = load_tasks(names, harness.lm_eval_tasks)

    # the model
    opened = open_model(options.folder, trust=options.trust, base=options.base)
    opened = add_replicas(opened, options.replicas)
    tokenizer = need_tokenizer(opened)
    chat = None
    if harness.as_chat:
        chat = load_chat(opened.folder, tokenizer, questions.template, questions.template_settings)
    generator = Generator(opened.model, opened.variables, opened.kernel, consume=True)
    opened = opened._replace(variables={})

    # its answers
    with progress(harness.lm_eval) as show:
        rows = options.batch or ROWS
        model = HarnessModel(generator, tokenizer, rows, chat, harness.bare, show)
        report: dict[str, Any] = {"lm_eval": run_tasks(model, loaded, harness)}
    if jax.process_index():
        return

    # the figures, and what they depend on
    for name, task in report["lm_eval"].items():
        print(f"{name}: {sentence(task)}")
    for name in ("limit", "few_shot", "as_chat", "bare"):
        report[name] = getattr(harness, name)
    report["template"] = questions.template
    report["template_settings"] = list(questions.template_settings)
    report["weights"] = weights_fingerprint(opened.folder)
    report["dtype"] = opened.kernel.dtype
    path = options.report or report_path(opened.folder, names)
    write_report(report, path)
    print(path)


def load_tasks(names: tuple[str, ...], folder: Path | None) -> dict[str, Any]:
    """Return what lm-eval loads for the names of tasks and groups: its own, and those in a folder.

    Raises UsageError with the nearest name, DataError if a data set cannot be loaded.
    """
    from lm_eval.tasks import TaskManager

    # lm-eval's own are thousands of files, which takes ten seconds
    path = str(folder) if folder else None
    manager = TaskManager(include_path=path, include_defaults=False)
    if not set(names) <= set(manager.all_tasks):
        manager = TaskManager(include_path=path)
    for name in names:
        need(
            name in manager.all_tasks,
            f"lm-eval has no task {name!r}{did_you_mean(name, manager.all_tasks)} "
            "--lm-eval-tasks names a folder with your own.",
            UsageError,
        )
    try:
        return manager.load(list(names))  # pyright: ignore[reportReturnType]
    except Exception as error:  # a data set is loaded by a program of its own
        kind = type(error).__name__
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"the data of {', '.join(names)} cannot be loaded ({kind}: {reason})."
        ) from error


def run_tasks(model: Any, loaded: dict[str, Any], options: Harness) -> dict[str, dict[str, Any]]:
    """Return the figures of each task and group, as `figures` does."""
    from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
    from lm_eval.evaluator import evaluate

    # examples and shuffled choices are those of lm-eval's own command
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    for task in loaded["tasks"].values():
        shots = task.get_config("num_fewshot")
        if options.few_shot is not None and shots != 0:
            shots = options.few_shot
        task.set_config(key="num_fewshot", value=shots or 0)
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)

    results = evaluate(
        lm=model,
        task_dict=loaded,  # pyright: ignore[reportArgumentType]
        limit=options.limit or None,
        bootstrap_iters=RESAMPLES,
        log_samples=False,
        apply_chat_template=options.as_chat,
        fewshot_as_multiturn=options.as_chat,
    )
    return figures(results)


def figures(results: Any) -> dict[str, dict[str, Any]]:
    """Return {task: {"samples", "few_shot", "version", "metrics"}}, of groups too.

    lm-eval names a metric with its filter, as "acc,none"; here a filter that does nothing has no
    name. "acc_stderr" is the standard error of "acc".
    """
    report: dict[str, dict[str, Any]] = {}
    for name, values in results["results"].items():
        metrics = {}
        for metric, value in values.items():
            if "," in metric and isinstance(value, (int, float)):
                metrics[metric.removesuffix(",none")] = value

        samples = results["n-samples"].get(name, {})
        report[name] = {
            "samples": samples.get("effective"),
            "few_shot": results["n-shot"].get(name) or 0,
            "version": results["versions"].get(name),
            "metrics": metrics,
        }
    return report


def sentence(task: dict[str, Any]) -> str:
    """Return a task's figures in words, with their standard errors."""
    words = []
    for metric, value in task["metrics"].items():
        kind, comma, filter_name = metric.partition(",")
        if kind.endswith("_stderr"):
            continue
        shown = f"{metric} {value:.4f}"
        error = task["metrics"].get(f"{kind}_stderr{comma}{filter_name}")
        if error is not None:
            shown += f" ± {error:.4f}"
        words.append(shown)

    count = ""
    if task["samples"]:
        count = f"{task['samples']:,} samples, "
    return f"{count}{task['few_shot']} shots: {', '.join(words)}"
