"""The application: which path is answered by what."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp

from seekjax.serve import chat, completions, messages, models, openapi, responses
from seekjax.serve.choices import conversation_choices, text_choices
from seekjax.serve.conversation import Conversation
from seekjax.serve.errors import RequestError, anthropic_error
from seekjax.serve.gate import Gate, read_json
from seekjax.serve.limits import Keys, Limits
from seekjax.serve.metrics import CONTENT_TYPE, metrics_text
from seekjax.serve.page import routes as page_routes
from seekjax.serve.respond import json_response, respond
from seekjax.serve.served import ServedModel
from seekjax.serve.service import Service
from seekjax.serve.writer import Writer

Read = Callable[[dict[str, Any], ServedModel], tuple[Conversation, Writer]]
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Api:
    """What the endpoints share."""

    service: Service
    served: ServedModel
    limits: Limits = field(default_factory=Limits)
    # called with the body of each request, where prompts are to be logged
    log_body: Callable[[dict[str, Any]], None] | None = None

    async def body(self, request: Request) -> dict[str, Any]:
        """Return the body of a request. Raises RequestError as `read_json`."""
        body = await read_json(request, self.limits)
        if self.log_body is not None:
            self.log_body(body)
        return body

    def conversing(self, read: Read) -> Endpoint:
        """Return the endpoint of a protocol for conversations."""

        async def answer(request: Request) -> Response:
            conversation, writer = read(await self.body(request), self.served)
            # templates and tokenizers take their time, in which others are served
            choices = await run_in_threadpool(conversation_choices, conversation, self.served)
            answers = await self.service.begin(choices)
            return await respond(request, answers, writer)

        return answer

    async def complete(self, request: Request) -> Response:
        """Answer /v1/completions."""
        body = await self.body(request)
        conversation, texts, writer = await run_in_threadpool(completions.read, body, self.served)
        choices = await run_in_threadpool(text_choices, conversation, self.served, texts.prompts)
        answers = await self.service.begin(choices)
        return await respond(request, answers, writer)

    async def list_models(self, request: Request) -> Response:
        """Answer /v1/models."""
        return json_response(models.model_list(self.served))

    async def show_model(self, request: Request) -> Response:
        """Answer /v1/models/NAME."""
        return json_response(models.model_entry(request.path_params["name"], self.served))

    def about_tokens(
        self,
        work: Callable[[dict[str, Any], ServedModel], dict[str, Any]],
    ) -> Endpoint:
        """Return the endpoint of /tokenize or /detokenize."""

        async def answer(request: Request) -> Response:
            body = await self.body(request)
            return json_response(await run_in_threadpool(work, body, self.served))

        return answer

    async def tokenizer_info(self, request: Request) -> Response:
        """Answer /tokenizer_info."""
        return json_response(models.tokenizer_info(self.served))

    async def health(self, request: Request) -> Response:
        """Answer /health: 200 while requests are accepted, else 503."""
        if self.service.failure or self.service.draining:
            reason = self.service.failure or "the server is shutting down."
            raise RequestError(reason, http=503)
        return json_response({"status": "ok"})

    async def openapi(self, request: Request) -> Response:
        """Answer /openapi.json."""
        return json_response(openapi.document())

    async def metrics(self, request: Request) -> Response:
        """Answer /metrics."""
        text = metrics_text(await self.service.statistics(), self.service.meter)
        return PlainTextResponse(text, headers={"content-type": CONTENT_TYPE})


def routes_of(api: Api) -> list[BaseRoute]:
    """Return all routes."""
    post, get = ["POST"], ["GET"]
    return [
        Route("/v1/chat/completions", api.conversing(chat.read), methods=post),
        Route("/v1/responses", api.conversing(responses.read), methods=post),
        Route("/v1/messages", api.conversing(messages.read), methods=post),
        Route("/v1/messages/count_tokens", api.about_tokens(messages.count_tokens), methods=post),
        Route("/v1/completions", api.complete, methods=post),
        Route("/v1/models", api.list_models, methods=get),
        Route("/v1/models/{name:path}", api.show_model, methods=get),
        Route("/tokenize", api.about_tokens(models.tokenize), methods=post),
        Route("/detokenize", api.about_tokens(models.detokenize), methods=post),
        Route("/tokenizer_info", api.tokenizer_info, methods=get),
        Route("/health", api.health, methods=get),
        Route("/metrics", api.metrics, methods=get),
        Route("/openapi.json", api.openapi, methods=get),
        *page_routes(),
    ]


# paths that need no key: a load balancer has none, and the page asks for it
PUBLIC = re.compile(r"/|/health|/openapi\.json|/page/.*")
FORMS = {"/v1/messages": anthropic_error}


def make_app(api: Api, keys: Sequence[str] = (), hosts: Sequence[str] = ()) -> ASGIApp:
    """Return the application; Gate says what `keys` and `hosts` are.

    The service is not started here: its thread belongs to the event loop that serves.
    """
    return Gate(Router(routes_of(api)), api.service.meter, Keys(keys), PUBLIC, hosts, FORMS)
