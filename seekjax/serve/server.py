"""The server's life: sockets, the ready line, and the end that a signal asks for."""

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn
from starlette.types import ASGIApp

from seekjax.errors import UsageError
from seekjax.serve.limits import Limits, limited
from seekjax.serve.service import Service

STOPS = (signal.SIGINT, signal.SIGTERM)
BACKLOG = 1024  # connections that wait to be accepted


def bind(host: str, port: int) -> socket.socket:
    """Return a socket at an address, where it does not listen yet.

    Raises UsageError if the address is taken or does not exist.
    """
    try:
        [family, kind, protocol, _, address] = socket.getaddrinfo(
            host,
            port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise UsageError(
            f"the server cannot listen on {host} port {port} ({error.strerror}): name another "
            "--port or --host."
        ) from error
    bound.setblocking(False)
    return bound


class Server(uvicorn.Server):
    """Serves until a signal: the first one lets the answers in progress end, the second does not.

    drain: seconds for these answers. ready and say: called when requests are accepted, and with
    what a signal does.
    """

    def __init__(
        self,
        app: ASGIApp,
        service: Service,
        limits: Limits,
        drain: float = 60.0,
        ready: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda text: None,
    ):
        config = uvicorn.Config(
            app,
            http=limited(limits),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            h11_max_incomplete_event_size=limits.head,
        )
        super().__init__(config)
        self._service = service
        self._drain = drain
        self._ready = ready
        self._say = say
        self._stopping: list[asyncio.Task[None]] = []
        self.interrupted = False  # by a second signal

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the engine's thread and listen."""
        self._service.start()
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing more, let answers end, and end the engine's thread."""
        if not self._stopping:
            self._stop(self._drain)
        await super().shutdown(sockets)
        await asyncio.gather(*self._stopping)

    def request_stop(self) -> None:
        """Begin to end; a second call ends at once. Call it in the event loop."""
        if not self.should_exit:
            self._say(f"ends after the answers in progress, {self._drain:g} s at most")
            self._stop(self._drain)
            self.should_exit = True
            return
        self.interrupted = True
        self.force_exit = True
        self._stop(0)

    def _stop(self, seconds: float) -> None:
        self._stopping.append(asyncio.create_task(self._service.stop(seconds)))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let signals end the server; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in STOPS:
            loop.add_signal_handler(number, self.request_stop)
        try:
            yield
        finally:
            for number in STOPS:
                with suppress(ValueError, RuntimeError):
                    loop.remove_signal_handler(number)
