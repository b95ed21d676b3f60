"""What every request passes: keys, hosts, and the form in which errors leave.

Nothing that happens to a request ends the server, and no traceback reaches a client.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seekjax.serve.errors import RequestError, defect, openai_error
from seekjax.serve.fields import parse_body
from seekjax.serve.limits import LOOPBACK, Keys, Limits
from seekjax.serve.meter import Meter
from seekjax.serve.respond import ClientGone, json_response
from seekjax.terminal import visible

log = logging.getLogger("seekjax.serve")


class Gate:
    """Wraps the application.

    keys: those that are accepted; without any, the server is open. public: paths that need no key.
    hosts: names that the Host header may have, so that a foreign page in a browser cannot reach a
    server of this machine by a name of its own; none = any. forms: of an error by the beginning of
    the path, OpenAI's for all others.
    """

    def __init__(
        self,
        app: ASGIApp,
        meter: Meter,
        keys: Keys,
        public: re.Pattern[str],
        hosts: Sequence[str],
        forms: Mapping[str, Callable[[RequestError], dict[str, Any]]],
    ):
        self._app = app
        self._meter = meter
        self._keys = keys
        self._public = public
        self._hosts = hosts
        self._forms = forms

    async def __call__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Answer one request."""
        if scope["type"] != "http":  # the beginning and the end of the server
            await self._app(scope, receive, send)
            return

        start = time.monotonic()
        status = 0

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        request = Request(scope)
        try:
            self._check(request)
            scope["app"] = self  # by which the router raises HTTPException for an unknown path
            await self._app(scope, receive, note)
        except (ClientGone, ClientDisconnect):
            log.info("%s %s: the client has gone", *_shown(scope))
        except Exception as error:
            if status:
                log.exception("%s %s failed in its answer", *_shown(scope))
                raise
            await self._refuse(error, scope, receive, note)

        self._meter.responses[_label(scope), status] += 1
        if status:
            seconds = time.monotonic() - start
            log.info("%s %s %d %.2f s", *_shown(scope), status, seconds)

    def _check(self, request: Request) -> None:
        """Raise RequestError unless the request has a right host and a right key."""
        host = request.headers.get("host", "")
        name = host.rpartition(":")[0] if _has_port(host) else host
        if self._hosts and name.strip("[]") not in self._hosts:
            raise RequestError(
                f"this server answers to {', '.join(self._hosts)} and not to {name[:60]!r}.",
                http=403,
                code="wrong_host",
            )
        if not self._keys or self._public.fullmatch(request.url.path):
            return
        if not self._keys.accept(key_of(request.headers)):
            raise RequestError(
                "the API key is missing or wrong: send it as `Authorization: Bearer KEY`.",
                http=401,
                code="invalid_api_key",
            )

    async def _refuse(
        self,
        error: Exception,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Answer with an error in the form of the protocol."""
        if isinstance(error, HTTPException):
            error = http_error(error)
        if not isinstance(error, RequestError):
            log.error("%s %s failed", *_shown(scope), exc_info=error)
            error = defect()

        form = openai_error
        for beginning, other in self._forms.items():
            if scope["path"].startswith(beginning):
                form = other
        headers = {}
        if error.retry_after:
            headers["retry-after"] = str(error.retry_after)
        if error.http == 401:
            headers["www-authenticate"] = "Bearer"
        await json_response(form(error), error.http, headers)(scope, receive, send)


def key_of(headers: Mapping[str, str]) -> str:
    """Return the key of a request, as a bearer token or as Anthropic's clients send it."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return headers.get("x-api-key", "")


def _shown(scope: Scope) -> tuple[str, str]:
    """Return the method and the path for the log, in which a client could write lines else."""
    return scope["method"], visible(scope["path"][:200])


def _label(scope: Scope) -> str:
    """Return the path for the metrics; those that no route has count together."""
    if "endpoint" not in scope:
        return "other"
    beginning = scope["path"].removesuffix(scope.get("path_params", {}).get("name", ""))
    return beginning.rstrip("/") or "/"


def _has_port(host: str) -> bool:
    """Return whether a Host header ends with a port; the address of IPv6 has colons itself."""
    return ":" in host and not host.endswith("]")


def local_names(host: str) -> tuple[str, ...]:
    """Return the names by which a server of this machine alone may be reached."""
    return LOOPBACK if host in LOOPBACK else (*LOOPBACK, host)


async def read_json(request: Request, limits: Limits) -> dict[str, Any]:
    """Return the JSON object in a request's body.

    Raises RequestError if the body is too long (413), is declared as something else (415), or is
    not a JSON object.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise RequestError(
            f"the content type is {kind[:40]!r}: send JSON as application/json.",
            http=415,
            code="unsupported_media_type",
        )

    length = request.headers.get("content-length", "")
    too_long = RequestError(
        f"the body has more than {limits.body:,} bytes.", http=413, code="body_too_long"
    )
    if length.isdecimal() and len(length) < 20 and int(length) > limits.body:
        raise too_long
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limits.body:
            raise too_long
    return parse_body(bytes(body))


def http_error(error: HTTPException) -> RequestError:
    """Return Starlette's error, as for an unknown path, in this project's words."""
    sentences = {
        404: "there is nothing at this path: /openapi.json lists what there is.",
        405: "this path has another method: /openapi.json lists them.",
    }
    return RequestError(sentences.get(error.status_code, str(error.detail)), http=error.status_code)
