"""The answer of /v1/responses: items, whole or as a stream of named and numbered events."""

import secrets
import time
from collections.abc import Iterable
from typing import Any

from seekjax.serve.conversation import Conversation
from seekjax.serve.errors import RequestError
from seekjax.serve.events import Content, Event, Finish, Reasoning, ToolArguments, ToolCall, Usage
from seekjax.serve.logprobs import chat_log_probs
from seekjax.serve.served import ServedModel
from seekjax.serve.writer import frame


class ResponsesWriter:
    """Writes a response, or the stream of its events."""

    def __init__(
        self,
        served: ServedModel,
        conversation: Conversation,
        values: dict[str, Any],
    ):
        self.stream = values.get("stream", False)
        self._texts = served.texts
        self._log_probs = conversation.returned.log_probs
        self._head = _head(served, conversation, values)
        self._number = 0  # of the next event
        self._output: list[dict[str, Any]] = []  # items; the last one may be unfinished
        self._open = ""  # the kind of the unfinished item
        self._frames: list[str] = []
        self._finish: Finish | None = None

    def begin(self) -> Iterable[str]:
        """Return the events that have the settings of the response."""
        response = self._response("in_progress")
        self._send("response.created", response=response)
        self._send("response.in_progress", response=response)
        return self._take()

    def add(self, choice: int, event: Event) -> Iterable[str]:
        """Return the events that one event of the answer makes."""
        if isinstance(event, Reasoning) and event.text:
            self._extend("reasoning", event.text)
        elif isinstance(event, Content) and (event.text or self._shows_tokens):
            self._extend("message", event.text, event)
        elif isinstance(event, ToolCall):
            if self._open == "message":
                self._item["phase"] = "commentary"
            self._close("completed")
            item = {
                "call_id": event.id,
                "name": event.name,
                "arguments": "",
            }
            self._begin_item("function_call", "fc", item)
        elif isinstance(event, ToolArguments):
            self._item["arguments"] += event.text
            self._send_part("response.function_call_arguments.delta", delta=event.text)
        elif isinstance(event, Finish):
            self._close("incomplete" if event.reason == "length" else "completed")
            self._finish = event
        return self._take()

    def end(self) -> Iterable[str]:
        """Return the last event, which has the whole response."""
        response = self.whole()
        self._send(f"response.{response['status']}", response=response)
        return self._take()

    def fail(self, error: RequestError) -> Iterable[str]:
        """Return the event of a response that failed."""
        response = self._response("failed")
        code = "server_error" if error.http >= 500 else "invalid_prompt"
        response["error"] = {"code": code, "message": str(error)}
        self._send("response.failed", response=response)
        return self._take()

    def whole(self) -> dict[str, Any]:
        """Return the whole response."""
        assert self._finish is not None
        cut = self._finish.reason == "length"
        response = self._response("incomplete" if cut else "completed")
        if cut:
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            response["completed_at"] = int(time.time())
        response["usage"] = _usage_fields(self._finish.usage)
        return response

    @property
    def _shows_tokens(self) -> bool:
        """Tokens without text are part of the unfinished message."""
        return self._log_probs and self._open == "message"

    @property
    def _item(self) -> dict[str, Any]:
        return self._output[-1]

    def _extend(
        self,
        kind: str,
        text: str,
        content: Content | None = None,
    ) -> None:
        """Add a piece of text to the last item, which is begun if it is of another kind."""
        if self._open != kind:
            self._close("completed")
            self._begin_text(kind)
        part = self._item["content"][0]
        part["text"] += text

        name = "reasoning_text" if kind == "reasoning" else "output_text"
        fields: dict[str, Any] = {"content_index": 0, "delta": text}
        if content is not None:
            shown = []
            if self._log_probs:
                shown = chat_log_probs(content.tokens, self._texts)["content"]
            part["logprobs"] += shown
            fields["logprobs"] = shown
        self._send_part(f"response.{name}.delta", **fields)

    def _begin_text(self, kind: str) -> None:
        """Begin an item of reasoning or of text, and its only part."""
        if kind == "reasoning":
            self._begin_item("reasoning", "rs", {"summary": [], "content": []})
            part: dict[str, Any] = {"type": "reasoning_text", "text": ""}
        else:
            fields = {
                "role": "assistant",
                "phase": "final_answer",
                "content": [],
            }
            self._begin_item("message", "msg", fields)
            part = {
                "type": "output_text",
                "text": "",
                "annotations": [],
                "logprobs": [],
            }
        self._send_part("response.content_part.added", content_index=0, part=part)
        self._item["content"].append(part)

    def _begin_item(
        self,
        kind: str,
        prefix: str,
        fields: dict[str, Any],
    ) -> None:
        """Begin an item."""
        identity = {"id": f"{prefix}_{secrets.token_hex(12)}", "type": kind}
        self._output.append(
            {
                **identity,
                "status": "in_progress",
                **fields,
            }
        )
        self._open = kind
        output_index = len(self._output) - 1
        self._send("response.output_item.added", output_index=output_index, item=self._item)

    def _close(self, status: str) -> None:
        """Finish the last item, if it is not finished yet."""
        if not self._open:
            return
        item = self._item
        if self._open == "function_call":
            fields = {"arguments": item["arguments"]}
            self._send_part("response.function_call_arguments.done", name=item["name"], **fields)
        else:
            part = item["content"][0]
            kind = part["type"]
            fields = {"content_index": 0, "text": part["text"]}
            if kind == "output_text":
                fields["logprobs"] = part["logprobs"]
            self._send_part(f"response.{kind}.done", **fields)
            self._send_part("response.content_part.done", content_index=0, part=part)

        item["status"] = status
        self._open = ""
        output_index = len(self._output) - 1
        self._send("response.output_item.done", output_index=output_index, item=item)

    def _send_part(self, event: str, **fields: Any) -> None:
        """Send an event about the last item."""
        place = {"item_id": self._item["id"], "output_index": len(self._output) - 1}
        self._send(event, **place, **fields)

    def _send(self, event: str, **fields: Any) -> None:
        """Send an event with the next number, if the response is a stream."""
        if self.stream:
            data = {
                "type": event,
                "sequence_number": self._number,
                **fields,
            }
            self._frames.append(frame(data, event))
            self._number += 1

    def _take(self) -> list[str]:
        """Return the frames that are ready."""
        frames, self._frames = self._frames, []
        return frames

    def _response(self, status: str) -> dict[str, Any]:
        return {
            **self._head,
            "status": status,
            "output": list(self._output),
        }


def _head(
    served: ServedModel,
    conversation: Conversation,
    values: dict[str, Any],
) -> dict[str, Any]:
    """Return the fields of a response that its request decides."""
    tools = []
    for tool in conversation.tools:
        function = tool["function"]
        optional = {
            "description": None,
            "parameters": None,
            "strict": None,
        }
        tools.append(
            {
                "type": "function",
                **optional,
                **function,
            }
        )

    text = {
        "format": {"type": "text"},
        "verbosity": None,
        **values.get("text", {}),
    }
    return {
        "id": f"resp_{secrets.token_hex(12)}",
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": values.get("instructions"),
        "max_output_tokens": conversation.max_tokens,
        "metadata": values.get("metadata", {}),
        "model": served.name,
        "parallel_tool_calls": conversation.parallel_tool_calls,
        "previous_response_id": None,
        "reasoning": {"effort": values.get("reasoning_effort"), "summary": None},
        "store": False,
        "temperature": conversation.sampling.temperature,
        "text": text,
        "tool_choice": values.get("tool_choice", "auto"),
        "tools": tools,
        "top_logprobs": values.get("top_logprobs", 0),
        "top_p": conversation.sampling.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": values.get("user"),
    }


def _usage_fields(usage: Usage) -> dict[str, Any]:
    """Return a usage in the form of responses."""
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }
