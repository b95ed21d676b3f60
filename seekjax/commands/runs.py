"""`seekjax runs [FOLDER]`: the runs below a folder, from their files alone."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import tyro

from seekjax.commands.common import parse_options
from seekjax.errors import RunError, SeekjaxError, need
from seekjax.terminal import columns, print_lines
from seekjax.train.summary import Summary, run_folders, summarise


@dataclass(frozen=True)
class Runs:
    """List the runs below a folder: how far each came, and with which figures; newest last."""

    # where to look
    folder: Annotated[Path, tyro.conf.Positional] = Path("runs")
    # a list of objects instead of a table
    json: bool = False


def runs(argv: list[str]) -> None:
    """Run the command; a folder that cannot be read is named, and the others are listed."""
    options = parse_options(Runs, "runs", argv)
    root = options.folder.expanduser()
    need(root.is_dir(), f"there is no folder {root}: name one that holds runs.", RunError)
    summaries, broken = read_runs(root)

    if options.json:
        print(json.dumps(as_objects(summaries, broken), indent=1))
        return
    need(
        summaries or broken,
        f"there are no runs below {root}: python train.py begins one, or name another folder.",
        RunError,
    )
    print_lines(table_of(summaries, root) if summaries else [])
    print_lines([f"broken: {sentence}" for sentence in broken.values()])


def read_runs(root: Path) -> tuple[list[Summary], dict[Path, str]]:
    """Return the runs below a folder, the newest last, and a sentence on each that is broken."""
    summaries = []
    broken = {}
    for folder in run_folders(root):
        try:
            summaries.append(summarise(folder))
        except SeekjaxError as error:
            broken[folder] = str(error)
        except OSError as error:  # a folder that vanishes, or that another user owns
            broken[folder] = f"{folder} cannot be read: {error.strerror}."
    summaries.sort(key=lambda summary: summary.when)
    return summaries, broken


def table_of(summaries: Sequence[Summary], root: Path) -> list[str]:
    """Return the table; accuracy has a column if a run measures it."""
    accuracies = {summary.accuracy for summary in summaries}
    has_accuracy = accuracies != {None}
    header = ["run", "config", "state", "steps", "loss", "bits/byte", "when"]
    if has_accuracy:
        header.insert(-1, "accuracy")

    rows = []
    for summary in summaries:
        row = [
            name_below(summary.folder, root),
            summary.config,
            summary.state,
            "" if summary.state == "weights" else f"{summary.steps:,} of {summary.of_steps:,}",
            figure(summary.loss),
            figure(summary.bits_per_byte),
            datetime.fromtimestamp(summary.when).strftime("%Y-%m-%d %H:%M"),
        ]
        if has_accuracy:
            row.insert(-1, figure(summary.accuracy))
        rows.append(row)
    return columns(header, rows, left=3)


def name_below(folder: Path, root: Path) -> str:
    """Return the path of a run from the folder of the list, or its own name if that is it."""
    return folder.name if folder == root else str(folder.relative_to(root))


def figure(value: float | None) -> str:
    """Return a figure with three decimals; "" for None."""
    return "" if value is None else f"{value:.3f}"


def as_objects(summaries: Sequence[Summary], broken: dict[Path, str]) -> list[dict[str, Any]]:
    """Return the rows for JSON: times as ISO 8601, folders as text; broken ones with an error."""
    objects = []
    for summary in summaries:
        when = datetime.fromtimestamp(summary.when).astimezone().isoformat(timespec="seconds")
        objects.append({**asdict(summary), "folder": str(summary.folder), "when": when})
    for folder, sentence in broken.items():
        objects.append({"folder": str(folder), "state": "broken", "error": sentence})
    return objects
