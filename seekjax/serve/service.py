"""What the protocols ask of the engines, from the event loop: bounded, cancelled, accounted for.

The engines run in threads of their own, see worker.py; their updates come back into one asyncio
queue per answer.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from seekjax.errors import GenerateError
from seekjax.generate.engine.request import Request, Update
from seekjax.generate.engine.settings import EngineStatistics
from seekjax.serve.answer import Answer
from seekjax.serve.errors import RequestError
from seekjax.serve.events import Event
from seekjax.serve.meter import Meter
from seekjax.serve.router import Router
from seekjax.serve.worker import Engine, Worker


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


class Running(NamedTuple):
    """Where a request in progress belongs."""

    answers: Answers
    engine: int  # its number


class Service:
    """Serves answers from engines that have the same model.

    most: requests in progress at most, those that wait included. context: makes the context that
    an engine's thread needs, as a mesh.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        most: int,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ):
        self.meter = Meter()
        self.failure = ""  # why the server serves nothing more
        self.draining = False
        self._workers = [Worker(engine, context) for engine in engines]
        self._router = Router(len(engines))
        self._most = most
        self._running: dict[Request, Running] = {}

    def start(self) -> None:
        """Start the engines' threads; call it in the event loop that the answers are read in."""
        for worker in self._workers:
            worker.start(self._deliver, self._fail)

    async def stop(self, seconds: float) -> None:
        """Refuse new requests, wait so long for those in progress, end the rest and the threads."""
        self.draining = True
        end = asyncio.get_running_loop().time() + seconds
        while self._running and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.05)
        self._end(list(self._running), "the server has shut down before the end of the answer.")
        for worker in self._workers:
            await worker.end()

    @property
    def in_progress(self) -> int:
        """Requests that are accepted and unfinished."""
        return len(self._running)

    async def begin(self, choices: dict[Request, Answer]) -> Answers:
        """Hand the requests of one answer to the engines, all or none.

        Raises RequestError with status 429 if too many are in progress, 503 if the server ends, and
        400 for one that cannot be served, or for more than may ever be in progress.
        """
        self._check_open(len(choices))
        answers = Answers(self, choices)
        accepted = []
        for request in choices:
            engine = self._router.choose(request, self._load())
            self._running[request] = Running(answers, engine)
            self.meter.begin(request)
            accepted.append(self._workers[engine].submit(request))
        try:
            await asyncio.gather(*accepted)
        except GenerateError as error:
            answers.close()
            raise RequestError(str(error)) from error
        except asyncio.CancelledError:
            answers.close()
            raise
        return answers

    def cancel(self, request: Request) -> None:
        """End a request that is in progress; do nothing for another."""
        if request in self._running:
            engine = self._running.pop(request).engine
            self.meter.cancel(request)
            self._workers[engine].cancel(request)

    async def statistics(self) -> EngineStatistics:
        """Return the sums of the engines' counters and states."""
        each = [worker.statistics() for worker in self._workers]
        first, *others = await asyncio.gather(*each)
        return sum(others, first)

    def _load(self) -> dict[int, int]:
        """Return how many requests each engine has in progress; those that have failed are left
        out.
        """
        load = {}
        for number, worker in enumerate(self._workers):
            if not worker.failed:
                load[number] = len(self._requests_of(number))
        return load

    def _requests_of(self, engine: int) -> list[Request]:
        """Return the requests that an engine has in progress."""
        return [request for request, own in self._running.items() if own.engine == engine]

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

    def _deliver(self, updates: Sequence[Update]) -> None:
        """Hand each update to its answer; in the event loop."""
        for update in updates:
            request = update.request
            if request not in self._running:  # cancelled meanwhile
                continue
            answers = self._running[request].answers
            self.meter.add(update)
            if update.finish_reason:
                del self._running[request]
            answers.updates.put_nowait(update)

    def _fail(self, worker: Worker) -> None:
        """End the answers of an engine that has failed; in the event loop."""
        if all(worker.failed for worker in self._workers):
            self.failure = "the engine has failed repeatedly; the server's log says why."
        affected = self._requests_of(self._workers.index(worker))
        self._end(affected, "the engine has failed; the server's log says why.")

    def _end(self, requests: Sequence[Request], sentence: str) -> None:
        """End requests in progress with an error."""
        for request in requests:
            answers = self._running[request].answers
            self.cancel(request)
            error = RequestError(sentence, http=500)
            answers.updates.put_nowait(Update(request, [], "error", error))
