"""The held-out split: a hash of each text decides its side, whatever other texts there are.

Copies of a text therefore fall on the same side, and a corpus that grows keeps its split.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Split:
    """The documents of a source, already divided: two sequences without a text in common."""

    train: Sequence[str]
    held_out: Sequence[str]


def hash_fraction(text: str) -> float:
    """Return a number from 0 to 1 that depends on the text alone and is spread evenly."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def is_held_out(text: str, share: float) -> bool:
    """Return whether a text belongs to the held-out side of this share."""
    return hash_fraction(text) < share


def held_out_mask(fractions: np.ndarray, share: float) -> np.ndarray:
    """Return which texts are held out, given their hash fractions: bool [texts].

    With few texts all of them may fall on one side. Then the one nearest to the border changes
    sides, so that each side has at least one text if there are two or more and share is not 0.
    """
    held_out = fractions < share

    if share and not held_out.any():
        held_out[fractions.argmin()] = True
    if held_out.all():
        held_out[fractions.argmax()] = False

    return held_out
