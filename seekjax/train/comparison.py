"""Runs next to each other: the settings in which they differ, their figures, their curves.

Runs that differ only in the seed are one group, with the mean and the spread of its figures.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from seekjax.checkpoint.config_json import read_config, to_json
from seekjax.config import Config
from seekjax.errors import RunError, need
from seekjax.terminal import columns, duration
from seekjax.train.plots import Record, column, legend_beside, save, select
from seekjax.train.record import read
from seekjax.train.schedule import tokens_at

SEED = "train.seed"
# Settings in which all runs may differ: their names, and who else gets the figures.
NAMES = ("name", "out", "tensorboard", "wandb")

# The columns of figures: title, split and name of the figure.
FIGURES = (
    ("loss", "train", "loss"),
    ("bits/byte", "held_out", "bits_per_byte"),
    ("accuracy", "held_out", "accuracy"),
    ("margin", "held_out", "margin"),
    ("reward", "held_out", "reward"),
)
# The panels of the picture, in the same form.
CURVES = (
    ("training loss (nats per token)", "train", "loss"),
    ("held out: bits per byte", "held_out", "bits_per_byte"),
    ("held out: accuracy", "held_out", "accuracy"),
    ("held out: reward", "held_out", "reward"),
)
LAST = 0.1  # share of the training reports whose mean is the final loss
MOST_COLUMNS = 4  # settings that differ and still are columns of the table of figures

NOTE = (
    "loss: of training, mean of the last tenth of the reports; all else: held out, at the end; "
    "±: standard deviation over n seeds"
)


@dataclass(frozen=True)
class Run:
    """A run that is compared."""

    folder: Path
    config: Config
    records: list[Record]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Its settings by their path, such as train.steps, without its names."""
        flat = _flat(to_json(self.config))
        return {path: value for path, value in flat.items() if path not in NAMES}

    @property
    def steps(self) -> int:
        """Steps that it has reported."""
        return max([record["step"] for record in self.records], default=0)

    @property
    def is_reinforcement(self) -> bool:
        """Return whether the run draws its own data, which makes its loss and tokens its own."""
        return self.config.grpo is not None

    @property
    def tokens(self) -> int:
        """Tokens that it has seen; 0 for reinforcement, which draws its own."""
        return 0 if self.is_reinforcement else tokens_at(self.config, self.steps)

    def final(self, split: str, name: str) -> float | None:
        """Return a figure at the end of the run; None if it has none."""
        if split == "train" and self.is_reinforcement:
            return None
        values = column(select(self.records, split, name), name)
        if not values:
            return None
        count = max(1, round(LAST * len(values))) if split == "train" else 1
        return mean(values[-count:])


@dataclass(frozen=True)
class Group:
    """Runs that differ only in the seed."""

    label: str
    runs: tuple[Run, ...]

    def figure(self, split: str, name: str) -> str:
        """Return the mean of a figure at the end and its spread; "" if a run has none."""
        values = []
        for run in self.runs:
            value = run.final(split, name)
            if value is None:
                return ""
            values.append(value)
        spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
        return f"{mean(values):.3f}{spread}"

    def curve(self, split: str, name: str) -> tuple[list[int], list[list[float]]]:
        """Return the steps at which all runs report a figure, and each run's values there."""
        by_step = []
        for run in self.runs:
            records = select(run.records, split, name)
            by_step.append(dict(zip(column(records, "step"), column(records, name))))
        steps = sorted(set.intersection(*map(set, by_step)))
        values = [[figures[step] for step in steps] for figures in by_step]
        return steps, values


def read_run(folder: Path) -> Run:
    """Return a run. Raises RunError if its settings or figures cannot be read."""
    config = read_config(folder / "config.json", trust=True)  # nothing that it names is imported
    records = read(folder)
    need(records, f"{folder} has no figures: train.py writes them as it goes on.", RunError)
    return Run(folder, config, records)


def groups_of(folders: Sequence[Path]) -> list[Group]:
    """Return the groups, in the order of their first runs. Raises RunError."""
    runs: dict[str, list[Run]] = {}
    for folder in folders:
        run = read_run(folder)
        without_seed = {path: value for path, value in run.settings.items() if path != SEED}
        runs.setdefault(repr(sorted(without_seed.items())), []).append(run)

    names = _names(folders)
    groups = []
    for members in runs.values():
        label = _label([names[run.folder] for run in members])
        groups.append(Group(label, tuple(members)))
    return groups


def differing(groups: Sequence[Group]) -> list[str]:
    """Return the paths of the settings in which groups differ."""
    settings = [group.runs[0].settings for group in groups]
    paths: dict[str, None] = {}
    for one in settings:
        paths.update(dict.fromkeys(one))
    return [path for path in paths if path != SEED and _differs(path, settings)]


def table_of(groups: Sequence[Group]) -> list[str]:
    """Return the lines of the final table, after the settings that differ.

    Few such settings are columns of the table itself.
    """
    paths = differing(groups)
    lines = []
    if len(paths) > MOST_COLUMNS:
        labels = [group.label for group in groups]
        rows = [[path, *_values(path, groups)] for path in paths]
        lines = [*columns(["settings that differ", *labels], rows), ""]
        paths = []

    rows = [[group.label] for group in groups]
    header = ["run"]
    for title, cells in [*_setting_columns(paths, groups), *_figure_columns(groups)]:
        header.append(title)
        for row, cell in zip(rows, cells):
            row.append(cell)
    return [*lines, *columns(header, rows), NOTE]


def draw_curves(groups: Sequence[Group], path: Path) -> Path:
    """Write the curves of all groups over tokens into one picture, the legend next to them.

    Over steps if a group is reinforcement. The line of a group is the mean of its runs, and the
    band around it a standard deviation to each side. Raises RunError if there is nothing to draw or
    the file cannot be written.
    """
    panels = [panel for panel in CURVES if _is_drawn(panel, groups)]
    need(panels, "the runs have no curves in common to draw.", RunError)

    over_steps = any(group.runs[0].is_reinforcement for group in groups)
    height = 0.8 + 2.8 * len(panels)
    figure = Figure(figsize=(10, max(height, 1 + 0.25 * len(groups))), layout="constrained")
    axes: list[Axes] = figure.subplots(len(panels), squeeze=False, sharex=True)[:, 0].tolist()
    for axis, (title, split, name) in zip(axes, panels):
        for number, group in enumerate(groups):
            _draw_group(axis, group, split, name, number, over_steps)
        axis.set(ylabel=title)
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes[-1].set(xlabel="step" if over_steps else "tokens")

    legend_beside(figure, axes)
    return save(figure, path)


def _draw_group(
    axis: Axes, group: Group, split: str, name: str, number: int, over_steps: bool
) -> None:
    """Draw one group: its mean, and a band if it has several runs."""
    steps, by_run = group.curve(split, name)
    if not steps or not _is_meant(group, split):
        return
    config = group.runs[0].config
    x = steps if over_steps else [tokens_at(config, step) for step in steps]

    # Ten colours, then ten with another style.
    count = len(group.runs)
    color = f"C{number % 10}"
    style = ("-", "--", ":", "-.")[number // 10 % 4]
    label = f"{group.label} (n = {count})" if count > 1 else group.label
    at_x = list(zip(*by_run))
    middle = [mean(values) for values in at_x]
    spread = [stdev(values) if count > 1 else 0.0 for values in at_x]

    # Held-out figures are few: each has a mark, and its spread as a bar.
    if split == "held_out":
        bars = spread if count > 1 else None
        axis.errorbar(x, middle, bars, None, f"o{style}", color=color, label=label, capsize=3)
        return
    axis.plot(x, middle, style, color=color, label=label)
    low = [value - width for value, width in zip(middle, spread)]
    high = [value + width for value, width in zip(middle, spread)]
    if count > 1:
        axis.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)


def _is_drawn(panel: tuple[str, str, str], groups: Sequence[Group]) -> bool:
    """Return whether a group has the curve of a panel."""
    _, split, name = panel
    return any(_is_meant(group, split) and group.curve(split, name)[0] for group in groups)


def _is_meant(group: Group, split: str) -> bool:
    """Return whether figures of a split compare: what reinforcement minimises does not."""
    return split != "train" or not group.runs[0].is_reinforcement


def _setting_columns(
    paths: Sequence[str], groups: Sequence[Group]
) -> Iterator[tuple[str, list[str]]]:
    """Yield the title and the cells of each setting that differs."""
    for path in paths:
        yield path, _values(path, groups)


def _figure_columns(groups: Sequence[Group]) -> Iterator[tuple[str, list[str]]]:
    """Yield the title and the cells of each column of figures that is not empty."""
    if max([len(group.runs) for group in groups]) > 1:
        yield "n", [str(len(group.runs)) for group in groups]
    yield "steps", [_range([run.steps for run in group.runs]) for group in groups]
    tokens = [[run.tokens for run in group.runs] for group in groups]
    yield "tokens", [_range(counts) if any(counts) else "" for counts in tokens]

    for title, split, name in FIGURES:
        cells = [group.figure(split, name) for group in groups]
        if any(cells):
            yield title, cells
    times = [_time(group) for group in groups]
    if any(times):
        yield "time", times


def _time(group: Group) -> str:
    """Return how long a run of a group took on average; "" if that was not recorded."""
    seconds = []
    for run in group.runs:
        seconds += column(select(run.records, "train", "seconds"), "seconds")[-1:]
    return duration(mean(seconds)) if seconds else ""


def _range(values: Sequence[int]) -> str:
    """Return a number, or the least and the largest of several."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _values(path: str, groups: Sequence[Group]) -> list[str]:
    """Return a setting of each group as text."""
    values = [group.runs[0].settings.get(path) for group in groups]
    return ["" if value is None else _text(value) for value in values]


def _text(value: Any) -> str:
    """Return a setting as text: the items of a list apart, numbers in short."""
    if isinstance(value, list):
        return " ".join(map(_text, value)) or "none"
    if isinstance(value, dict):
        return ":".join(map(_text, value.values()))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _differs(path: str, settings: Sequence[dict[str, Any]]) -> bool:
    """Return whether a setting has several values."""
    first = settings[0].get(path)
    return any(one.get(path) != first for one in settings)


def _flat(values: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Return the settings of nested parts by their path; a part that is None stays one value."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{path}{name}.")
        else:
            flat[path + name] = value
    return flat


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """Return the name of each run: its path from the folder that all of them share."""
    if len({folder.name for folder in folders}) == len(folders):
        return {folder: folder.name for folder in folders}
    shared = os.path.commonpath([folder.absolute() for folder in folders])
    return {folder: os.path.relpath(folder, shared) for folder in folders}


def _label(names: Sequence[str]) -> str:
    """Return one label for runs: what their names share, with * for the rest."""
    if len(names) == 1:
        return names[0]
    start = _shared_start(names)
    backwards = [name[len(start) :][::-1] for name in names]
    end = _shared_start(backwards)[::-1]
    return f"{start}*{end}" if start or end else ", ".join(names)


def _shared_start(names: Sequence[str]) -> str:
    """Return the characters with which all names begin."""
    length = 0
    for characters in zip(*names):
        if len(set(characters)) > 1:
            break
        length += 1
    return names[0][:length]
