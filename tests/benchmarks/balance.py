"""The two ways to move the balance bias, on `tiny` over three seeds: what they do to the load and
to the loss.

    python train.py tiny --model.bias-update sign quantile --train.seed 0 1 2 --train.steps 120 \\
        --train.batch 8 --train.log-every 1 --train.eval-every 60 --out runs/balance
    python -m tests.benchmarks.balance runs/balance

The first line is a sweep of six runs that goes on where it stopped. Results:
tests/benchmarks/results/balance.md and balance.png
"""

import sys
from pathlib import Path
from statistics import mean, stdev

import matplotlib.pyplot as plt
import numpy as np

from seekjax.notebook import BLUE, ORANGE, legend_beside, set_look
from seekjax.train.comparison import Group, groups_of

PICTURE = Path(__file__).with_name("results") / "balance.png"
DEVICES = 4  # that would share out the experts


def loads(group: Group) -> np.ndarray:
    """The load of every seed, step, layer and expert."""
    seeds = []
    for run in group.runs:
        steps = [record["load"] for record in run.records if "load" in record]
        seeds.append(steps)
    return np.array(seeds)


def violation(load_X: np.ndarray) -> np.ndarray:
    """MaxVio over the last axis, averaged over layers, by seed and step."""
    average = load_X.mean(-1)
    return ((load_X.max(-1) - average) / average).mean(-1)


def of_devices(load_SLE: np.ndarray) -> np.ndarray:
    """The load of devices that have equally many experts each."""
    return load_SLE.reshape(*load_SLE.shape[:-1], DEVICES, -1).sum(-1)


def spread(values) -> str:
    """Mean and standard deviation over seeds."""
    return f"{mean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def main(folder: Path) -> None:
    runs = sorted(path.parent for path in folder.glob("*/config.json"))
    groups = groups_of(runs)

    set_look()
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.4))
    print(
        "| bias | seeds | MaxVio of experts, steps 1 to 20 | last 40 steps | "
        f"of {DEVICES} devices, last 40 | training loss, last tenth | held out, bits/byte |\n"
        "|---|---|---|---|---|---|---|"
    )
    for group, colour in zip(groups, (BLUE, ORANGE)):
        rule = group.runs[0].config.model.bias_update
        load = loads(group)
        by_expert, by_device = violation(load), violation(of_devices(load))
        steps = np.arange(1, by_expert.shape[1] + 1)

        for axis, values in zip(axes, (by_expert, by_device)):
            axis.plot(steps, values.mean(0), color=colour, label=rule)
            axis.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.2)
        figures = [
            spread(by_expert[:, :20].mean(1).tolist()),
            spread(by_expert[:, -40:].mean(1).tolist()),
            spread(by_device[:, -40:].mean(1).tolist()),
            group.figure("train", "loss"),
            group.figure("held_out", "bits_per_byte"),
        ]
        print(f"| {rule} | {len(group.runs)} | {' | '.join(figures)} |")

    axes[0].set(xlabel="step", ylabel="MaxVio", ylim=(0, None), title="of experts")
    axes[1].set(xlabel="step", ylim=(0, None), title=f"of {DEVICES} devices with 4 experts each")
    legend_beside(axes[1])
    figure.savefig(PICTURE, dpi=120)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
