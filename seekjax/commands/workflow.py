"""Run the steps of a workflow; a step that is finished is not run again.

python train.py r1 --out runs/r1 --seed 0 --cold.train.steps 300
"""

import json
import shlex
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seekjax.commands.arguments import config_name, load_config, parse
from seekjax.commands.options import read_options
from seekjax.commands.renamed import current_flags, current_options
from seekjax.config import Config
from seekjax.errors import RunError, SeekjaxError, Status, need
from seekjax.lock import only_owner
from seekjax.post.rollout.statistics import sentence
from seekjax.storage import read_json, write_atomically
from seekjax.terminal import print_lines
from seekjax.workflow import Evaluate, Workflow

TRAIN = "train.py"  # the first word of a training's line; the other commands begin with seekjax

# Takes the words after train.py or seekjax; returns whether the command came to its end.
RunLine = Callable[[list[str]], bool]


@dataclass(frozen=True)
class WorkflowOptions:
    """Options of a whole workflow; --STEP.FIELD VALUE adds --FIELD VALUE to the line of a step."""

    # the folder of all steps
    out: Path
    # of all steps
    seed: int = 0
    # only show the lines
    plan: bool = False


def run_workflow(
    name: str, workflow: Workflow, argv: list[str], commands: Mapping[str, RunLine]
) -> int:
    """Run the steps that are not finished, and return the exit status.

    `commands` has the functions of the lines that begin with train.py and with seekjax. All
    training lines are parsed first, so that a mistake in the last step is reported before the first
    runs. Raises RunError if a finished step was made by a line of another meaning.
    """
    options, extra = _options_of(name, workflow, argv)
    lines = workflow.lines(options.out, options.seed)
    for step, words in extra.items():
        lines[step] += words
    check_lines(lines)
    if options.plan:
        print_plan(lines)
        return 0

    products = workflow.products(options.out)
    seconds = run_lines(lines, products, options.out, commands)
    if seconds is None:
        return Status.STOPPED
    print(
        f"== all {len(lines)} steps of {name} are finished: {options.out}; "
        f"{seconds / 60:.1f} minutes"
    )
    for report in _reports(workflow, products):
        print(report)
    return Status.FINISHED


def check_lines(lines: Mapping[str, list[str]]) -> None:
    """Read the options of all training lines, and raise UsageError for a wrong one."""
    for words in lines.values():
        if words[0] == TRAIN:
            parse(words[1:], TRAIN)


def run_lines(
    lines: Mapping[str, list[str]],
    products: Mapping[str, Path],
    out: Path,
    commands: Mapping[str, RunLine],
    failed: dict[str, str] | None = None,
) -> float | None:
    """Run the lines that are not finished; return the seconds of all of them.

    None if a signal stopped one of them. The sentence of a line that fails is put into `failed`,
    and the next line runs; without `failed`, its SeekjaxError ends everything.
    """
    _make(out)
    with only_owner(out):
        record = Record(out)
        finished = record.finished(lines, products)
        for number, (step, words) in enumerate(lines.items(), 1):
            note = ": finished before" if step in finished else ""
            print(f"== {step} ({number} of {len(lines)}){note}\n   {command_of(words)}", flush=True)
            if step in finished:
                continue
            try:
                ended = _run_step(step, words, record, commands)
            except SeekjaxError as error:
                if failed is None:
                    raise
                failed[step] = str(error)
                print_lines([f"failed: {error}"])
                continue
            if not ended:
                print(f"stopped in {step}; the same command continues from there.")
                return None
        return record.seconds(lines)


def command_of(words: list[str]) -> str:
    """Return the line of a step as a user types it."""
    return shlex.join(["python", *words] if words[0] == TRAIN else words)


def split_options(
    argv: list[str], steps: Collection[str]
) -> tuple[list[str], dict[str, list[str]]]:
    """Return the words for all steps, and those for single steps.

    --cold.train.steps 300 gives {"cold": ["--train.steps", "300"]}.
    """
    common: list[str] = []
    extra: dict[str, list[str]] = {}
    target = common
    for word in argv:
        if word.startswith("--"):
            step, dot, field = word[2:].partition(".")
            target = common
            if dot and step in steps:
                target = extra.setdefault(step, [])
                word = f"--{field}"
        target.append(word)
    return common, extra


class Record:
    """workflow.json: the lines that were begun, and how far each came.

    For each step the file has its line, whether it is finished, and the seconds of all its starts.
    Earlier versions called the file pipeline.json.
    """

    def __init__(self, out: Path):
        self.path = out / "workflow.json"
        source = self.path if self.path.exists() else out / "pipeline.json"
        self.steps: dict[str, dict[str, Any]] = {}
        if not source.exists():
            return
        self.steps = read_json(source, RunError)
        tables = isinstance(self.steps, dict) and all(map(_is_entry, self.steps.values()))
        need(
            tables,
            f"{source} is damaged: move it away; steps that are finished then start again and end "
            "at once.",
            RunError,
        )

    def finished(self, lines: Mapping[str, list[str]], products: Mapping[str, Path]) -> set[str]:
        """Return the finished steps whose product still exists.

        Raises RunError if the line of a finished step has another meaning than the recorded one, or
        reads the product of a step that will run again.
        """
        finished = {
            step
            for step in lines
            if self.steps.get(step, {}).get("finished") and products[step].exists()
        }
        remade = {str(products[step]) for step in lines if step not in finished}

        for step in sorted(finished):
            stale = sorted(remade & set(lines[step]))
            if stale:
                raise RunError(
                    f"step {step} of {self.path.parent} was made from {stale[0]}, which is to be "
                    f"made again: delete {products[step]} too."
                )
            old, new = self.steps[step]["line"], command_of(lines[step])
            if old != new and meaning(old) != meaning(new):
                raise RunError(
                    f"step {step} of {self.path.parent} was made by another line ({old}; now "
                    f"{new}): name another --out, or delete {products[step]} to make it again."
                )
        return finished

    def begin(self, step: str, words: list[str]) -> None:
        """Record that a step has begun; its seconds add to those of earlier starts."""
        before = self.steps.get(step, {})
        seconds = 0.0 if before.get("finished") else before.get("seconds", 0.0)
        self.steps[step] = {"line": command_of(words), "seconds": seconds, "finished": False}
        self._write()

    def end(self, step: str, seconds: float, finished: bool) -> None:
        """Record how long this start took, and whether the step came to its end."""
        entry = self.steps[step]
        entry["seconds"] = round(entry["seconds"] + seconds, 1)
        entry["finished"] = finished
        self._write()

    def seconds(self, steps: Collection[str]) -> float:
        """Return the seconds of these steps together."""
        seconds = [self.steps[step]["seconds"] for step in steps]
        return sum(seconds)

    def _write(self) -> None:
        try:
            write_atomically(self.path, json.dumps(self.steps, indent=1) + "\n")
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error.strerror}.") from error


def _is_entry(value: object) -> bool:
    """Return whether this is what the record holds of a step."""
    if not isinstance(value, dict):
        return False
    kinds = {"line": str, "seconds": int | float, "finished": bool}
    for key, kind in kinds.items():
        if not isinstance(value.get(key), kind):
            return False
    try:
        shlex.split(value["line"])
    except ValueError:  # a quotation without an end
        return False
    return True


def meaning(line: str) -> tuple[list[str], dict[str, list[str | float]]]:
    """Return what a line does, whichever order and version its options have.

    That is its words before the first option, and the values of each option; the last one of an
    option counts, as on the command line.
    """
    words = shlex.split(line)
    if words[:2] == ["python", TRAIN]:
        words = [TRAIN, *_current_line(words[2:])]
    else:
        words, _ = current_flags(words, {"--keep"})

    positional: list[str] = []
    values: dict[str, list[str | float]] = {}
    target: list[Any] = positional
    for word in words:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            target = values[option] = [_number_or_word(value)] if equals else []
        else:
            target.append(_number_or_word(word) if target is not positional else word)
    return positional, values


def _current_line(words: list[str]) -> list[str]:
    """Return a training line with the options' names of today, as far as they can be read."""
    name = config_name(words)
    try:
        config = load_config(name)
        assert isinstance(config, Config)
        options, _ = current_options(words[1:], config, name)
    except (SeekjaxError, AssertionError):
        return words
    return [name, *options]


def _number_or_word(word: str) -> str | float:
    """Return a number for the words of one, so that 3e-3 equals 0.003."""
    try:
        return float(word)
    except ValueError:
        return word


def _options_of(
    name: str, workflow: Workflow, argv: list[str]
) -> tuple[WorkflowOptions, dict[str, list[str]]]:
    """Return the options of all steps, and the additional words of single steps."""
    steps = [step.name for step in workflow.steps]
    common, extra = split_options(argv, steps)
    common, _ = current_flags(common, {"--plan"})
    options = read_options(
        WorkflowOptions,
        common,
        f"train.py {name}",
        default=WorkflowOptions(Path("runs") / Path(name).stem),
        description=f"{workflow.about or ''}\nSteps: {', '.join(steps)}.",
    )
    return replace(options, out=options.out.expanduser()), extra


def print_plan(lines: Mapping[str, list[str]]) -> None:
    """Print the line of each step."""
    width = max(len(step) for step in lines)
    for step, words in lines.items():
        print(f"{step:>{width}}  {command_of(words)}")


def _make(folder: Path) -> None:
    """Make the folder of a workflow. Raises RunError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"cannot write the folder {folder}: {error.strerror}. Name another with --out."
        ) from error


def _run_step(step: str, words: list[str], record: Record, commands: Mapping[str, RunLine]) -> bool:
    """Run one line, record its time, and return whether it came to its end."""
    finished = False
    began = time.perf_counter()
    record.begin(step, words)
    try:
        finished = commands[words[0]](words[1:])
    except KeyboardInterrupt:
        # training meets it after a step and returns False; the other commands end at once
        pass
    finally:
        record.end(step, time.perf_counter() - began, finished)
    return finished


def _figures(file: Path) -> str:
    """Return the tasks of an evaluation and its figures. Raises RunError if the file has none."""
    figures = read_json(file, RunError)
    try:
        return f"{', '.join(figures['task'])}: {sentence(figures)}"
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{file} holds no figures: delete it, and they are measured again."
        ) from error


def _reports(workflow: Workflow, products: Mapping[str, Path]) -> list[str]:
    """Return a line for each evaluation: the model, the tasks and their figures."""
    lines = []
    for step in workflow.steps:
        if isinstance(step, Evaluate):
            lines.append(f"{step.model:>12}  {_figures(products[step.name])}")
    return lines
