"""An engine without a model: it says what a test has written, token by token."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from seekjax.config import DataConfig
from seekjax.data import load_tokenizer
from seekjax.data.chat import compile_chat, find_template
from seekjax.errors import GenerateError
from seekjax.generate.engine.request import Request, Token, Update
from seekjax.generate.engine.settings import EngineStatistics
from seekjax.serve.served import Run, ServedModel

LAYERS, EXPERTS, CHOSEN = 2, 4, 2
Script = Callable[[Request], str | Sequence[int]]


class FakeEngine:
    """Answers each request with `script(request)`, a text or ids, `speed` tokens in a step.

    Each running request holds a page. With a filter the tokens are drawn from its masks instead.
    """

    def __init__(self, tokenizer, script: Script | str = "Hello.", batch: int = 4, speed: int = 1):
        self.tokenizer = tokenizer
        self.script = script
        self.batch = batch
        self.speed = speed
        self.delay = 0.0  # seconds of a step
        self.failing = 0  # steps that raise, from now on
        self.total = 64  # pages
        self.requests: list[Request] = []  # all that were submitted
        self.cancelled: list[Request] = []
        self._waiting: deque[Request] = deque()
        self._running: dict[Request, deque[int]] = {}
        self._given: dict[Request, int] = {}
        self._updates: list[Update] = []
        self._prompt_tokens = self._generated = 0
        self._rng = np.random.default_rng(0)

    @property
    def idle(self):
        return not (self._waiting or self._running or self._updates)

    def submit(self, request: Request) -> None:
        for id in request.prompt:
            if not 0 <= id < len(self.tokenizer.bytes_V):
                raise GenerateError(f"the prompt has the id {id}: there is no such token.")
        self.requests.append(request)
        self._waiting.append(request)

    def cancel(self, request: Request) -> None:
        if request in self._waiting:
            self._waiting.remove(request)
        elif self._running.pop(request, None) is None:
            return
        self.cancelled.append(request)
        self._updates.append(Update(request, [], "cancelled"))

    def step(self) -> list[Update]:
        time.sleep(self.delay)
        if self.failing:
            self.failing -= 1
            raise RuntimeError("the fake engine fails, as the test wants")

        updates, self._updates = self._updates, []
        while self._waiting and len(self._running) < self.batch:
            request = self._waiting.popleft()
            self._running[request] = deque(self._ids(request))
            self._given[request] = 0
        for request in list(self._running):
            updates.append(self._advance(request))
        return updates

    def statistics(self) -> EngineStatistics:
        held = len(self._running)
        return EngineStatistics(
            queued=len(self._waiting),
            running=held,
            pages_total=self.total,
            pages_free=self.total - held,
            pages_evictable=0,
            pages_held=held,
            prefix_queries=self._prompt_tokens,
            prefix_hits=0,
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated,
            drafted=0,
            accepted=0,
            preemptions=0,
            load=np.full((LAYERS, EXPERTS), self._generated),
        )

    def _ids(self, request: Request) -> list[int]:
        if request.filter is not None:
            return []
        said = self.script(request) if callable(self.script) else self.script
        if isinstance(said, str):
            said = [*self.tokenizer.encode(said, special=True).tolist(), self.tokenizer.stops[0]]
        return list(said)

    def _advance(self, request: Request) -> Update:
        """One step of one request."""
        tokens, reason, failure = [], "", None
        first = not self._given[request]
        while len(tokens) < self.speed and not reason:
            try:
                id = self._next(request)
            except Exception as error:  # of the filter
                failure, reason = error, "error"
                break
            if id is None:
                reason = "stop"
                break
            self._given[request] += 1
            tokens.append(self._token(request, id))
            if id in request.sampling.stop_ids:
                reason = "stop"
            elif self._given[request] >= request.sampling.max_new:
                reason = "length"
        if reason:
            del self._running[request]

        prompt = None
        if first:
            self._prompt_tokens += len(request.prompt)
            if request.sampling.prompt_logprobs or request.sampling.routed_experts:
                prompt = [self._token(request, id) for id in request.prompt]
                prompt[0] = prompt[0]._replace(log_prob=math.nan, top=())
        self._generated += len(tokens)
        return Update(request, tokens, reason, failure, prompt=prompt)

    def _next(self, request: Request) -> int | None:
        if request.filter is None:
            rest = self._running[request]
            return rest.popleft() if rest else None
        words = np.asarray(request.filter.mask(), np.uint32)
        allowed = np.unpackbits(words.view(np.uint8), bitorder="little").nonzero()[0]
        id = int(self._rng.choice(allowed))
        request.filter.accept(id)
        return id

    def _token(self, request: Request, id: int) -> Token:
        top = [(id, -0.25), ((id + 1) % self.tokenizer.size, -2.0)]
        return Token(
            id,
            -0.25,
            tuple(top[: request.sampling.top_logprobs]),
            drafted=bool(id % 2),
            experts=np.array([[id % EXPERTS, (id + 1) % EXPERTS]] * LAYERS)
            if request.sampling.routed_experts
            else None,
            kept=np.packbits(np.arange(self.tokenizer.size) == id)
            if request.sampling.sampling_mask
            else None,
        )


def byte_tokenizer():
    """One token per byte, and DeepSeek's special ones."""
    return load_tokenizer(DataConfig(tokenizer="byte"), 320, None)


def served_model(tokenizer=None, template="v3", context=4096, **fields) -> ServedModel:
    """A served model of the name "tiny"."""
    tokenizer = tokenizer or byte_tokenizer()
    chat = compile_chat(find_template(None, tokenizer, template))
    run = Run("0123456789abcdef" * 4, 1200, (LAYERS, EXPERTS, CHOSEN), True)
    return ServedModel("tiny", tokenizer, chat, context, run, **fields)
