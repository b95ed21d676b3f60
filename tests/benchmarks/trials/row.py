"""A row of the scoreboard."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

SHOWN = 6  # misses of a row that the table names


@dataclass
class Row:
    """What was tried, how often the result was as expected, and what missed."""

    name: str
    expected: str
    tried: int = 0
    misses: list[str] = field(default_factory=list)
    seconds: float = 0.0
    note: str = ""

    def check(self, holds: bool, miss: str) -> bool:
        """Count a try; `miss` says what came instead of what was expected."""
        self.tried += 1
        if not holds:
            self.misses.append(miss)
        return holds

    def line(self) -> str:
        """Return the row as a line of a table."""
        right = self.tried - len(self.misses)
        misses = "; ".join(self.misses[:SHOWN])
        if len(self.misses) > SHOWN:
            misses += f"; and {len(self.misses) - SHOWN} more"
        cells = (
            self.name,
            self.expected,
            str(self.tried),
            f"{right} ({right / self.tried:.0%})" if self.tried else "not run",
            misses.replace("|", "\\|").replace("\n", " ") or "none",
            f"{self.seconds:.0f}",
            self.note,
        )
        return f"| {' | '.join(cells)} |"

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Add the seconds of a block."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - began


def some(number: int, share: float, least: int = 1) -> int:
    """Return a share of a number of tries, at least so many."""
    return max(least, round(number * share))
