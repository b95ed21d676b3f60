"""What a run looks like: loss curves, expert load over steps and layers, MaxVio over time; drawn
from metrics.jsonl alone.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from seekjax.train.metrics import read


def draw(folder: Path) -> list[Path]:
    """Write loss.png, load.png and max_violation.png into a run's folder; those for which there is
    something to show.
    """
    records = read(folder)
    train = [r for r in records if r["split"] == "train"]
    evals = [r for r in records if r["split"] == "held_out"]
    paths = [_loss(folder, train, evals)] if train else []
    loads = [r for r in train if "load" in r]
    if loads:
        paths += [_load(folder, loads), _max_violation(folder, train)]
    return paths


def _loss(folder: Path, train: list[dict], evals: list[dict]) -> Path:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.subplots()
    step = [r["step"] for r in train]
    axis.plot(step, [r["loss"] for r in train], label="training", color="tab:blue")
    if any(r["mtp_loss"] for r in train):
        axis.plot(
            step,
            [r["mtp_loss"] for r in train],
            label="training, one token further (MTP)",
            color="tab:blue",
            alpha=0.4,
        )
    if evals:
        axis.plot(
            [r["step"] for r in evals],
            [r["loss"] for r in evals],
            "o-",
            label="held out",
            color="tab:orange",
        )
        right = axis.twinx()
        right.plot(
            [r["step"] for r in evals],
            [r["bits_per_byte"] for r in evals],
            "s--",
            color="tab:green",
            label="held out, bits/byte",
        )
        right.set(ylabel="bits per byte", ylim=(0, None))
        right.legend(loc="upper center")
    axis.set(xlabel="step", ylabel="loss (nats per token)", title=f"{folder.name}: loss")
    axis.legend(loc="upper right")
    axis.grid(alpha=0.3)
    return _save(figure, folder / "loss.png")


def _load(folder: Path, loads: list[dict]) -> Path:
    """One band of rows per layer, one row per expert; 1 is the balanced share."""
    share_SLE = np.array([r["load"] for r in loads])
    share_SLE = share_SLE / np.maximum(share_SLE.mean(-1, keepdims=True), 1e-9)
    steps, layers, experts = share_SLE.shape
    figure = Figure(
        figsize=(9, min(2 + 0.12 * layers * min(experts, 16), 14)), layout="constrained"
    )
    axis = figure.subplots()
    picture = axis.imshow(
        share_SLE.reshape(steps, -1).T,
        aspect="auto",
        cmap="RdBu_r",
        vmin=0,
        vmax=2,
        interpolation="nearest",
        extent=(loads[0]["step"], loads[-1]["step"] + 1e-6, layers, 0),
    )
    axis.set(
        xlabel="step",
        ylabel="expert layer (a row per expert)",
        title=f"{folder.name}: load of each expert over its balanced share",
        yticks=np.arange(layers) + 0.5,
        yticklabels=range(1, layers + 1),
    )
    for border in range(1, layers):
        axis.axhline(border, color="black", linewidth=0.8)
    figure.colorbar(picture, label="load / mean load (white: balanced)")
    return _save(figure, folder / "load.png")


def _max_violation(folder: Path, train: list[dict]) -> Path:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axis = figure.subplots()
    step = [r["step"] for r in train]
    for i, layer in enumerate(np.array([r["layer_max_violation"] for r in train]).T, 1):
        axis.plot(step, layer, alpha=0.5, label=f"expert layer {i}" if i <= 8 else None)
    axis.plot(step, [r["max_violation"] for r in train], color="black", linewidth=2, label="mean")
    axis.set(
        xlabel="step",
        ylabel="MaxVio = (max load - mean) / mean",
        ylim=(0, None),
        title=f"{folder.name}: imbalance of the experts",
    )
    axis.legend(ncols=2)
    axis.grid(alpha=0.3)
    return _save(figure, folder / "max_violation.png")


def _save(figure, path: Path) -> Path:
    figure.savefig(path, dpi=110)
    return path
