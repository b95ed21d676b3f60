"""Responses over the events of an answer: whole, or as server-sent events while it is generated.

A client that goes away ends what is generated for it.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Iterable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from seekjax.serve.errors import RequestError, defect
from seekjax.serve.service import Answers
from seekjax.serve.writer import Writer

T = TypeVar("T")

log = logging.getLogger("seekjax.serve")

KEEP_ALIVE = 15.0  # seconds without a frame after which a comment shows that the stream is alive
COMMENT = ": keep-alive\n\n"


class ClientGone(Exception):
    """The client has closed the connection."""


def json_response(
    body: dict[str, Any],
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    """Return a response with a JSON object."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return Response(text, status, headers, "application/json")


async def respond(
    request: Request,
    answers: Answers,
    writer: Writer,
) -> Response:
    """Return the response of an answer; of a stream its beginning, which is sent at once.

    Raises ClientGone, and of an answer that is not a stream what Answers.events raises.
    """
    if writer.stream:
        return EventStream(answers, writer)

    async def collect() -> Response:
        async for choice, event in answers.events():
            writer.add(choice, event)
        return json_response(writer.whole())

    try:
        return await while_connected(request.receive, collect())
    finally:
        answers.close()


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """Return what `work` returns. Raises ClientGone, and cancels `work`, if the client leaves."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        await _end(working)
        await _end(leaving)


async def _disconnected(receive: Receive) -> None:
    """Return once the client has gone."""
    message = await receive()
    while message["type"] != "http.disconnect":
        message = await receive()


async def _end(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    await asyncio.wait((task,))


class EventStream(Response):
    """A stream of server-sent events."""

    def __init__(self, answers: Answers, writer: Writer):
        self.status_code = 200
        self.background = None
        self.init_headers(
            {
                "content-type": "text/event-stream; charset=utf-8",
                "cache-control": "no-cache",
                "x-accel-buffering": "no",  # or nginx would hold the frames back
            }
        )
        self._answers = answers
        self._writer = writer
        self._sent = 0.0  # when the last frame was

    async def __call__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Send the stream; it ends with the answer, with the client, or with an error."""
        try:
            await while_connected(receive, self._send_all(send))
        finally:
            self._answers.close()

    async def _send_all(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        beat = asyncio.ensure_future(self._keep_alive(send))
        try:
            await self._send_frames(send, self._writer.begin())
            async for choice, event in self._answers.events():
                await self._send_frames(send, self._writer.add(choice, event))
            await self._send_frames(send, self._writer.end())
        except RequestError as error:
            await self._send_frames(send, self._writer.fail(error))
        except Exception:  # the status has been sent: the error is part of the stream
            log.exception("a stream failed")
            await self._send_frames(send, self._writer.fail(defect()))
        finally:
            await _end(beat)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_frames(self, send: Send, frames: Iterable[str]) -> None:
        """Send frames together."""
        body = "".join(frames).encode()
        if body:
            self._sent = asyncio.get_running_loop().time()
            await send({"type": "http.response.body", "body": body, "more_body": True})

    async def _keep_alive(self, send: Send) -> None:
        """Send a comment whenever nothing else was sent for a while, as during a long prefill."""
        clock = asyncio.get_running_loop().time
        self._sent = clock()
        while True:
            quiet = clock() - self._sent
            if quiet >= KEEP_ALIVE:
                await self._send_frames(send, (COMMENT,))
            else:
                await asyncio.sleep(KEEP_ALIVE - quiet)
