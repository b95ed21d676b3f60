"""The exhibits as JSON, a table and pictures; see exhibits.py."""

import json
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure

from seekjax.train.metrics import read

HERE = Path(__file__).parent / "results" / "exhibits"
BARS = {
    "R1-Zero": [("base", "base"), ("zero", "zero"), ("zero", "dealt")],
    "R1": [("base", "base"), ("r1", "cold"), ("r1", "reason"), ("r1", "more")],
    "distillation": [("distill", name) for name in ("little", "taught", "alone")],
    "addition": [("addition", name) for name in ("forgetful", "carrying")],
}
CURVES = {
    "R1-Zero": ("zero", "zero"),
    "dealt rewards": ("zero", "dealt"),
    "R1, after a cold start": ("r1", "reason"),
    "narrow model alone": ("distill", "alone"),
    "addition": ("addition", "carrying"),
}
TITLES = {
    "base": "base model",
    "zero": "R1-Zero",
    "dealt": "rewards dealt out",
    "cold": "cold start",
    "reason": "+ GRPO",
    "more": "+ more SFT",
    "little": "narrow base",
    "taught": "+ teacher's\nprobabilities",
    "alone": "+ GRPO alone",
    "forgetful": "forgets carries",
    "carrying": "+ GRPO",
}


def show(out: Path, seeds: list[int], only: list[str]) -> None:
    """Write what is there of some parts, and print the table."""
    found = {"seeds": seeds, "stages": {}, "language": {}}
    for part, stage in dict.fromkeys(
        pair for pairs in BARS.values() for pair in pairs if pair[0] in only
    ):
        reports = [
            json.loads((out / str(seed) / part / f"{stage}.json").read_text()) for seed in seeds
        ]
        seconds = [
            json.loads((out / str(seed) / part / "workflow.json").read_text())[stage]["seconds"]
            for seed in seeds
        ]
        found["stages"][stage] = {
            name: [report[name] for report in reports]
            for name in ("pass@1", "pass@4", "cons@4", "problems", "length", "truncated")
        }
        found["stages"][stage] |= {
            "seconds": seconds,
            "floor": [report.get("floor") for report in reports],
        }
    for stage in ("with", "without") if "language" in only else ():
        records = [read(out / str(seed) / "language" / stage) for seed in seeds]
        held_out = [[one for one in some if one["split"] == "held_out"][-1] for some in records]
        first = [next(one for one in some if one["split"] == "train") for some in records]
        found["language"][stage] = {
            "before": [one["reward/language"] for one in first],
            "after": [one["reward/language"] for one in held_out],
            "accuracy_before": [one["accuracy"] for one in first],
            "accuracy": [one["accuracy"] for one in held_out],
        }
    HERE.mkdir(parents=True, exist_ok=True)
    (HERE / "exhibits.json").write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))
    bars(found).savefig(HERE / "exhibits.png", dpi=110)
    curves(out, seeds, only).savefig(HERE / "curves.png", dpi=110)


def table(found: dict) -> str:
    """Markdown: pass@1 of each seed with its mean, pass@4, and seconds."""
    lines = [
        "| | pass@1, mean | of each seed | pass@4 | random pass@1 | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for stage, seen in found["stages"].items():
        ones = [value[0] for value in seen["pass@1"]]
        floor = f"{mean(one['pass@1'] for one in seen['floor']):.1%}" if seen["floor"][0] else ""
        lines.append(
            f"| {stage} | **{mean(ones):.1%}** | "
            f"{', '.join(f'{one:.1%}' for one in ones)} | "
            f"{mean(value[0] for value in seen['pass@4']):.1%} | {floor} | "
            f"{', '.join(f'{one:.0f}' for one in seen['seconds'])} |"
        )
    lines += [
        "",
        "| language reward | thoughts in English, before | after | right, before | after |",
        "|---|---|---|---|---|",
    ]
    for stage, seen in found["language"].items():
        lines.append(
            f"| {stage} | "
            + " | ".join(
                f"{mean(seen[name]):.1%} ({', '.join(f'{one:.0%}' for one in seen[name])})"
                for name in ("before", "after", "accuracy_before", "accuracy")
            )
            + " |"
        )
    return "\n".join(lines)


def bars(found: dict) -> Figure:
    shown = {
        title: stages
        for title, pairs in BARS.items()
        if set(stages := [stage for _, stage in pairs]) <= found["stages"].keys()
    }
    figure = Figure(
        figsize=(2 + 0.9 * sum(map(len, shown.values())) + 2.5 * bool(found["language"]), 4.5),
        layout="constrained",
    )
    widths = [*map(len, shown.values()), *[3] * bool(found["language"])]
    [axes] = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)
    for axis, (title, stages) in zip(axes, shown.items()):
        for at, stage in enumerate(stages):
            seen = found["stages"][stage]
            axis.bar(
                at,
                mean(value[0] for value in seen["pass@1"]),
                color="tab:blue",
                alpha=0.6,
                width=0.7,
            )
            for shift, (middle, low, high) in enumerate(seen["pass@1"]):
                axis.errorbar(
                    at + 0.15 * (shift - 1),
                    middle,
                    [[middle - low], [high - middle]],
                    fmt="o",
                    color="black",
                    markersize=3,
                    linewidth=1,
                )
        if found["stages"][stages[0]]["floor"][0]:
            floor = mean(one["pass@1"] for one in found["stages"][stages[0]]["floor"])
            axis.axhline(floor, color="tab:red", linestyle=":")
            axis.text(-0.45, floor, "random", color="tab:red", fontsize=8, va="bottom")
        axis.set(title=title, ylim=(0, None))
        axis.set_xticks(
            range(len(stages)),
            [TITLES[stage] for stage in stages],
            rotation=30,
            ha="right",
            fontsize=8,
        )
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes[0].set_ylabel("pass@1 on held-out problems, 95 % intervals")
    if not found["language"]:
        return figure
    last = axes[-1]
    for at, (kind, _, stage) in enumerate(
        (
            ("before", "before", "with"),
            ("after", "with the reward", "with"),
            ("after", "without it", "without"),
        )
    ):
        values = found["language"][stage][kind]
        last.bar(at, mean(values), color="tab:orange", alpha=0.6, width=0.7)
        last.plot(
            [at + 0.15 * (shift - 1) for shift in range(len(values))],
            values,
            "o",
            color="black",
            markersize=3,
        )
    last.set(title="thoughts in English", ylim=(0, 1.02))
    last.set_xticks(
        range(3), ["before", "with the reward", "without it"], rotation=30, ha="right", fontsize=8
    )
    last.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return figure


def curves(out: Path, seeds: list[int], only: list[str]) -> Figure:
    """Accuracy and length of rollouts over steps: the mean over seeds, and all between the lowest
    and the highest."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, sharex=True)
    for number, (title, (part, stage)) in enumerate(
        item for item in CURVES.items() if item[1][0] in only
    ):
        runs = [
            [one for one in read(out / str(seed) / part / stage) if one["split"] == "train"]
            for seed in seeds
        ]
        steps = [one["step"] for one in runs[0]]
        for axis, name in zip(axes, ("accuracy", "length")):
            values = list(zip(*([one[name] for one in run] for run in runs)))
            axis.plot(steps, [mean(some) for some in values], color=f"C{number}", label=title)
            axis.fill_between(
                steps,
                [min(some) for some in values],
                [max(some) for some in values],
                color=f"C{number}",
                alpha=0.15,
                linewidth=0,
            )
    axes[0].set(ylabel="right, of all samples drawn", ylim=(0, 1.02))
    axes[0].legend(ncols=3, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    axes[1].set(xlabel="step of reinforcement", ylabel="tokens of a sample", ylim=(0, None))
    for axis in axes:
        axis.grid(alpha=0.3)
    return figure
