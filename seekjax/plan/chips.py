"""The chips that a run may be planned on: what each computes, holds, sends and costs.

Every figure is per device, in FLOP/s, bytes, bytes per second and dollars. A link's figure is that
of one direction. None is a figure that no source here gives: a plan leaves out what depends on it.
"""

import json
import math
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from seekjax.errors import UsageError, need
from seekjax.registry import did_you_mean

GIB = 2**30
MOST_DEVICES = 2**20


@dataclass(frozen=True)
class Chip:
    """One kind of device."""

    name: str
    memory: float  # bytes
    bandwidth: float  # of the memory, bytes per second
    # dense peak, FLOP/s; 0 = it has no such product, or no source gives the figure
    float32: float = 0.0
    bfloat16: float = 0.0
    fp8: float = 0.0
    # devices that the fast links join: a node of GPUs, a pod of TPUs
    node: int = 1
    inside: float | None = None  # bytes per second, one direction, within a node
    between: float | None = None  # the same between nodes
    price: float | None = None  # dollars per hour
    source: str = ""

    def peak(self, dtype: str) -> float:
        """Return the dense peak in FLOP/s; UsageError if the table has none for this dtype."""
        peak = getattr(self, dtype, 0.0)
        need(
            peak,
            f"the table of chips has no peak in {dtype} for {self.name}: set --kernel.dtype to "
            f"{' or '.join(self.dtypes)}, or describe the chip in a file for --chips.",
            UsageError,
        )
        return peak

    @property
    def dtypes(self) -> list[str]:
        """The dtypes with a peak."""
        return [name for name in ("float32", "bfloat16", "fp8") if getattr(self, name)]


HGX = "NVLink, both directions halved; one 400 Gb/s adapter per GPU (MLPerf 4.1, 8 x H200 SXM)"
TPU = "docs.cloud.google.com/tpu/docs"

CHIPS = {
    # DeepSeek-V3 (2412.19437) section 3.2.2 states 160 GB/s of NVLink and 50 GB/s of InfiniBand,
    # table 1 assumes $2 per hour.
    "h800": Chip(
        name="h800",
        memory=80e9,
        bandwidth=3.35e12,
        bfloat16=989e12,
        fp8=1979e12,
        node=8,
        inside=160e9,
        between=50e9,
        price=2.0,
        source="NVIDIA H800 datasheet, sparse peaks halved; links and price: 2412.19437",
    ),
    "h100": Chip(
        name="h100",
        memory=80e9,
        bandwidth=3.35e12,
        float32=66.9e12,
        bfloat16=989.4e12,
        fp8=1978.9e12,
        node=8,
        inside=450e9,
        between=50e9,
        price=1.9,
        source=f"H100 SXM5, glennklockwood.com; price: gpu.blog, from $1.90; {HGX}",
    ),
    "h200": Chip(
        name="h200",
        memory=141e9,
        bandwidth=4.8e12,
        float32=66.9e12,
        bfloat16=989.4e12,
        fp8=1978.9e12,
        node=8,
        inside=450e9,
        between=50e9,
        source=f"H200 SXM, acecloud.ai; peaks of the H100; {HGX}",
    ),
    "b200": Chip(
        name="b200",
        memory=180e9,
        bandwidth=8e12,
        float32=80e12,
        bfloat16=2250e12,
        fp8=4500e12,
        node=8,
        inside=900e9,
        between=50e9,
        source="HGX B200 at 1,000 W, glennklockwood.com, acecloud.ai; ConnectX-7, 400 Gb/s",
    ),
    "a100": Chip(
        name="a100",
        memory=80e9,
        bandwidth=2.039e12,
        float32=19.5e12,
        bfloat16=312e12,
        node=8,
        inside=300e9,
        source="A100 80GB SXM4, glennklockwood.com",
    ),
    # 1.1 PB/s of all-reduce per pod of 4,096: the same reckoning gives the stated ICI of v5e.
    "v4": Chip(
        name="v4",
        memory=32 * GIB,
        bandwidth=1.2e12,
        bfloat16=275e12,
        node=4096,
        inside=268e9,
        source=f"{TPU}/v4",
    ),
    "v5e": Chip(
        name="v5e",
        memory=16e9,
        bandwidth=819e9,
        bfloat16=197e12,
        node=256,
        inside=200e9,
        between=3.1e9,
        source=f"{TPU}/v5e",
    ),
    "v5p": Chip(
        name="v5p",
        memory=95 * GIB,
        bandwidth=2.765e12,
        bfloat16=459e12,
        fp8=459e12,
        node=8960,
        inside=600e9,
        between=6.25e9,
        source=f"{TPU}/v5p and tpu7x",
    ),
    "v6e": Chip(
        name="v6e",
        memory=32 * GIB,
        bandwidth=1.638e12,
        bfloat16=918e12,
        fp8=918e12,
        node=256,
        inside=400e9,
        between=12.5e9,
        source=f"{TPU}/v6e and tpu7x",
    ),
    "v7": Chip(
        name="v7",
        memory=192 * GIB,
        bandwidth=7.38e12,
        bfloat16=2307e12,
        fp8=4614e12,
        node=9216,
        inside=600e9,
        between=12.5e9,
        source=f"{TPU}/tpu7x",
    ),
    # Measured here: XLA's square products, and a copy. Bfloat16 is emulated and slower.
    "cpu": Chip(
        name="cpu",
        memory=24 * GIB,
        bandwidth=20e9,
        float32=125e9,
        bfloat16=28e9,
        node=1,
        source="measured: two virtual cores with AVX-512, 24 GiB",
    ),
}

# What a figure of one's own may be.
LEAST, MOST = 1.0, 1e21


def on_devices(text: str, chips: dict[str, Chip]) -> tuple[Chip, int]:
    """Return the chip and the number of devices of KIND:COUNT, as h800:2048; without COUNT, 1.

    Raises UsageError with the nearest kind for one that is not in the table.
    """
    kind, colon, word = text.partition(":")
    kind = kind.lower()
    need(
        kind in chips,
        f"there is no chip {kind!r}{did_you_mean(kind, chips)} There are {', '.join(chips)}; "
        "describe another in a file for --chips.",
        UsageError,
    )
    count = int(word) if word.isdecimal() and len(word) < 10 else 0
    if not colon:
        count = 1
    need(
        0 < count <= MOST_DEVICES,
        f"--on {text}: write KIND:COUNT with a count of 1 to {MOST_DEVICES:,}, as h800:2048.",
        UsageError,
    )
    return chips[kind], count


def read_chips(file: Path | None) -> dict[str, Chip]:
    """Return the table with the chips of a JSON or TOML file added: {name: {figure: number}}.

    Raises UsageError for a file or a figure that has no meaning.
    """
    if file is None:
        return CHIPS
    try:
        text = file.read_text()
        described = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(f"--chips {file} cannot be read: {error}.") from error

    need(
        isinstance(described, dict) and described,
        f"--chips {file} must hold a table for each chip, as [mine] memory = 80e9.",
        UsageError,
    )
    own = {name.lower(): _own_chip(name, figures) for name, figures in described.items()}
    return {**CHIPS, **own}


def _own_chip(name: str, figures: Any) -> Chip:
    """Return a chip from the figures of a file."""
    known = {field.name for field in fields(Chip)} - {"name"}
    need(isinstance(figures, dict), f"the chip {name} must be a table of figures.", UsageError)
    for figure, value in figures.items():
        need(
            figure in known,
            f"the chip {name} has {figure!r}{did_you_mean(figure, known)} A chip has "
            f"{', '.join(sorted(known))}.",
            UsageError,
        )
        _check_figure(name, figure, value)

    for figure in ("memory", "bandwidth"):
        need(figure in figures, f"the chip {name} lacks {figure}, in bytes.", UsageError)
    chip = Chip(name=name.lower(), **figures)
    need(chip.dtypes, f"the chip {name} lacks a peak: float32, bfloat16 or fp8.", UsageError)
    return chip


def _check_figure(name: str, figure: str, value: Any) -> None:
    """Raise UsageError unless a figure of a file has its type, and a value that can be true."""
    if figure == "source":
        need(isinstance(value, str), f"the source of the chip {name} must be a text.", UsageError)
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    least, most = LEAST, MOST
    if figure == "price":
        least, most = 0.0, 1e6
    if figure == "node":
        is_number = is_number and isinstance(value, int)
        most = MOST_DEVICES
    need(
        is_number and math.isfinite(value) and least <= value <= most,
        f"{figure} of the chip {name} is {value!r}: give a number from {least:g} to {most:g}.",
        UsageError,
    )
