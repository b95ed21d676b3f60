"""Where the time of one training step of `mini` goes, and how far its matrix products are from the
rate this machine can multiply at.

    python -m tests.benchmarks.profile_step [none | product | latent | full]

From a profile of three steps: each operation's own time, without what runs inside it, summed over
the threads and attributed by its name in the compiled program. Threads wait for each other and for
other work on the machine, so trust the shares. Results: tests/benchmarks/results/profile_step.md
"""

import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import jax

from seekjax.model.count import flops_per_token
from seekjax.train.hardware import matmul_peak
from tests.benchmarks import mini

STEPS = 3
PARTS = (  # the first pattern found in an operation's name decides
    ("attention: tiles of scores", r"/attention/while"),
    ("attention: projections, norms, rotation", r"/attention/"),
    ("routed experts: tiles of rows", r"expert_layers/ffn/while"),
    ("shared expert", r"/ffn/shared"),
    ("dense layer's FFN", r"dense_layers/ffn"),
    ("routing, sorting, dispatch", r"/ffn/"),
    ("keeping and fetching values for the backward pass, residual stream", r"Transformer"),
    ("head and cross entropy", r"jvp\(\)"),
    ("fills and copies the compiler added", r"^$"),
    ("optimizer, metrics", r""),
)


def operations(program: str) -> dict[str, str]:
    """The name that JAX gave to each operation of a compiled program."""
    found = re.findall(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$", program, re.MULTILINE)
    return {name: (re.search(r'op_name="([^"]*)"', rest) or ["", ""])[1] for name, rest in found}


def own_seconds(folder: Path, names: dict[str, str]) -> Counter:
    """Seconds of each operation without those that ran inside it on the same thread."""
    seconds: Counter = Counter()
    profile = jax.profiler.ProfileData.from_file(str(next(folder.rglob("*.xplane.pb"))))
    for line in (line for plane in profile.planes for line in plane.lines):
        events = sorted(
            (event.start_ns, -event.duration_ns, event.name)
            for event in line.events
            if event.name in names
        )
        around: list[tuple[float, str]] = []
        for start, minus, name in events:
            while around and around[-1][0] <= start:
                around.pop()
            if around:
                seconds[around[-1][1]] += minus / 1e9
            seconds[name] -= minus / 1e9
            around.append((start - minus, name))
    return seconds


def main() -> None:
    remat = sys.argv[1] if len(sys.argv) > 1 else "product"
    print(f"{mini.heading()}, remat {remat}")
    step = mini.Step(mini.config(remat=remat))
    step()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            wall = step(STEPS)
        names = operations(step.compiled.as_text())
        seconds = own_seconds(Path(folder), names)
    parts, products = Counter(), 0.0
    for name, time in seconds.items():
        parts[next(part for part, pattern in PARTS if re.search(pattern, names[name]))] += time
        products += time if "dot_general" in names[name] else 0
    total, rate, peak = sum(parts.values()), step.tokens * STEPS / sum(wall), matmul_peak("float32")
    flops = flops_per_token(step.config.model, step.config.data.sequence)
    print(
        f"\n{rate:.0f} tokens/s while profiled, {rate * flops / 1e9:.0f} of "
        f"{peak / 1e9:.0f} GFLOP/s: {rate * flops / peak:.0%} of peak; "
        f"{products / total:.0%} of the time in matrix products\n\n| part | share |\n|---|---|"
    )
    for part, time in parts.most_common():
        print(f"| {part} | {time / total:.1%} |")


if __name__ == "__main__":
    main()
