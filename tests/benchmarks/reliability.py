"""The scoreboard of reliability: harm of every kind, and what came of it.

    python tests/benchmarks/reliability.py                     everything, half an hour on two cores
    python tests/benchmarks/reliability.py --share 0.1        a tenth of the tries
    python tests/benchmarks/reliability.py --part kills disk   some parts

Each part is tried on the smallest run that has every part of a model. A row says how often
something was tried, how often the result was as expected, and names what missed. With --out the
table is written into a file; the rows of parts that did not run are kept.
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from tests.flags import QUICK  # noqa: E402

# Before jax starts: tiny programs are not worth optimising, and every child finds them on disk.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import gc  # noqa: E402
import platform  # noqa: E402
import random  # noqa: E402
import shutil  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Callable, Iterable, Iterator  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from typing import Annotated  # noqa: E402

import jax  # noqa: E402
import tyro  # noqa: E402

from tests.benchmarks.trials import (  # noqa: E402
    damages,
    disk,
    kills,
    malicious,
    meshes,
    numbers,
    sandbox_attacks,
    signals,
)
from tests.benchmarks.trials.row import Row  # noqa: E402

Part = Callable[[Path, float, random.Random], Iterable[Row]]
PARTS: dict[str, Part] = {
    "kills": kills.run,
    "damages": damages.run,
    "meshes": meshes.run,
    "numbers": numbers.run,
    "signals": signals.run,
    "disk": disk.run,
    "malicious": malicious.run,
    "sandbox": sandbox_attacks.run,
}
HEADER = """\
# What became of a run after harm of every kind

`python tests/benchmarks/reliability.py`: tries, and how many ended as expected; each kill is a try,
and so is the end of each run. The last column says with which share of the tries, and when.

| harm | expected | tried | as expected | misses | s | run |
|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Scoreboard:
    """What is tried, and where the table goes."""

    part: Annotated[
        tuple[str, ...], tyro.conf.arg(help=f"of {', '.join(PARTS)}; default: all")
    ] = ()
    # of the tries; CI takes 0.1
    share: float = 1.0
    seed: int = 0
    # the table; default: the screen alone
    out: Path | None = None
    # where runs are made; default: a temporary folder
    work: Path | None = None


def main(options: Scoreboard) -> int:
    """Try everything, print and write the table, and return how many rows have misses."""
    warnings.filterwarnings("ignore", message=".*fork.*")
    gc.set_threshold(50_000)  # tracing makes many objects that live, in every child
    gc.freeze()  # what is imported lives, and children share its pages
    unknown = set(options.part) - set(PARTS)
    if unknown:
        sys.exit(f"there is no part {', '.join(sorted(unknown))}: the parts are {', '.join(PARTS)}")

    work = options.work or Path(tempfile.mkdtemp(prefix="reliability-"))
    shutil.rmtree(work / "whole", ignore_errors=True)
    cache = work / "compiled"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    os.environ["SEEKJAX_CACHE"] = str(work / "cache")

    rows: list[Row] = []
    run = f"{options.share:g}, {time.strftime('%Y-%m-%d')}"
    for name in options.part or PARTS:
        folder = work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for row in try_part(name, folder, options):
            row.note = f"{row.note} {run}".strip()
            rows.append(row)
            print(row.line(), flush=True)
        shutil.rmtree(folder, ignore_errors=True)

    if options.out is not None:
        write_table(options.out, rows)
    if options.work is None:
        shutil.rmtree(work)
    missed = [row for row in rows if row.misses or not row.tried]
    print(f"{len(rows) - len(missed)} of {len(rows)} rows without a miss")
    return len(missed)


def try_part(name: str, folder: Path, options: Scoreboard) -> Iterator[Row]:
    """Yield the rows of a part; if it fails as a whole, a row with that miss."""
    try:
        yield from PARTS[name](folder, options.share, random.Random(options.seed))
    except Exception as error:
        row = Row(name, "the part runs")
        row.check(False, f"{type(error).__name__}: {error}")
        yield row


def write_table(path: Path, rows: list[Row]) -> None:
    """Write the table; rows of the file under other names stay."""
    lines = {row.name: row.line() for row in rows}
    if path.exists():
        for line in path.read_text().splitlines():
            cells = line.split(" | ")
            name = cells[0].removeprefix("| ")
            if len(cells) > 5 and name not in ("harm", *lines):
                lines[name] = line
    machine = (
        f"\n{os.cpu_count()} cores, Python {platform.python_version()}, jax {jax.__version__}.\n"
    )
    path.write_text(HEADER + "\n".join(lines.values()) + "\n" + machine)


if __name__ == "__main__":
    sys.exit(min(main(tyro.cli(Scoreboard)), 1))
