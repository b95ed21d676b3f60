"""The engine's thread, and what the protocols ask of it from the event loop.

Only that thread touches the engine. Requests and cancellations reach it through a queue; its
updates come back into one asyncio queue per answer.
"""

import asyncio
import itertools
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from seekjax.errors import GenerateError
from seekjax.generate.engine.request import Request, Update
from seekjax.generate.engine.settings import EngineStatistics
from seekjax.serve.answer import Answer
from seekjax.serve.errors import RequestError
from seekjax.serve.events import Event
from seekjax.serve.meter import Meter

log = logging.getLogger("seekjax.serve")

MOST_FAILURES = 3  # of the engine one after the other; then the server serves nothing more


class Engine(Protocol):
    """The part of seekjax.generate.engine.Engine that a service uses."""

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


class Answers:
    """The choices of one answer, in progress."""

    def __init__(self, service: "Service", choices: dict[Request, Answer]):
        self._service = service
        self._choices = choices
        self._numbers = dict(zip(choices, itertools.count()))
        self.updates: asyncio.Queue[Update] = asyncio.Queue()

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """Yield each event with the number of its choice, until all choices are finished.

        Raises the error of an update behind the events of its tokens: RequestError if the engine
        could not go on, or what a token filter has raised.
        """
        unfinished = set(self._choices)
        while unfinished:
            update = await self.updates.get()
            answer = self._choices[update.request]
            for event in answer.feed(update):
                yield self._numbers[update.request], event
            if update.error is not None:
                raise update.error
            if answer.finished:
                unfinished.discard(update.request)
                self._service.cancel(update.request)  # after a stop string; else it has ended

    def close(self) -> None:
        """Cancel whatever is unfinished."""
        for request in self._choices:
            self._service.cancel(request)


class Service:
    """Serves answers from one engine.

    most: requests in progress at most, those that wait included. context: makes the context that
    the engine's thread needs, as a mesh.
    """

    def __init__(
        self,
        engine: Engine,
        most: int,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ):
        self.meter = Meter()
        self.failure = ""  # why the server serves nothing more
        self.draining = False
        self._engine = engine
        self._most = most
        self._context = context
        self._orders: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._running: dict[Request, Answers] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Start the engine's thread; call it in the event loop that the answers are read in."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self, seconds: float) -> None:
        """Refuse new requests, wait so long for those in progress, end the rest, and the thread."""
        self.draining = True
        end = asyncio.get_running_loop().time() + seconds
        while self._running and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.05)
        self._end_all("the server has shut down before the end of the answer.")
        self._orders.put(None)
        await asyncio.to_thread(self._thread.join)

    @property
    def in_progress(self) -> int:
        """Requests that are accepted and unfinished."""
        return len(self._running)

    async def begin(self, choices: dict[Request, Answer]) -> Answers:
        """Hand the requests of one answer to the engine.

        Raises RequestError with status 429 if too many are in progress, 503 if the server ends, and
        400 for one that the engine cannot serve, or for more than may ever be in progress.
        """
        self._check_open(len(choices))
        answers = Answers(self, choices)
        for request in choices:
            self._running[request] = answers
            self.meter.begin(request)
        try:
            await self._order(lambda: self._submit(list(choices)))
        except GenerateError as error:
            self._forget(choices)
            raise RequestError(str(error)) from error
        except asyncio.CancelledError:
            answers.close()
            raise
        return answers

    def cancel(self, request: Request) -> None:
        """End a request that is in progress; do nothing for another."""
        if self._running.pop(request, None) is not None:
            self.meter.cancel(request)
            self._orders.put(lambda: self._engine.cancel(request))

    async def statistics(self) -> EngineStatistics:
        """Return the engine's counters and state."""
        return await self._order(self._engine.statistics)

    def _check_open(self, requests: int) -> None:
        """Raise RequestError unless this number of requests can be accepted now."""
        if self.failure:
            raise RequestError(self.failure, http=503, code="engine_failed")
        if self.draining:
            raise RequestError("the server is shutting down.", http=503, retry_after=30)
        if requests > self._most:
            raise RequestError(
                f"the request has {requests} choices in all, and this server takes {self._most} at "
                "a time: send fewer prompts, or a smaller n.",
                code="too_many_choices",
            )
        if len(self._running) + requests > self._most:
            raise RequestError(
                f"{len(self._running)} requests are in progress, and this server takes "
                f"{self._most} at a time: try again later.",
                http=429,
                code="queue_full",
                retry_after=self.meter.seconds_until_free(len(self._running)),
            )

    def _submit(self, requests: Sequence[Request]) -> None:
        """Submit all requests or none; in the engine's thread."""
        for index, request in enumerate(requests):
            try:
                self._engine.submit(request)
            except GenerateError:
                for earlier in requests[:index]:
                    self._engine.cancel(earlier)
                raise

    async def _order(self, work: Callable[[], Any]) -> Any:
        """Return what `work` returns, called in the engine's thread between two steps."""
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
        return await done

    def _work(self) -> None:
        """Run the engine until the order to end; the engine's thread."""
        assert self._loop is not None
        failures = 0
        with self._context():
            while self._take_orders(failures >= MOST_FAILURES):
                try:
                    updates = self._engine.step()
                    failures = 0
                except Exception:
                    failures += 1
                    log.exception("the engine failed")
                    self._loop.call_soon_threadsafe(self._fail, failures >= MOST_FAILURES)
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

    def _deliver(self, updates: Sequence[Update]) -> None:
        """Hand each update to its answer; in the event loop."""
        for update in updates:
            answers = self._running.get(update.request)
            if answers is None:  # cancelled meanwhile
                continue
            self.meter.add(update)
            if update.finish_reason:
                del self._running[update.request]
            answers.updates.put_nowait(update)

    def _fail(self, for_good: bool) -> None:
        """End all answers in progress with an error; in the event loop."""
        if for_good:
            self.failure = "the engine has failed repeatedly; the server's log says why."
        self._end_all("the engine has failed; the server's log says why.")

    def _end_all(self, sentence: str) -> None:
        """End all answers in progress with an error."""
        for request, answers in list(self._running.items()):
            self.cancel(request)
            error = RequestError(sentence, http=500)
            answers.updates.put_nowait(Update(request, [], "error", error))

    def _forget(self, requests: Iterable[Request]) -> None:
        """Count requests out that the engine has not accepted."""
        for request in requests:
            self._running.pop(request, None)
            self.meter.cancel(request)
