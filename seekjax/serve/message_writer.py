"""The answer of /v1/messages: blocks of thinking, text and calls, whole or as named events."""

import json
import secrets
from collections.abc import Iterable
from typing import Any

from seekjax.serve.errors import RequestError, anthropic_error
from seekjax.serve.events import (
    Content,
    Event,
    Finish,
    Reasoning,
    Start,
    ToolArguments,
    ToolCall,
    Usage,
)
from seekjax.serve.served import ServedModel
from seekjax.serve.writer import frame

REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
}
UNREADABLE = "unreadable_json"  # holds the input of a call that is not a JSON object


class MessageWriter:
    """Writes a message, or the stream of its events."""

    def __init__(self, served: ServedModel, stream: bool):
        self.stream = stream
        self._id = f"msg_{secrets.token_hex(12)}"
        self._model = served.name
        self._blocks: list[dict[str, Any]] = []  # the last one may be unfinished
        self._open = ""  # the kind of the unfinished block
        self._arguments = ""  # of the unfinished call
        self._usage = Usage(0, 0)
        self._reason: str | None = None
        self._stop: str | None = None
        self._frames: list[str] = []

    def begin(self) -> Iterable[str]:
        """Return no frame: the first event has the size of the prompt."""
        return ()

    def add(self, choice: int, event: Event) -> Iterable[str]:
        """Return the events that one event of the answer makes."""
        if isinstance(event, Start):
            self._usage = Usage(len(event.prompt), 0, cached=event.cached)
            self._send("message_start", message=self._message([]))
            self._send("ping")
        elif isinstance(event, Reasoning) and event.text:
            self._extend("thinking", {"thinking": "", "signature": ""}, event.text)
        elif isinstance(event, Content) and event.text:
            self._extend("text", {"text": ""}, event.text)
        elif isinstance(event, ToolCall):
            self._close()
            self._begin_block(
                "tool_use",
                {
                    "id": event.id,
                    "name": event.name,
                    "input": {},
                },
            )
        elif isinstance(event, ToolArguments):
            self._arguments += event.text
            self._send_delta("input_json_delta", "partial_json", event.text)
        elif isinstance(event, Finish):
            self._finish(event)
        return self._take()

    def end(self) -> Iterable[str]:
        """Return the last events: why the answer ended, and how long it is."""
        delta = {"stop_reason": self._reason, "stop_sequence": self._stop}
        self._send("message_delta", delta=delta, usage=self._usage_fields())
        self._send("message_stop")
        return self._take()

    def fail(self, error: RequestError) -> Iterable[str]:
        """Return the event of an answer that failed."""
        data = anthropic_error(error)
        return [frame(data, data["type"])]

    def whole(self) -> dict[str, Any]:
        """Return the whole message."""
        return self._message(self._blocks)

    def _finish(self, event: Finish) -> None:
        """Close the last block, and keep why and where the answer ended."""
        self._close()
        self._usage = event.usage
        self._reason = REASONS[event.reason]
        if event.stop:
            self._reason, self._stop = "stop_sequence", event.stop

    def _extend(
        self,
        kind: str,
        empty: dict[str, str],
        text: str,
    ) -> None:
        """Add a piece of text to the last block, which is begun if it is of another kind."""
        if self._open != kind:
            self._close()
            self._begin_block(kind, empty)
        self._blocks[-1][kind] += text
        self._send_delta(f"{kind}_delta", kind, text)

    def _begin_block(self, kind: str, fields: dict[str, Any]) -> None:
        """Begin a block."""
        self._blocks.append({"type": kind, **fields})
        self._open = kind
        self._arguments = ""
        index = len(self._blocks) - 1
        self._send("content_block_start", index=index, content_block=self._blocks[-1])

    def _close(self) -> None:
        """Finish the last block, if it is not finished yet.

        Clients expect a signature of thinking, and send it back; nothing is verified by it here.
        """
        if not self._open:
            return
        if self._open == "thinking":
            self._blocks[-1]["signature"] = self._id
            self._send_delta("signature_delta", "signature", self._id)
        if self._open == "tool_use":
            self._blocks[-1]["input"] = _read_arguments(self._arguments)
        self._send("content_block_stop", index=len(self._blocks) - 1)
        self._open = ""

    def _send_delta(
        self,
        kind: str,
        name: str,
        text: str,
    ) -> None:
        """Send what is added to the last block."""
        index = len(self._blocks) - 1
        self._send("content_block_delta", index=index, delta={"type": kind, name: text})

    def _send(self, event: str, **fields: Any) -> None:
        """Send an event, if the message is a stream."""
        if self.stream:
            self._frames.append(frame({"type": event, **fields}, event))

    def _take(self) -> list[str]:
        """Return the frames that are ready."""
        frames, self._frames = self._frames, []
        return frames

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": self._reason,
            "stop_sequence": self._stop,
            "usage": self._usage_fields(),
        }

    def _usage_fields(self) -> dict[str, Any]:
        """Return the usage; tokens of a cached prefix are not among those of the input."""
        usage = self._usage
        return {
            "input_tokens": usage.prompt - usage.cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached,
            "output_tokens": usage.completion,
            "service_tier": "standard",
        }


def _read_arguments(text: str) -> dict[str, Any]:
    """Return the input of a call; its text under UNREADABLE if it is not a JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {UNREADABLE: text}
