"""A grid of runs: `python train.py tiny --train.seed 0 1 2 --optimizer.learning-rate 1e-3 3e-3`.

Each run has a folder in --out that is named after its values, and is a line of a workflow: the same
line again goes on. At the end the runs are compared.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from seekjax.commands.compare import comparison
from seekjax.commands.grid import Axes, cells, shared_words
from seekjax.commands.workflow import TRAIN, RunLine, check_lines, print_plan, run_lines
from seekjax.config import Config
from seekjax.errors import RunError, Status, UsageError, need
from seekjax.storage import kind_of
from seekjax.terminal import print_lines


def run_sweep(
    name: str, config: Config, options: Sequence[str], axes: Axes, train: RunLine
) -> Status:
    """Run the runs of a sweep that are not finished, and compare all of them.

    A run that fails is named at the end, after the others. Raises UsageError for a wrong option
    before the first run, and RunError if a run failed.
    """
    shared, out, plan = shared_words(options, axes)
    if out is None:
        default = config.out or Path("runs") / Path(name).stem
        out = default.with_name(f"{default.name}-sweep")
    out = out.expanduser()
    need(
        kind_of(out) != "run",
        f"{out} is the folder of a run: name another --out for the runs of this sweep.",
        UsageError,
    )

    lines = {}
    products = {}
    for label, words in cells(axes):
        need(label not in lines, f"two runs of the sweep are {label}: name each once.", UsageError)
        products[label] = out / label
        lines[label] = [TRAIN, name, *shared, *words, "--out", str(out / label)]
    check_lines(lines)
    if plan:
        print_plan(lines)
        return Status.FINISHED

    failed: dict[str, str] = {}
    seconds = run_lines(lines, products, out, {TRAIN: train}, failed)
    if seconds is None:
        return Status.STOPPED
    _report(out, products, failed, seconds)
    return Status.FINISHED


def _report(
    out: Path, products: Mapping[str, Path], failed: Mapping[str, str], seconds: float
) -> None:
    """Print the comparison of the runs that are finished. Raises RunError if others failed."""
    finished = [folder for label, folder in products.items() if label not in failed]
    print(f"== {len(finished)} of {len(products)} runs are finished: {out}; {seconds / 60:.1f} min")
    if finished:
        print_lines(comparison(finished, out / "compare.png"))
    need(
        not failed,
        f"{len(failed)} of {len(products)} runs failed ({'; '.join(failed)}), each for the reason "
        "that its line gave: the same command tries them again.",
        RunError,
    )
