"""Speed of two checkouts of seekjax, taking turns: what a change costs or gains.

    python -m tests.benchmarks.before_after --before FOLDER [--python PYTHON] [--turns 7]
                                            [train] [decode] [rollout]

FOLDER is the other checkout, and PYTHON the interpreter of an environment in which it is installed
(default: this one). Each benchmark runs its own code of each checkout: a train step of `mini`,
decoding of `mini` (1 x 32 and 8 x 32 tokens, 64 new ones), and a rollout of 16 x 8 samples.
Results: tests/benchmarks/results/before_after.md
"""

import argparse
import os
import sys
from pathlib import Path
from statistics import median

from tests.benchmarks.harness import ROOT, Side

# name -> the benchmark, its arguments as a serving process, and the cases it is given
BENCHMARKS = {
    "train": ("train_mini", ["--serve", "ours", "product"], ["step"]),
    "decode": ("decode", ["--new", "64", "--serve", "plain"], ["1x32", "8x32"]),
    "rollout": ("rollout", ["--serve", "ours"], ["go"]),
}


def seconds_of(answer) -> float:
    """Return the seconds in a benchmark's answer: a number, the last of several, or a field."""
    if isinstance(answer, dict):
        return answer["seconds"]
    if isinstance(answer, list):
        return answer[-1]
    return answer


def command(folder: Path, python: str, module: str, arguments: list[str]) -> list[str]:
    """Return the command that serves a benchmark of a checkout, as a module or as a file."""
    if (folder / "tests" / "__init__.py").exists():
        return [python, "-m", f"tests.benchmarks.{module}", *arguments]
    return [python, str(folder / "tests" / "benchmarks" / f"{module}.py"), *arguments]


def compare(name: str, before: tuple[Path, str], turns: int) -> None:
    """Print a row for each case of a benchmark."""
    module, arguments, cases = BENCHMARKS[name]
    if name == "rollout":
        import json

        from tests.benchmarks.rollout import shape

        arguments = [*arguments, "--shape", json.dumps(shape())]

    sides = {}
    for label, (folder, python) in (("before", before), ("after", (ROOT, sys.executable))):
        sides[label] = Side(
            label,
            command(folder, python, module, arguments),
            folder=folder,
            environment={"PYTHONPATH": str(folder)},
        )
        sides[label].answer()  # one after the other: neither compiles while the other warms up

    for case in cases:
        for side in sides.values():
            side.run(case)
        times = {label: [] for label in sides}
        for _ in range(turns):
            for label, side in sides.items():
                times[label].append(seconds_of(side.run(case)))
        old, new = median(times["before"]), median(times["after"])
        least = min(times["before"]) / min(times["after"])
        print(f"| {name} {case} | {old:.3f} | {new:.3f} | {old / new:.2f}x | {least:.2f}x |")
    for side in sides.values():
        side.close()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("benchmarks", nargs="*", metavar="BENCHMARK", default=list(BENCHMARKS))
    options = parser.parse_args()

    print(f"{options.turns} turns, load {os.getloadavg()[0]:.1f}\n")
    print("| | before, s | after, s | speed: medians | speed: best |\n|---|--:|--:|--:|--:|")
    for name in options.benchmarks:
        compare(name, (options.before.absolute(), options.python), options.turns)


if __name__ == "__main__":
    main()
