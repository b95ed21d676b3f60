"""Draw command lines from the config's own fields, and read each as a run would before it compiles.

    python -m tests.scripts.fuzz_options --draws 5000 --report tests/benchmarks/results/options.md

A line may hold anything that a user types: extremes, nan, nothing, unicode, thousands of digits, an
option twice, an option that does not exist. It must end with status 0, or with 2 and a sentence,
within a bound of time, and never with a traceback.
"""

import argparse
import contextlib
import importlib
import io
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from seekjax.commands.arguments import config_names, load_config, parse
from seekjax.commands.renamed import negated, option_of
from seekjax.commands.status import exit_status
from seekjax.config import Config, Objective, Schedule
from seekjax.config.fields import leaves
from seekjax.config.ranges import Range
from seekjax.config.run import POST_KINDS
from seekjax.config.values import field_types
from seekjax.placement import use_mesh
from seekjax.post.kinds import training_of
from seekjax.post.names import check_names
from seekjax.train.lora import make_spec
from seekjax.train.schedule import stairs
from seekjax.train.validate import validate
from sharding.mesh import abstract_mesh

SECONDS = 5.0  # that a line may take, and more only for a model that was not traced before
INTEGERS = (0, 1, -1, 2, 3, 7, 8, 16, 64, 100, 4096, 2**24, 2**31 - 1, 2**31, 2**63, -(2**63))
SIZES = (1, 2, 4, 6, 8, 12, 16, 32, 48, 64, 96, 128, 256)
NUMBERS = ("0", "1", "-1", "0.5", "1e-3", "1e-46", "1e300", "-0.0", "nan", "inf", "-inf", "1e9")
WORDS = (
    "", " ", "None", "x", "-", "--", "-1", "é", "中文", "\U0001f600", "\u202e", "\x1b[2J", "\udce9",
    "a b", "a:b", "os:path", "no_such:thing", ":", "1_0", "٣", "0x10", "True", "1e3", "1e400",
    "x" * 10_000, "9" * 10_000, "../../etc/passwd", "~", "~nobody/x", "/dev/null", "/proc/self/mem",
    "countdown", "countdown:1", "countdown:99", "gym:", "jsonl:", "jsonl:/nowhere", "mla", "mha",
    "auto", "adamw", "muon", "softmax", "static", "few", "accuracy", "length", "dapo", "r1", "byte",
)  # fmt: skip
PIECES = (
    "1:1",
    "0.5:1",
    "1:0:cosine",
    "0.3:1:linear",
    "nan:1",
    "1:nan",
    "-1:1",
    "2:1",
    "1:-1",
    "1:",
)


@dataclass
class Figures:
    """What a number of draws gave."""

    draws: int = 0
    accepted: int = 0
    slowest: float = 0.0
    slowest_line: list[str] = field(default_factory=list)
    seconds: float = 0.0
    traced: int = 0
    sentences: dict[str, int] = field(default_factory=dict)
    faults: list[tuple[list[str], str]] = field(default_factory=list)


def options_of(config: Config) -> dict[str, Any]:
    """Return the type of every option of a config, by the option's name."""
    grpo = config.grpo
    if grpo is not None and grpo.objective is None:
        config = replace(config, grpo=replace(grpo, objective=Objective()))
    return {option_of(path): type_of(config, path) for path, _ in leaves(config)}


def type_of(config: Config, path: str) -> Any:
    """Return the type of the field at a path, with its range."""
    *parts, name = path.split(".")
    part: Any = config
    for step in parts:
        part = getattr(part, step)
    return field_types(type(part))[name]


def draw_line(rng: random.Random, options: dict[str, dict[str, Any]]) -> list[str]:
    """Return a command line: a config, and up to four options of it."""
    name = rng.choice([*options, "tiny"])
    words = [rng.choice(WORDS) if rng.random() < 0.05 else name]
    if name in POST_KINDS and rng.random() < 0.8:
        words += ["--init", "."]
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 4))):
        option, hint = rng.choice([*options[name].items()])
        values = draw_values(rng, hint)
        if rng.random() < 0.1:
            option = draw_wrong_option(rng, option)
        if rng.random() < 0.2:
            option = option.replace("-", "_").replace("__", "--", 1)
        if len(values) == 1 and rng.random() < 0.3:
            words.append(f"{option}={values[0]}")
        else:
            words += [option, *values]
    return words


def draw_wrong_option(rng: random.Random, option: str) -> str:
    """Return an option that is mistyped, was renamed, is of another kind, or is negated."""
    place = rng.randrange(2, len(option))
    return rng.choice(
        (
            option[:place] + option[place + 1 :],
            "--post." + option.rpartition(".")[2],
            "--grpo.kl",
            "--distill.group",
            negated(option),
            option.upper(),
            option + ".x",
            "--é",
            "---",
        )
    )


def draw_values(rng: random.Random, hint: Any) -> list[str]:
    """Return the words of one value, most often of the type that the field has."""
    if rng.random() < 0.15:
        return [rng.choice(WORDS) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
    if hint == Schedule:
        return [rng.choice(PIECES) for _ in range(rng.randrange(4))]
    edges: tuple[float, ...] = ()
    while hasattr(hint, "__metadata__"):
        edges += edges_of(hint)
        hint = hint.__origin__

    if get_origin(hint) is Literal:
        return [rng.choice(get_args(hint))]
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        repeats = 1
        if kinds[-1] is Ellipsis:
            kinds, repeats = kinds[:1], rng.randrange(4)
        return [word for kind in kinds * repeats for word in draw_values(rng, kind)]
    if hint is bool:
        return rng.choice(([], [], ["True"], ["false"], ["yes"]))
    if hint is int:
        return [str(rng.choice((*edges, *INTEGERS, *SIZES)))]
    if hint is float:
        return [rng.choice((*map(str, edges), *NUMBERS, str(rng.random()), str(rng.randrange(9))))]
    return [rng.choice(WORDS)]


def edges_of(hint: Any) -> tuple[float, ...]:
    """Return the ends of a field's range, and their neighbours within and outside."""
    edges: list[float] = []
    for mark in hint.__metadata__:
        if isinstance(mark, Range):
            step = 1 if isinstance(mark.least, int) and isinstance(mark.most, int) else 1e-3
            edges += [mark.least - step, mark.least, mark.least + step]
            edges += [mark.most - step, mark.most, mark.most + step]
    return tuple(edges)


class DryRun:
    """What a run does before it compiles: names, numbers, the mesh, and the shapes of its arrays.

    Shapes are traced once for each model, for at most `models` of them.
    """

    def __init__(self, models: int):
        self.models = models
        self.traced: set[Config] = set()

    def __call__(self, words: list[str]) -> None:
        """Raise a SeekjaxError as the run would."""
        config = parse(words, "train.py")
        check_names(config)
        mesh_of = partial(abstract_mesh, devices=8)
        validate(config, mesh_of)
        check = getattr(importlib.import_module(training_of(config).__module__), "check", None)
        if check is not None:
            check(config)

        stairs(config.train)
        plain = Config(config.model, kernel=config.kernel, optimizer=config.optimizer)
        traced = replace(plain, lora=config.lora, mesh=config.mesh)
        if traced not in self.traced and len(self.traced) < self.models:
            self.traced.add(traced)
            with use_mesh(mesh_of(config.mesh)):
                make_spec(config).abstract_state()


def try_line(run: Callable[[list[str]], None], words: list[str]) -> tuple[int, float, str]:
    """Return the exit status of a line, its seconds, and what it printed."""
    out = io.StringIO()
    began = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            status = exit_status(lambda: run(words))
        except SystemExit as exit:
            status = exit.code if isinstance(exit.code, int) else 1
    return status, time.process_time() - began, out.getvalue()


def fuzz(draws: int, seed: int, models: int) -> Figures:
    """Return the figures of a number of draws; shapes are traced of at most `models` models."""
    rng = random.Random(seed)
    loaded = {name: load_config(name) for name in config_names()}
    options = {name: options_of(c) for name, c in loaded.items() if isinstance(c, Config)}
    run = DryRun(models)
    figures = Figures(draws)

    for _ in range(draws):
        words = draw_line(rng, options)
        before = len(run.traced)
        status, seconds, printed = try_line(run, words)
        figures.accepted += status == 0
        figures.seconds += seconds
        if seconds > figures.slowest:
            figures.slowest, figures.slowest_line = seconds, words

        complaint = fault_of(status, seconds, printed, traced=len(run.traced) > before)
        if complaint:
            figures.faults.append((words, complaint))
        if status == 2:
            sentence = printed.strip().splitlines()[-1] if "error:" in printed else printed.strip()
            figures.sentences[sentence] = figures.sentences.get(sentence, 0) + 1
    figures.traced = len(run.traced)
    return figures


def fault_of(status: int, seconds: float, printed: str, traced: bool) -> str:
    """Return what is wrong with how a line ended, or ""."""
    if status not in (0, 2):
        return f"status {status}: {printed}"
    if "Traceback" in printed:
        return f"traceback: {printed}"
    if status == 2 and not printed.strip():
        return "nothing is said"
    if seconds > SECONDS * (3 if traced else 1):
        return f"{seconds:.1f} s"
    if "error: " in printed and not printed.rstrip().endswith((".", "?")):
        return f"no sentence: {printed}"
    return ""


def report(figures: Figures) -> str:
    """Return the figures as a page."""
    refused = figures.draws - figures.accepted - len(figures.faults)
    mean = figures.seconds / figures.draws
    return f"""# Command lines drawn from the config's fields

    python -m tests.scripts.fuzz_options --draws {figures.draws} --models {figures.traced}

| | |
|---|---|
| lines drawn | {figures.draws:,} |
| accepted, as a run that could begin | {figures.accepted:,} |
| refused with a sentence and status 2 | {refused:,} |
| tracebacks, other statuses, or over {SECONDS:g} s | {len(figures.faults)} |
| different sentences | {len(figures.sentences):,} |
| models whose shapes were traced | {figures.traced:,} |
| CPU time of a line, mean and longest | {mean * 1000:.0f} ms, {figures.slowest:.1f} s |
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", type=int, default=10**9)
    parser.add_argument("--sentences", type=Path, help="a file for all sentences")
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()

    figures = fuzz(options.draws, options.seed, options.models)
    for words, complaint in figures.faults[:50]:
        print([word[:80] for word in words], "\n   ", complaint[:1500])
    if options.sentences:
        lines = [f"{count} {text}" for text, count in sorted(figures.sentences.items())]
        options.sentences.write_text("\n".join(lines), errors="backslashreplace")
    page = report(figures)
    print(page, "slowest:", [word[:80] for word in figures.slowest_line])
    if options.report:
        options.report.write_text(page)


if __name__ == "__main__":
    main()
