"""What a stranger may ask of the server: sizes, times, connections, keys.

uvicorn has no deadline for a client that sends its request slowly, or does not take the answer, so
`LimitedProtocol` has both: it disconnects such a client.
"""

import asyncio
import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from seekjax.serve.errors import RequestError, openai_error

RETRY_AFTER = 10  # seconds
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Limits:
    """The limits of one server."""

    body: int = 8 * 2**20  # bytes of a request's body
    head: int = 32 * 2**10  # bytes of its head
    send_seconds: float = 10.0  # for a client to send a whole request
    take_seconds: float = 60.0  # for a client to take what waits for it
    per_address: int = 256  # connections of one address at a time
    connections: int = 1024  # of all addresses


class LimitedProtocol(H11Protocol):
    """HTTP/1.1 with deadlines for the client, and a limit on connections.

    `limited` makes a class for one server, which counts its connections.
    """

    limits: ClassVar[Limits] = Limits()
    count: ClassVar[Counter[str]] = Counter()  # connections of each address

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._address = ""
        self._taking: asyncio.TimerHandle | None = None
        self._silent = False  # the client has sent nothing, as a browser that connects early

    def connection_made(self, transport: Any) -> None:
        """Accept a connection, or answer that there are too many."""
        super().connection_made(transport)
        self._address = self.client[0] if self.client else "unix"
        self.count[self._address] += 1

        if self.count[self._address] > self.limits.per_address:
            sentence = f"this address has {self.limits.per_address} connections already."
            self._refuse(sentence, 429, "too_many_connections")
        elif self.count.total() > self.limits.connections:
            sentence = f"the server has {self.limits.connections} connections already."
            self._refuse(sentence, 503, "too_many_connections")
        else:
            self._silent = True
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a connection out."""
        self._disarm()
        self._stop_waiting()
        self.count[self._address] -= 1
        if not self.count[self._address]:
            del self.count[self._address]
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read a part of a request; its deadline holds until the whole of it is there."""
        if self.transport.is_closing():
            return
        self._silent = False
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Expect the next request of this connection, of which a part may be there already."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """Wait for the client to take what is sent, and not longer than the limit."""
        super().pause_writing()
        seconds = self.limits.take_seconds
        self._taking = self.loop.call_later(seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the client has taken what was sent."""
        self._stop_waiting()
        super().resume_writing()

    def _stop_waiting(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def _watch(self) -> None:
        """Arm the deadline if a part of a request is missing, and disarm it if none is."""
        received, _ = self.conn.trailing_data
        begun = self.conn.their_state is h11.IDLE and bool(received)
        if begun or self.conn.their_state is h11.SEND_BODY:
            self._arm()
        else:
            self._disarm()

    def _arm(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.limits.send_seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            seconds = f"{self.limits.send_seconds:g}"
            sentence = f"the request was not complete after {seconds} seconds."
            self._refuse(sentence, 408, "request_too_slow")

    def _refuse(
        self,
        sentence: str,
        status: int,
        code: str,
    ) -> None:
        """Answer with an error and close; only close if an answer has begun, or no request."""
        begun = self.cycle is not None and self.cycle.response_started
        ended = self.cycle is not None and self.cycle.response_complete
        if ended or not (begun or self._silent):
            body = json.dumps(openai_error(RequestError(sentence, status, code=code)))
            head = (
                f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
                "content-type: application/json",
                f"content-length: {len(body)}",
                f"retry-after: {RETRY_AFTER}",
                "connection: close",
            )
            self.transport.write("\r\n".join([*head, "", body]).encode())
        self.transport.close()


def limited(limits: Limits) -> type[LimitedProtocol]:
    """Return the protocol class of one server."""
    return type("Limited", (LimitedProtocol,), {"limits": limits, "count": Counter()})


class Keys:
    """Compares the key of a request with those that are right, in constant time."""

    def __init__(self, keys: Iterable[str]):
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accept(self, key: str) -> bool:
        """Return whether a key is right; every key is compared, so the time tells nothing."""
        digest = _digest(key)
        right = False
        for known in self._digests:
            right |= hmac.compare_digest(digest, known)
        return right


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server at this address."""
    return host in LOOPBACK or host.startswith("127.")
