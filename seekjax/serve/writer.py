"""The form in which a protocol writes the events of an answer: whole as JSON, or as a stream."""

import json
from collections.abc import Iterable
from typing import Any, Protocol

from seekjax.serve.errors import RequestError
from seekjax.serve.events import Event

DONE = "data: [DONE]\n\n"


class Writer(Protocol):
    """Writes one answer. Either all frames of a stream are taken, or `whole` is called at the end.

    `add` is called with every event of every choice, also where the answer is not a stream.
    """

    stream: bool

    def begin(self) -> Iterable[str]:
        """Return the frames before the first event."""
        ...

    def add(self, choice: int, event: Event) -> Iterable[str]:
        """Return the frames of one event of one choice."""
        ...

    def end(self) -> Iterable[str]:
        """Return the frames after the last event of the last choice."""
        ...

    def fail(self, error: RequestError) -> Iterable[str]:
        """Return the last frames of a stream that cannot go on."""
        ...

    def whole(self) -> dict[str, Any]:
        """Return the body of a response that is not a stream, after the last event."""
        ...


def frame(data: dict[str, Any], event: str = "") -> str:
    """Return a server-sent event: its name, if it has one, and its data as JSON."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {text}\n\n"
