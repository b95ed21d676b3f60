"""What post-training looks like: accuracy and length, rewards apart, signal, entropy and
divergence; drawn from metrics.jsonl alone."""

from pathlib import Path

from matplotlib.figure import Figure

from seekjax.train.metrics import read
from seekjax.train.plots import _load, _max_violation, _save


def draw(folder: Path) -> list[Path]:
    """Write accuracy.png, rewards.png, load.png and max_violation.png into a run's folder; those
    for which there is something to show."""
    records = read(folder)
    train = [r for r in records if r["split"] == "train" and "accuracy" in r]
    held_out = [r for r in records if r["split"] == "held_out" and "accuracy" in r]
    paths = [_accuracy(folder, train, held_out)] if train else []
    paths += [_rewards(folder, train)] if any("signal" in r for r in train) else []
    if loads := [r for r in train if "load" in r]:
        paths += [_load(folder, loads), _max_violation(folder, train)]
    return paths


def draw_figures(folder: Path, name: str, title: str, figures: dict[str, str]) -> Path:
    """Some figures over steps, of training and of held-out data, one below the other: {name in
    metrics.jsonl: what its axis says}."""
    records, figure = (
        read(folder),
        Figure(figsize=(8, 2 + 2.5 * len(figures)), layout="constrained"),
    )
    axes = figure.subplots(len(figures), sharex=True, squeeze=False)[:, 0]
    for axis, (key, label) in zip(axes, figures.items()):
        for split, style in (
            ("train", {"color": "tab:blue", "label": "training"}),
            ("held_out", {"color": "tab:orange", "marker": "o", "label": "held out"}),
        ):
            if points := [(r["step"], r[key]) for r in records if r["split"] == split and key in r]:
                axis.plot(*zip(*points), **style)
        axis.set(ylabel=label)
        axis.legend()
        axis.grid(alpha=0.3)
    axes[-1].set(xlabel="step")
    figure.suptitle(f"{folder.name}: {title}")
    return _save(figure, folder / name)


def _accuracy(folder: Path, train: list[dict], held_out: list[dict]) -> Path:
    figure = Figure(figsize=(8, 6.5), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    step, seen = [r["step"] for r in train], [r["step"] for r in held_out]
    above.plot(step, [r["accuracy"] for r in train], color="tab:blue", alpha=0.5, label="rollouts")
    if held_out:
        above.plot(
            seen,
            [r["accuracy"] for r in held_out],
            "o-",
            color="tab:orange",
            label="held-out problems",
        )
        if all("accuracy_low" in r for r in held_out):
            above.fill_between(
                seen,
                [r["accuracy_low"] for r in held_out],
                [r["accuracy_high"] for r in held_out],
                color="tab:orange",
                alpha=0.2,
                label="95 % interval",
            )
    above.plot(
        step,
        [r["parsed"] for r in train],
        color="tab:gray",
        linestyle=":",
        label="rollouts of the right form",
    )
    above.set(ylabel="share of samples", ylim=(-0.02, 1.02))
    below.plot(step, [r["length"] for r in train], color="tab:blue", alpha=0.5, label="rollouts")
    if held_out:
        below.plot(
            seen,
            [r["length"] for r in held_out],
            "o-",
            color="tab:orange",
            label="held-out problems",
        )
    below.set(xlabel="step", ylabel="tokens of a sample", ylim=(0, None))
    below.xaxis.get_major_locator().set_params(integer=True)
    right = below.twinx()
    right.plot(
        step, [r["truncated"] for r in train], color="tab:red", linestyle=":", label="cut off"
    )
    right.set(ylabel="share cut off", ylim=(-0.02, 1.02))
    right.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False)
    for axis in (above, below):
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)
        axis.grid(alpha=0.3)
    figure.suptitle(f"{folder.name}: accuracy and length")
    return _save(figure, folder / "accuracy.png")


def _rewards(folder: Path, train: list[dict]) -> Path:
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    own = sorted({name for r in train for name in r if name.startswith("reward/")})
    for axis, title, lines in zip(
        axes.flat,
        (
            "rewards, before their weights",
            "groups with signal",
            "entropy of a token (nats)",
            "divergence from the reference",
        ),
        (
            {
                "sum": "reward",
                "accuracy": "accuracy",
                "format": "parsed",
                **{name.removeprefix("reward/"): name for name in own},
            },
            {"signal": "signal"},
            {"entropy": "entropy"},
            {"KL (k3, nats)": "kl"},
        ),
    ):
        for label, name in lines.items():
            points = [(r["step"], r[name]) for r in train if name in r]
            axis.plot(*zip(*points) if points else ((), ()), label=label)
        axis.set_title(title)
        axis.grid(alpha=0.3)
        if len(lines) > 1:
            axis.legend()
    axes[0, 1].set_ylim(-0.02, 1.02)
    for axis in axes[1]:
        axis.set(xlabel="step")
        axis.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(f"{folder.name}: what it is rewarded for")
    return _save(figure, folder / "rewards.png")
