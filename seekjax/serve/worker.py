"""An engine and its thread, as the event loop sees them.

Only that thread touches the engine. Orders reach it through a queue; its updates are handed over
in the event loop.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from seekjax.generate.engine.request import Request, Update
from seekjax.generate.engine.settings import EngineStatistics

log = logging.getLogger("seekjax.serve")

MOST_FAILURES = 3  # of an engine one after the other; then it makes no step any more


class Engine(Protocol):
    """The part of seekjax.generate.engine.Engine that a worker uses."""

    @property
    def idle(self) -> bool:
        """There is nothing to do."""
        ...

    def submit(self, request: Request) -> None:
        """Accept a request; raises GenerateError for one that cannot be served."""
        ...

    def cancel(self, request: Request) -> None:
        """End a request; its pages are free at once."""
        ...

    def step(self) -> list[Update]:
        """Advance, and return what is new."""
        ...

    def statistics(self) -> EngineStatistics:
        """Return the counters and the state."""
        ...


class Worker:
    """Steps one engine in a thread of its own.

    context: makes the context that the thread needs, as a mesh.
    """

    def __init__(
        self,
        engine: Engine,
        context: Callable[[], AbstractContextManager[Any]],
    ):
        self.failed = False  # for good
        self._engine = engine
        self._context = context
        self._orders: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(
        self,
        deliver: Callable[[Sequence[Update]], None],
        fail: Callable[["Worker"], None],
    ) -> None:
        """Start the thread; call it in the event loop that calls `deliver` and `fail`."""
        self._loop = asyncio.get_running_loop()
        self._deliver = deliver
        self._fail = fail
        self._thread.start()

    async def end(self) -> None:
        """End the thread behind the orders that it has."""
        self._orders.put(None)
        await asyncio.to_thread(self._thread.join)

    def submit(self, request: Request) -> asyncio.Future[None]:
        """Hand a request to the engine; its result is GenerateError if it cannot be served."""
        return self._order(lambda: self._engine.submit(request))

    def cancel(self, request: Request) -> None:
        """End a request; do not wait for it."""
        self._orders.put(lambda: self._engine.cancel(request))

    def statistics(self) -> asyncio.Future[EngineStatistics]:
        """Return the engine's counters and state."""
        return self._order(self._engine.statistics)

    def _order(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        """Return what `work` returns when the engine's thread calls it between two steps."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            if done.cancelled():
                return
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)

        def run() -> None:
            result, failure = None, None
            try:
                result = work()
            except Exception as error:
                failure = error
            loop.call_soon_threadsafe(settle, result, failure)

        self._orders.put(run)
        return done

    def _work(self) -> None:
        """Run the engine until the order to end; the thread."""
        failures = 0
        with self._context():
            while self._take_orders(failures >= MOST_FAILURES):
                try:
                    updates = self._engine.step()
                    failures = 0
                except Exception:
                    failures += 1
                    log.exception("the engine failed")
                    self._loop.call_soon_threadsafe(self._note_failure, failures)
                    continue
                if updates:
                    self._loop.call_soon_threadsafe(self._deliver, updates)

    def _take_orders(self, failed: bool) -> bool:
        """Run the orders that have come; False = end.

        An idle engine waits for one, and one that has `failed` for good makes no step any more.
        """
        while True:
            try:
                order = self._orders.get(block=failed or self._engine.idle)
            except queue.Empty:
                return True
            if order is None:
                return False
            try:
                order()
            except Exception:  # of a cancellation, whose caller does not wait
                log.exception("the engine failed")

    def _note_failure(self, failures: int) -> None:
        """Say that a step has failed; in the event loop."""
        self.failed = failures >= MOST_FAILURES
        self._fail(self)
