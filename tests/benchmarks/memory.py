"""Memory of a training step of `mini` over sequence lengths at equal tokens per batch (4,096): what
the compiler plans, and what a process takes.

    python -m tests.benchmarks.memory

Planned: temporaries of the compiled step, beside the state and the batch. Taken: by how much the
resident size of a process of its own peaks above what it was before, while it runs two steps
(Linux). Results: tests/benchmarks/results/memory.md
"""

import subprocess
import sys
from pathlib import Path

from tests.benchmarks import mini

TOKENS, LENGTHS, MEASURED = 4096, (256, 512, 1024, 2048, 4096), (256, 4096)


def step(sequence: int, remat: str) -> mini.Step:
    return mini.Step(mini.config(sequence=sequence, batch=TOKENS // sequence, remat=remat))


def resident(which: str) -> float:
    """Resident size of this process in MiB: now (VmRSS) or at its peak (VmHWM)."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith(which)
    )
    return int(line.split()[1]) / 1024


def taken(sequence: int, remat: str) -> float:
    """MiB by which a fresh process grows while it runs two steps."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.memory", str(sequence), remat],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(run.stdout)


def main() -> None:
    if len(sys.argv) == 3:
        run = step(int(sys.argv[1]), sys.argv[2])
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of compiling
        before = resident("VmRSS")
        run(2)
        print(resident("VmHWM") - before)
        return
    print(
        f"{mini.heading()}\n\n| sequence x batch | remat | planned MiB | against 256 | "
        "taken MiB |\n|---|---|---|---|---|"
    )
    for remat in ("latent", "none"):
        first = None
        for sequence in LENGTHS:
            planned = step(sequence, remat).compiled.memory_analysis().temp_size_in_bytes / 2**20
            first = first or planned
            seen = f"{taken(sequence, remat):.0f}" if sequence in MEASURED else ""
            print(
                f"| {sequence} x {TOKENS // sequence} | {remat} | {planned:.0f} | "
                f"{planned / first:.2f}x | {seen} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
