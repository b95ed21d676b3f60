"""What the answers of OpenAI's chat and completions share: heads, usage, the end of a stream."""

import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from seekjax.serve.errors import RequestError, openai_error
from seekjax.serve.events import Usage
from seekjax.serve.served import ServedModel
from seekjax.serve.writer import DONE, frame


class Choice(Protocol):
    """One choice of an answer, as its events come."""

    usage: Usage

    def fields(self) -> dict[str, Any]:
        """Return its fields in an answer that is not a stream."""
        ...


class OpenAIWriter:
    """The part of a Writer that does not depend on what a choice is.

    Subclasses define `add`. prefix: of the answer's id. whole_object, chunk_object: the names of
    an answer and of a chunk of a stream. n: choices of each prompt; `choices` has those of all.
    """

    prefix: str
    whole_object: str
    chunk_object: str

    def __init__(
        self,
        served: ServedModel,
        choices: Sequence[Choice],
        n: int,
        stream: bool,
        include_usage: bool,
    ):
        self.stream = stream
        self._served = served
        self._choices = choices
        self._n = n
        self._include_usage = include_usage
        self._id = f"{self.prefix}-{secrets.token_hex(12)}"
        self._created = int(time.time())

    def begin(self) -> Iterable[str]:
        """Return no frame: what begins a choice comes with its first event."""
        return ()

    def chunk(self, choice: int, fields: dict[str, Any]) -> str:
        """Return the frame of what is new of one choice."""
        return frame(self._chunk([{"index": choice, **fields}]))

    def end(self) -> Iterable[str]:
        """Return the usage, where it was wanted, and the end mark."""
        frames = []
        if self._include_usage:
            chunk = self._chunk([])
            chunk["usage"] = usage_fields(self._total())
            frames.append(frame(chunk))
        return [*frames, DONE]

    def fail(self, error: RequestError) -> Iterable[str]:
        """Return the error and the end mark."""
        return [frame(openai_error(error)), DONE]

    def whole(self) -> dict[str, Any]:
        """Return the answer with all of its choices."""
        choices = []
        for index, choice in enumerate(self._choices):
            choices.append({"index": index, **choice.fields()})
        return {
            **self._head(self.whole_object),
            "choices": choices,
            "usage": usage_fields(self._total()),
        }

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = {**self._head(self.chunk_object), "choices": choices}
        if self._include_usage:  # null in all chunks but the last one, as OpenAI says
            chunk["usage"] = None
        return chunk

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._served.name,
            "system_fingerprint": self._served.fingerprint,
        }

    def _total(self) -> Usage:
        """Return the sum over prompts of the usage of their choices."""
        total = Usage(0, 0)
        for first in range(0, len(self._choices), self._n):
            of_prompt = self._choices[first : first + self._n]
            usage = total_usage([choice.usage for choice in of_prompt])
            total = Usage(*map(sum, zip(total, usage)))
        return total


def total_usage(usages: Iterable[Usage]) -> Usage:
    """Return the usage of all choices of a prompt, which is counted once."""
    total = Usage(0, 0)
    for usage in usages:
        total = Usage(
            max(total.prompt, usage.prompt),
            total.completion + usage.completion,
            total.reasoning + usage.reasoning,
            max(total.cached, usage.cached),
        )
    return total


def usage_fields(usage: Usage) -> dict[str, Any]:
    """Return a usage with OpenAI's fields and DeepSeek's."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
        "prompt_cache_hit_tokens": usage.cached,
        "prompt_cache_miss_tokens": usage.prompt - usage.cached,
    }
