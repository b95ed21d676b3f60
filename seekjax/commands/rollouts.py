"""`seekjax rollouts RUN`: the samples of a reinforcement-learning run and their rewards, coloured
by advantage.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.text import Text

from seekjax.commands.common import parse_options
from seekjax.console import console
from seekjax.data import DataError
from seekjax.errors import need
from seekjax.terminal import visible

INDENT = "      "


@dataclass(frozen=True)
class Rollouts:
    """Show the rollouts of a reinforcement-learning run: prompts, samples, rewards and their
    reasons, coloured by advantage.
    """

    # the folder of a run of `python train.py grpo`
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run")]
    step: int | None = None  # the step that the rollout was drawn for; default: the newest
    groups: int = 4  # problems shown at most


def rollouts(argv: list[str]) -> None:
    """Run the command; cli.exit_status prints the sentence of what it raises."""
    options = parse_options(Rollouts, "rollouts", argv)
    path = options.folder.expanduser() / "rollouts.jsonl"
    need(
        path.is_file(),
        f"{path} does not exist: name the folder of a reinforcement-learning run (python train.py "
        "grpo --out ...), which writes it with its first rollout.",
        DataError,
    )
    steps, chosen = choose(path, options.step)

    screen = console()
    try:
        for paragraph in page(steps, chosen, options.groups):
            screen.print(paragraph)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {visible(str(error))[:80]}"
        raise DataError(
            f"{path} does not hold rollouts at step {chosen.get('step')} ({reason})."
        ) from error


def choose(path: Path, step: int | None) -> tuple[list[int], dict[str, Any]]:
    """Return all steps of the file, and the rollout of `step` or the newest.

    A last line that is still being written is left out. Raises DataError if a line is not a
    rollout, or if there is no rollout of this step.
    """
    steps: list[int] = []
    chosen: dict[str, Any] | None = None
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
                steps.append(int(record["step"]))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise DataError(
                    f"{path} line {number} is not a rollout ({type(error).__name__}): delete "
                    "that line."
                ) from error
            if step is None or step == steps[-1]:
                chosen = record

    if not steps:
        raise DataError(f"{path} holds no rollout yet.")
    if chosen is None:
        nearest = min(steps, key=lambda other: abs(other - (step or 0)))
        raise DataError(
            f"{path} has no rollout of step {step}: it has {ranges(steps)}, the nearest "
            f"being {nearest}."
        )
    return steps, chosen


def page(steps: list[int], record: dict[str, Any], groups: int) -> Iterator[Text]:
    """Yield what is shown of a rollout, paragraph by paragraph."""
    shown = record["groups"][:groups]
    yield Text(
        f"step {record['step']}; {len(shown)} of the {len(record['groups'])} groups kept; "
        f"rollouts of steps {ranges(steps)}",
        "bold",
    )
    for group in shown:
        samples = sorted(group["samples"], key=lambda sample: -sample["advantage"])
        largest = max((abs(sample["advantage"]) for sample in samples), default=0.0)

        yield Text()
        yield group_heading(group, samples, largest)
        yield Text(indented(group["prompt"]), "bold")
        for sample in samples:
            yield sample_text(sample, largest)


def group_heading(group: dict[str, Any], samples: list[dict[str, Any]], largest: float) -> Text:
    """Return the problem's task and level, and how many of its samples are right."""
    right = 0
    for sample in samples:
        right += sample["parts"].get("accuracy", 0.0) >= 1

    heading = f"{visible(group['task'])}:{group['level']}   {right} of {len(samples)} right"
    if not largest:
        heading += "   no signal: all have the same reward"
    return Text(heading, "bold cyan")


def sample_text(sample: dict[str, Any], largest: float) -> Text:
    """Return a sample's reward and the reasons for it, then its text.

    largest: the largest absolute advantage of its group.
    """
    style = colour(sample["advantage"], largest)

    reward = "REWARD FAILED"
    if sample["reward"] is not None:
        reward = f"reward {sample['reward']:.3g}"
    parts = ", ".join(f"{visible(name)} {value:.3g}" for name, value in sample["parts"].items())
    reason = visible(sample["reason"])

    text = Text(f"  {sample['advantage']:+.3f}  ", f"{style} bold")
    text.append(f"{reward} ({parts}); {reason}; {sample['tokens']} tokens")
    if sample["truncated"]:
        text.append(" CUT OFF", "bold yellow")
    return text.append(f"\n{indented(sample['text'])}", style)


def colour(advantage: float, largest: float) -> str:
    """Return green for a positive advantage and red for a negative one, dim for none.

    The colour is the stronger the closer the advantage is to the group's `largest`.
    """
    if not advantage or not largest:
        return "dim"
    strength = min(1.0, abs(advantage) / largest)
    strong = round(140 + 100 * strength)
    faint = round(140 - 80 * strength)
    if advantage > 0:
        return f"rgb({faint},{strong},{faint})"
    return f"rgb({strong},{faint},{faint})"


def indented(text: str) -> str:
    """Return the lines of a text, made visible and indented."""
    return "\n".join(INDENT + visible(line) for line in str(text).split("\n"))


def ranges(steps: list[int]) -> str:
    """Return "1 to 30, 34": equally spaced steps become one range."""
    runs: list[list[int]] = []
    for step in sorted(set(steps)):
        if runs and _continues(runs[-1], step):
            runs[-1].append(step)
        else:
            runs.append([step])
    return ", ".join(map(_range, runs))


def _continues(run: list[int], step: int) -> bool:
    """Return whether a step has the distance of the run's steps to the last of them."""
    return len(run) == 1 or step - run[-1] == run[1] - run[0]


def _range(run: list[int]) -> str:
    """One run of steps in words."""
    if len(run) < 3:
        return " and ".join(map(str, run))
    spacing = run[1] - run[0]
    by = f" by {spacing}" if spacing > 1 else ""
    return f"{run[0]} to {run[-1]}{by}"
