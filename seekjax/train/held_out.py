"""Sums of figures over held-out batches, for every kind of training."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

Sums = dict[str, float]


def add_up(figures: Iterable[Mapping[str, jax.Array | float]]) -> Sums:
    """Return the sum of each figure over batches; {} for no batches.

    The figures are fetched after all of them were requested, so that the devices never wait.
    """
    rows = list(figures)
    if not rows:
        return {}
    return {name: sum(float(row[name]) for row in rows) for name in rows[0]}


def measure_sources(
    measure: Callable[[Any], Mapping[str, jax.Array]], sources: Mapping[str, Iterable[Any]]
) -> dict[str, Sums]:
    """Return the sums of `measure(batch)` over the batches of each source."""
    return {
        name: add_up([measure(batch) for batch in batches]) for name, batches in sources.items()
    }


def bits_per_byte(sums: Sums) -> float:
    """Return bits per byte of text from summed "nats" and "bytes"."""
    return sums["nats"] / float(np.log(2)) / max(sums["bytes"], 1)
