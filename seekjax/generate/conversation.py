"""Generation for a conversation: one answer at a time on an engine, which keeps what it has read.

Programs are compiled by threads while a person types the first question, those of short
conversations first. A program that is needed earlier is compiled at once.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from threading import Thread
from typing import Any

import numpy as np

from seekjax.console import progress
from seekjax.generate.detokenizer import Decode, Detokenizer
from seekjax.generate.engine.compiled import Programs
from seekjax.generate.engine.engine import Engine
from seekjax.generate.engine.request import Request, RequestSampling
from seekjax.generate.generator import Completion, Generation, extend
from seekjax.generate.sampling import Sampling
from seekjax.placement import use_mesh
from sharding.rules import mesh_in_use

THREADS = 2  # that compile
UNUSED = ("score",)  # programs for log probabilities of a prompt


class ConversationGenerator:
    """Streams one completion at a time, as a Generator does. Use it within `use_mesh(mesh)`."""

    def __init__(self, engine: Engine, background: bool = False):
        """background: compile in threads from now on, which `close` ends."""
        self._engine = engine
        engine.programs.notice = lambda: progress("compiling")
        self._compiler = Compiler(engine.programs) if background else None

    @property
    def context(self) -> int:
        """Tokens of a prompt and its completion at most."""
        return self._engine.context

    def close(self, seconds: float | None = None) -> bool:
        """Stop compiling after the program in progress; return whether that ended in this time."""
        return self._compiler is None or self._compiler.close(seconds)

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling = Sampling(),
        decode: Decode | None = None,
    ) -> Generation:
        """Return a generation after the only prompt; nothing runs until it is iterated.

        Time in which a program is compiled is not counted. Raises GenerateError for a prompt that
        cannot be answered.
        """
        [prompt] = prompts
        fields: dict[str, Any] = dict(vars(sampling))
        fields["stop"] = ()  # stop strings are found in the text, here
        request = Request(prompt, RequestSampling(**fields))
        completion = Completion()
        if decode is not None:
            completion.text = Detokenizer(decode, sampling.stop)

        self._engine.submit(request)
        calls = self._calls(request, completion, sampling)
        return Generation([completion], calls, self._clock)

    def _clock(self) -> float:
        """Return the time in seconds, without that in which programs were compiled."""
        return time.perf_counter() - self._engine.programs.waited

    def _calls(
        self, request: Request, completion: Completion, sampling: Sampling
    ) -> Iterator[tuple[int, int | None]]:
        """Extend the completion step by step of the engine; cancel it if it is not finished."""
        steps = accepted = 0
        try:
            while not completion.finish_reason:
                for update in self._engine.step():
                    if update.error is not None:
                        raise update.error
                    ids = np.array([token.id for token in update.tokens], np.int32)
                    log_probs = np.array([token.log_prob for token in update.tokens])
                    drafted = sum([token.drafted for token in update.tokens])

                    extend(completion, ids, log_probs, bool(update.finish_reason), sampling)
                    accepted += drafted
                    steps += len(ids) - drafted
                yield steps, accepted if self._engine.decoder.draft else None
        finally:
            self._engine.cancel(request)
            self._engine.step()


class Compiler:
    """Threads that compile an engine's programs, from the smallest sizes up."""

    def __init__(self, programs: Programs):
        self._programs = programs
        self._mesh = mesh_in_use()
        self._keys = deque([key for key in programs.all_keys() if key[0] not in UNUSED])
        self._threads = [Thread(target=self._run) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def close(self, seconds: float | None = None) -> bool:
        """Compile nothing after the programs in progress; return whether they end in this time."""
        self._keys.clear()
        for thread in self._threads:
            thread.join(seconds)
        running = [thread for thread in self._threads if thread.is_alive()]
        return not running

    def _run(self) -> None:
        # the mesh in use is a property of the thread
        on_mesh = nullcontext() if self._mesh is None else use_mesh(self._mesh)

        # what fails here fails again, and is reported, where it is needed
        with on_mesh, suppress(Exception):
            while self._keys:
                key = self._keys.popleft()
                self._programs.compile_one(key)
