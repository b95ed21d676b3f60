"""Pictures of a run, drawn from metrics.jsonl alone.

Loss curves, expert load over steps and layers, MaxVio over time.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from seekjax.errors import RunError
from seekjax.storage import write_atomically
from seekjax.train.record import read

Record = dict[str, Any]


def draw(folder: Path) -> list[Path]:
    """Write loss.png, load.png and max_violation.png into a run's folder; return their paths.

    A picture without anything to show is left out.
    """
    records = read(folder)
    train = select(records, "train", "loss")
    held_out = select(records, "held_out", "loss", "bits_per_byte")
    loads = select(train, "train", "load")

    paths = []
    if train:
        paths.append(draw_loss(folder, train, held_out))
    if loads:
        paths.append(draw_load(folder, loads))
        paths.append(draw_max_violation(folder, train))
    return paths


def draw_loss(
    folder: Path,
    train: list[Record],
    held_out: list[Record],
) -> Path:
    """Write loss.png: training loss, that of prediction modules, held-out loss, bits per byte."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axis = figure.subplots()
    axes = [axis]

    axis.plot(column(train, "step"), column(train, "loss"), label="training", color="tab:blue")
    further = select(train, "train", "mtp_loss")
    mtp_loss = column(further, "mtp_loss")
    if any(mtp_loss):
        label = "one token further (MTP)"
        axis.plot(column(further, "step"), mtp_loss, label=label, color="tab:blue", alpha=0.4)

    if held_out:
        step = column(held_out, "step")
        axis.plot(step, column(held_out, "loss"), "o-", label="held out", color="tab:orange")
        bits = column(held_out, "bits_per_byte")
        right = axis.twinx()
        # the first point may touch the edge
        style = {"color": "tab:green", "clip_on": False}
        right.plot(step, bits, "s--", label="held out, bits/byte", **style)
        right.set(ylabel="bits per byte", ylim=(0, None))
        axes.append(right)

    axis.set(ylabel="loss (nats per token)", title=f"{folder.name}: loss")
    step_axis(axis)
    legend_beside(figure, axes)
    axis.grid(alpha=0.3)
    return save(figure, folder / "loss.png")


def draw_load(folder: Path, records: list[Record]) -> Path:
    """Write load.png: a band of rows per layer, a row per expert; 1 is the balanced share.

    Where devices split the experts, a second picture has a row per device.
    """
    pictures = [("expert", np.array(column(records, "load")))]
    on_devices = select(records, "train", "device_load")
    if len(on_devices) == len(records):
        pictures.append(("device", np.array(column(records, "device_load"))))

    heights = []
    for _, load_SLX in pictures:
        _, layers, parts = load_SLX.shape
        heights.append(min(2 + 0.12 * layers * min(parts, 16), 14))
    figure = Figure(figsize=(9, sum(heights)), layout="constrained")
    axes = figure.subplots(len(pictures), height_ratios=heights, squeeze=False)[:, 0]
    span = records[0]["step"], records[-1]["step"]

    images = []
    for axis, (part, load_SLX) in zip(axes, pictures):
        images.append(_draw_shares(axis, load_SLX, span))
        axis.set(
            ylabel=f"expert layer (a row per {part})",
            title=f"{folder.name}: load of each {part} over its balanced share",
        )
    figure.colorbar(images[0], ax=list(axes), label="load / mean load (white: balanced)")
    return save(figure, folder / "load.png")


def _draw_shares(axis: Axes, load_SLX: np.ndarray, span: tuple[int, int]) -> AxesImage:
    """Draw the loads of steps, layers and experts or devices over their means, and return it."""
    share_SLX = load_SLX / np.maximum(load_SLX.mean(-1, keepdims=True), 1e-9)
    steps, layers, _ = share_SLX.shape
    image = axis.imshow(
        share_SLX.reshape(steps, -1).T,
        aspect="auto",
        cmap="RdBu_r",
        vmin=0,
        vmax=2,
        interpolation="nearest",
        extent=(span[0], span[1] + 1e-6, layers, 0),
    )
    step_axis(axis)
    axis.set(yticks=np.arange(layers) + 0.5, yticklabels=range(1, layers + 1))
    for border in range(1, layers):
        axis.axhline(border, color="black", linewidth=0.8)
    return image


def draw_max_violation(folder: Path, train: list[Record]) -> Path:
    """Write max_violation.png: the imbalance of each layer, and its mean, over steps."""
    figure = Figure(figsize=(9.5, 4), layout="constrained")
    axis = figure.subplots()

    train = select(train, "train", "layer_max_violation", "max_violation")
    step = column(train, "step")
    by_layer = np.array(column(train, "layer_max_violation"), float).T
    for number, layer in enumerate(by_layer, 1):
        label = f"expert layer {number}" if number <= 8 else None
        axis.plot(step, layer, alpha=0.5, label=label)

    mean = column(train, "max_violation")
    axis.plot(step, mean, color="black", linewidth=2, label="mean")
    on_devices = select(train, "train", "device_max_violation")
    if on_devices:
        step, mean = (column(on_devices, name) for name in ("step", "device_max_violation"))
        axis.plot(step, mean, "--", color="black", linewidth=2, label="mean, of devices")
    step_axis(axis)
    axis.set(
        ylabel="MaxVio = (max load - mean) / mean",
        ylim=(0, None),
        title=f"{folder.name}: imbalance of the experts",
    )
    legend_beside(figure, [axis])
    axis.grid(alpha=0.3)
    return save(figure, folder / "max_violation.png")


def select(records: list[Record], split: str, *metrics: str) -> list[Record]:
    """Return the records of a split that have these metrics."""
    return [
        record for record in records if record.get("split") == split and record.keys() >= {*metrics}
    ]


def step_axis(axis: Axes) -> None:
    """Name the x axis and give it whole numbers."""
    axis.set(xlabel="step")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def column(records: list[Record], name: str) -> list[Any]:
    """Return one figure of every record; nan where it was not finite."""
    return [math.nan if record[name] is None else record[name] for record in records]


def legend_beside(figure: Figure, axes: Sequence[Axes], **options: Any) -> None:
    """Write one legend of all curves to the right of the axes, each label once."""
    handle_of: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            handle_of.setdefault(label, handle)
    if handle_of:
        place = {"loc": "outside right upper", "frameon": False, **options}
        figure.legend(list(handle_of.values()), list(handle_of), **place)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure, and return its path. Raises RunError."""
    try:
        write_atomically(path, lambda file: figure.savefig(file, dpi=110, format="png"))
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}.") from error
    return path
