"""The range of each number of a config, stated with the field as its type.

    experts: Size = 16
    top_p: ShareAboveZero = 1.0

`check_values` (seekjax/config/values.py) compares them with a config.
"""

import math
import struct
from dataclasses import dataclass
from typing import Annotated

FLOAT32_MAX = float.fromhex("0x1.fffffep+127")
FLOAT32_TINY = float.fromhex("0x1p-126")  # the smallest that accelerators do not round to 0


@dataclass(frozen=True)
class Range:
    """The numbers that a field may have: from `least` to `most`, ends included unless said."""

    least: float
    most: float
    above: bool = False  # without `least`
    below: bool = False  # without `most`

    def complaint(self, value: float) -> str:
        """Return "it must be at least 1", or "" if the value lies in the range."""
        if value != value or value in (math.inf, -math.inf):
            return "it must be a finite number"
        if value < self.least or (self.above and value == self.least):
            return f"it must be {'above' if self.above else 'at least'} {_written(self.least)}"
        if value > self.most or (self.below and value == self.most):
            return f"it must be {'below' if self.below else 'at most'} {_written(self.most)}"
        return ""


def in_float32(value: float) -> float:
    """Return what a number becomes on a device: rounded, 0 if it is tiny, infinite if too large."""
    try:
        rounded = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)
    return 0.0 if abs(rounded) < FLOAT32_TINY else rounded


def _written(number: float) -> str:
    """Return a number as a user would write it."""
    return f"{number:,}" if isinstance(number, int) else f"{number:g}"


# Whole numbers: sizes of axes, layers, and what a 32-bit integer counts.
Size = Annotated[int, Range(1, 2**24)]
SizeOrZero = Annotated[int, Range(0, 2**24)]
Layers = Annotated[int, Range(1, 10_000)]
LayersOrZero = Annotated[int, Range(0, 10_000)]
Depth = Annotated[int, Range(0, 16)]  # of modules that are traced one by one
Count = Annotated[int, Range(1, 2**31 - 1)]
CountOrZero = Annotated[int, Range(0, 2**31 - 1)]
Processes = Annotated[int, Range(0, 1024)]
Port = Annotated[int, Range(0, 65535)]
Seed = Annotated[int, Range(0, 2**63 - 1)]

# Other numbers, all finite in float32.
Finite = Annotated[float, Range(-FLOAT32_MAX, FLOAT32_MAX)]
Positive = Annotated[float, Range(0, FLOAT32_MAX, above=True)]
NotNegative = Annotated[float, Range(0, FLOAT32_MAX)]
AboveOne = Annotated[float, Range(1, FLOAT32_MAX, above=True)]
AtLeastOne = Annotated[float, Range(1, FLOAT32_MAX)]
Share = Annotated[float, Range(0, 1)]
ShareAboveZero = Annotated[float, Range(0, 1, above=True)]
ShareBelowOne = Annotated[float, Range(0, 1, below=True)]
