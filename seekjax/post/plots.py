"""Plots of post-training, drawn from metrics.jsonl alone."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seekjax.train.plots import column, draw_load, draw_max_violation, legend_beside, save
from seekjax.train.record import read

Record = dict[str, Any]
TRAINING = {"color": "tab:blue", "label": "training"}
HELD_OUT = {"color": "tab:orange", "marker": "o", "label": "held out"}


def plot_rollouts(folder: Path) -> list[Path]:
    """Write accuracy.png, rewards.png, load.png and max_violation.png into a run's folder.

    A plot without data is left out. Returns the paths of those written.
    """
    records = read(folder)
    train = _select(records, "train", "accuracy")
    held_out = _select(records, "held_out", "accuracy")
    loads = _select(train, "train", "load")

    paths = []
    if train:
        paths.append(_plot_accuracy(folder, train, held_out))
    if _select(train, "train", "signal"):
        paths.append(_plot_rewards(folder, train))
    if loads:
        paths.append(draw_load(folder, loads))
        paths.append(draw_max_violation(folder, train))
    return paths


def plot_preference(folder: Path) -> Path:
    """Write preference.png, of a run that tunes on preferences."""
    labels = {
        "loss": "loss (nats)",
        "accuracy": "prefers the chosen",
        "margin": "margin (nats)",
    }
    return plot_metrics(folder, "preference.png", "preferences", labels)


def plot_distance(folder: Path) -> Path:
    """Write kl.png, of a distillation."""
    labels = {"kl": "KL (nats per token)"}
    return plot_metrics(folder, "kl.png", "distance of student and teacher", labels)


def plot_metrics(folder: Path, name: str, title: str, labels: dict[str, str]) -> Path:
    """Plot some metrics over steps, of training and of held-out data, one below the other.

    labels: the axis label of each metric, by its name in metrics.jsonl.
    """
    records = read(folder)
    figure = Figure(figsize=(9, 2 + 2.5 * len(labels)), layout="constrained")
    axes = figure.subplots(len(labels), sharex=True, squeeze=False)[:, 0]
    for axis, (metric, label) in zip(axes, labels.items()):
        for split, style in (("train", TRAINING), ("held_out", HELD_OUT)):
            _plot_curve(axis, _select(records, split, metric), metric, **style)
        axis.set(ylabel=label)
        axis.grid(alpha=0.3)
    legend_beside(figure, list(axes))
    axes[-1].set(xlabel="step")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(f"{folder.name}: {title}")
    return save(figure, folder / name)


def _select(records: list[Record], split: str, metric: str) -> list[Record]:
    """Return the records of a split that have a metric."""
    return [record for record in records if record["split"] == split and metric in record]


def _plot_curve(axis: Axes, records: list[Record], metric: str, **style: Any) -> None:
    """Plot a metric over the steps that have it; nothing if no step has."""
    steps, values = [], []
    for record in records:
        if record.get(metric) is not None:
            steps.append(record["step"])
            values.append(record[metric])
    if steps:
        axis.plot(steps, values, **style)


def _plot_accuracy(folder: Path, train: list[Record], held_out: list[Record]) -> Path:
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    accuracy, length = figure.subplots(2, sharex=True)
    rollouts = {"color": "tab:blue", "alpha": 0.5, "label": "rollouts"}
    problems = HELD_OUT | {"label": "held-out problems"}

    # Accuracy and format
    _plot_curve(accuracy, train, "accuracy", **rollouts)
    _plot_curve(accuracy, held_out, "accuracy", **problems)
    intervals = _select(held_out, "held_out", "accuracy_low")
    if held_out and len(intervals) == len(held_out):
        accuracy.fill_between(
            column(held_out, "step"),
            column(held_out, "accuracy_low"),
            column(held_out, "accuracy_high"),
            color="tab:orange",
            alpha=0.2,
            label="95 % interval",
        )
    form = {"color": "tab:gray", "linestyle": ":", "label": "rollouts of the right form"}
    _plot_curve(accuracy, train, "parsed", **form)
    accuracy.set(ylabel="share of samples", ylim=(-0.02, 1.02))

    # Length, and on the right the share cut off
    _plot_curve(length, train, "length", **rollouts)
    _plot_curve(length, held_out, "length", **problems)
    length.set(xlabel="step", ylabel="tokens of a sample", ylim=(0, None))
    length.xaxis.get_major_locator().set_params(integer=True)
    truncated = length.twinx()
    _plot_curve(truncated, train, "truncated", color="tab:red", linestyle=":", label="cut off")
    truncated.set(ylabel="share cut off", ylim=(-0.02, 1.02))
    for axis in (accuracy, length):
        axis.grid(alpha=0.3)
    legend_beside(figure, [accuracy, length, truncated])
    figure.suptitle(f"{folder.name}: accuracy and length")
    return save(figure, folder / "accuracy.png")


def _plot_rewards(folder: Path, train: list[Record]) -> Path:
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    further: set[str] = set()
    for record in train:
        further.update(record)
    rewards = {"sum": "reward", "accuracy": "accuracy", "format": "parsed"}
    for name in sorted(further):
        if name.startswith("reward/"):
            rewards[name.removeprefix("reward/")] = name

    panels = [
        ("rewards, before their weights", rewards),
        ("groups with signal", {"signal": "signal"}),
        ("entropy of a token (nats)", {"entropy": "entropy"}),
    ]
    if "kl" in further:
        panels.append(("divergence from the reference", {"KL (k3, nats)": "kl"}))
    else:
        # An objective without a reference has no divergence.
        figure.delaxes(axes[1, 1])
        axes[0, 1].xaxis.set_tick_params(labelbottom=True)
    for axis, (title, metrics) in zip(axes.flat, panels):
        for label, metric in metrics.items():
            _plot_curve(axis, train, metric, label=label)
        axis.set_title(title)
        axis.grid(alpha=0.3)

    legend_beside(figure, [axes[0, 0]], title="rewards")
    axes[0, 1].set_ylim(-0.02, 1.02)
    for axis in axes[1]:
        axis.set(xlabel="step")
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(f"{folder.name}: rewards")
    return save(figure, folder / "rewards.png")
