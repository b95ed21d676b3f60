"""`seekjax plot RUN`: the pictures of a run, while it goes on or after it was stopped."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from seekjax.commands.common import parse_options
from seekjax.errors import RunError, need
from seekjax.post.pictures import draw_pictures


@dataclass(frozen=True)
class Plot:
    """Draw the pictures of a run from the figures that it has written so far."""

    # the folder of a run
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="run")]


def plot(argv: list[str]) -> None:
    """Run the command; cli.exit_status prints the sentence of what it raises."""
    folder = parse_options(Plot, "plot", argv).folder.expanduser()
    paths = draw_pictures(folder)
    need(paths, f"{folder} has no figures yet: train.py writes them as it goes on.", RunError)
    for path in paths:
        print(path)
