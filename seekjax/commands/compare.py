"""`seekjax compare RUN RUN ...`: settings that differ, curves in one picture, a final table."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from seekjax.commands.common import parse_options
from seekjax.errors import RunError, need
from seekjax.terminal import print_lines
from seekjax.train.comparison import draw_curves, groups_of, table_of
from seekjax.train.record import METRICS
from seekjax.train.summary import run_folders


@dataclass(frozen=True)
class Compare:
    """Compare runs. Those that differ only in the seed are one row: mean and standard deviation."""

    # their folders, or folders that hold runs
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    # the picture of their curves
    out: Path = Path("compare.png")


def compare(argv: list[str]) -> None:
    """Run the command; cli.exit_status prints the sentence of what it raises."""
    options = parse_options(Compare, "compare", argv)
    folders: dict[Path, None] = {}
    for folder in options.runs:
        folders.update(dict.fromkeys(runs_in(folder.expanduser())))
    need(
        len(folders) > 1,
        "compare needs two runs or more, or a folder that holds them: seekjax runs lists them.",
        RunError,
    )
    print_lines(comparison(list(folders), options.out.expanduser()))


def runs_in(folder: Path) -> list[Path]:
    """Return the runs that a folder is or holds; names what `runs/*` may match besides.

    Raises RunError if the folder does not exist.
    """
    need(folder.exists(), f"there is no run {folder}: seekjax runs lists those that are.", RunError)
    folders = [path for path in run_folders(folder) if (path / METRICS).exists()]
    if not folders:
        print(f"note: {folder} has no run with figures and is left out", file=sys.stderr)
    return folders


def comparison(folders: Sequence[Path], picture: Path) -> list[str]:
    """Return the lines of a comparison; the picture is drawn. Raises RunError."""
    groups = groups_of(folders)
    table = table_of(groups)
    return [*table, f"curves: {draw_curves(groups, picture)}"]
