"""Counts and times of what a server does, for /metrics and for Retry-After."""

import math
import time
from collections import Counter, deque
from collections.abc import Callable

from seekjax.generate.engine.request import Request, Update

# upper ends of the buckets of a histogram, in seconds
BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
RECENT = 30.0  # seconds over which speeds are averaged
LONGEST_WAIT = 600  # seconds that Retry-After states at most


class Histogram:
    """How often a time fell into each of the buckets."""

    def __init__(self):
        self.counts = [0] * (len(BOUNDS) + 1)  # the last one has no upper end
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one time."""
        bucket = 0
        while bucket < len(BOUNDS) and seconds > BOUNDS[bucket]:
            bucket += 1
        self.counts[bucket] += 1
        self.sum += seconds


class Recent:
    """The sum of what happened in the last RECENT seconds."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._begin = clock()
        self._amounts: deque[tuple[float, int]] = deque()
        self._total = 0

    def add(self, amount: int) -> None:
        """Count what happens now."""
        self._amounts.append((self._clock(), amount))
        self._total += amount
        self._drop_old()

    def per_second(self) -> float:
        """Return the average of the last RECENT seconds, or since the start if that is shorter."""
        self._drop_old()
        seconds = min(RECENT, self._clock() - self._begin)
        return self._total / max(seconds, 1.0)

    def _drop_old(self) -> None:
        while self._amounts and self._amounts[0][0] < self._clock() - RECENT:
            self._total -= self._amounts.popleft()[1]


class Meter:
    """What one server has done since its start. Used in the event loop alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._begun: dict[Request, float] = {}
        self._answered: set[Request] = set()  # that have their first token
        self.first_token = Histogram()  # seconds from the request to its first token
        self.whole = Histogram()  # seconds from the request to its last token
        self.finished: Counter[str] = Counter()  # by the engine's reason
        self.responses: Counter[tuple[str, int]] = Counter()  # by path and status
        self.tokens = Recent(clock)
        self.ends = Recent(clock)

    def begin(self, request: Request) -> None:
        """Note that a request has been accepted."""
        self._begun[request] = self._clock()

    def add(self, update: Update) -> None:
        """Count an update of a request that has begun."""
        request = update.request
        seconds = self._clock() - self._begun[request]
        self.tokens.add(len(update.tokens))
        if update.tokens and request not in self._answered:
            self._answered.add(request)
            self.first_token.add(seconds)
        if update.finish_reason:
            self.whole.add(seconds)
            self._end(request, update.finish_reason)

    def cancel(self, request: Request) -> None:
        """Note that a request has ended before its last token."""
        if request in self._begun:
            self._end(request, "cancelled")

    def seconds_until_free(self, in_progress: int) -> int:
        """Return how long the requests in progress take at the speed of the last ones."""
        ends = self.ends.per_second()
        if not ends:
            return 10
        return min(LONGEST_WAIT, max(1, math.ceil(in_progress / ends)))

    def _end(self, request: Request, reason: str) -> None:
        del self._begun[request]
        self._answered.discard(request)
        self.finished[reason] += 1
        self.ends.add(1)
