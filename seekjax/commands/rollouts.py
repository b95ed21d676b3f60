"""`seekjax rollouts RUN`: what a run of reinforcement wrote, and what it earned by it, coloured by
advantage.

A model may write anything, and a terminal obeys what it is sent: characters that do not stand for
themselves are shown by their number.
"""

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.text import Text

from seekjax.data import DataError

HIDDEN = {
    "Cc",
    "Cf",
    "Cs",
    "Co",
    "Cn",
    "Zl",
    "Zp",
}  # control, direction and joining, half and unassigned characters, other ends of line
INDENT = "      "


@dataclass(frozen=True)
class Rollouts:
    """What a run of reinforcement wrote: prompts, samples, rewards with their reasons, coloured by
    advantage."""

    folder: Annotated[
        Path, tyro.conf.Positional, tyro.conf.arg(name="run")
    ]  # the folder of a run of `python train.py grpo`
    step: int | None = None  # the step that the rollout was drawn for; default: the newest
    groups: int = 4  # problems shown at most


def rollouts(argv: list[str]) -> None:
    """The command; raises errors that cli.run turns into one sentence."""
    asked = tyro.cli(
        Rollouts, prog="seekjax rollouts", args=argv, config=(tyro.conf.FlagConversionOff,)
    )
    path = asked.folder.expanduser() / "rollouts.jsonl"
    if not path.is_file():
        raise DataError(
            f"{path} is not there: name the folder of a run of reinforcement (python "
            "train.py grpo --out ...), which writes it with its first "
            "rollout."
        )
    steps, chosen = choose(path, asked.step)
    console = Console(highlight=False, soft_wrap=True)
    try:
        for piece in page(steps, chosen, asked.groups):
            console.print(piece)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"{path} holds something else than rollouts at step {chosen.get('step')} "
            f"({type(error).__name__}: {visible(str(error))[:80]})."
        ) from error


def choose(path: Path, step: int | None) -> tuple[list[int], dict[str, Any]]:
    """All steps of the file, and the rollout of one of them or the newest. Raises DataError. A last
    line still being written is left out."""
    steps, chosen, nearest = [], None, None
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
                steps.append(int(record["step"]))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise DataError(
                    f"{path} line {number} is no rollout ({type(error).__name__}): delete "
                    "that line."
                ) from error
            if step in (None, steps[-1]):
                chosen = record
    if not steps:
        raise DataError(f"{path} holds no rollout yet.")
    if chosen is None:
        nearest = min(steps, key=lambda one: abs(one - step))
        raise DataError(
            f"{path} has no rollout of step {step}: it has {ranges(steps)}, the nearest "
            f"being {nearest}."
        )
    return steps, chosen


def page(steps: list[int], record: dict[str, Any], groups: int) -> Iterator[Text]:
    """What is shown, line by line."""
    some = record["groups"][:groups]
    yield Text(
        f"step {record['step']}; {len(some)} of the {len(record['groups'])} groups kept; "
        f"rollouts of steps {ranges(steps)}",
        "bold",
    )
    for group in some:
        samples = sorted(group["samples"], key=lambda one: -one["advantage"])
        most = max([abs(one["advantage"]) for one in samples], default=0.0)
        right = sum(one["parts"].get("accuracy", 0.0) >= 1 for one in samples)
        yield Text()
        yield Text(
            f"{visible(group['task'])}:{group['level']}   {right} of {len(samples)} right"
            + ("" if most else "   no signal: all earn the same"),
            "bold cyan",
        )
        yield Text(indented(group["prompt"]), "bold")
        for one in samples:
            yield told(one, most)


def told(one: dict[str, Any], most: float) -> Text:
    """A sample: what it earned and why, then what it says."""
    style = colour(one["advantage"], most)
    reward = "REWARD FAILED" if one["reward"] is None else f"reward {one['reward']:.3g}"
    parts = ", ".join(f"{visible(name)} {value:.3g}" for name, value in one["parts"].items())
    text = Text(f"  {one['advantage']:+.3f}  ", f"{style} bold")
    text.append(f"{reward} ({parts}); {visible(one['reason'])}; {one['tokens']} tokens")
    if one["truncated"]:
        text.append(" CUT OFF", "bold yellow")
    return text.append(f"\n{indented(one['text'])}", style)


def colour(advantage: float, most: float) -> str:
    """Green for better than the group, red for worse, the stronger the further; dim where there is
    nothing to learn."""
    if not advantage or not most:
        return "dim"
    strong, faint = (
        round(140 + 100 * min(1.0, abs(advantage) / most)),
        round(140 - 80 * min(1.0, abs(advantage) / most)),
    )
    return f"rgb({faint},{strong},{faint})" if advantage > 0 else f"rgb({strong},{faint},{faint})"


def visible(text: str) -> str:
    """Text that a terminal shows and does not obey: what is hidden, or moves or hides other text,
    by its number as in Python, ends of line too."""
    return "".join(
        one if unicodedata.category(one) not in HIDDEN else ascii(one)[1:-1] for one in str(text)
    )


def indented(text: str) -> str:
    """Lines of a text, made visible, each further in."""
    return "\n".join(INDENT + visible(line) for line in str(text).split("\n"))


def ranges(steps: list[int]) -> str:
    """ "1 to 30, 34": runs of equally spaced steps together."""
    found: list[list[int]] = []
    for step in sorted(set(steps)):
        if found and (len(found[-1]) == 1 or step - found[-1][-1] == found[-1][1] - found[-1][0]):
            found[-1].append(step)
        else:
            found.append([step])
    return ", ".join(
        " and ".join(map(str, run))
        if len(run) < 3
        else f"{run[0]} to {run[-1]}" + (f" by {run[1] - run[0]}" if run[1] - run[0] > 1 else "")
        for run in found
    )
