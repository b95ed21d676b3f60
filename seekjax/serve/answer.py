"""One choice of an answer: the engine's tokens in, events out."""

from collections.abc import Sequence
from typing import Protocol

from seekjax.data.tokenizer import Tokenizer
from seekjax.generate.detokenizer import Detokenizer
from seekjax.generate.engine.request import Token, Update
from seekjax.serve.errors import RequestError
from seekjax.serve.events import (
    Content,
    Event,
    Finish,
    Reason,
    Reasoning,
    Start,
    ToolArguments,
    ToolCall,
    Usage,
)
from seekjax.serve.text import ReasoningSplitter, StopStrings


class Tools(Protocol):
    """Finds the calls of tools in the text of an answer."""

    def feed(self, text: str, last: bool = False) -> Sequence[Content | ToolCall | ToolArguments]:
        """Return the events that the text completes."""
        ...


class Answer:
    """Turns the updates of one request into events.

    splitter: of reasoning and answer proper. tools: None leaves the marks of tools out of the text,
    as other special tokens.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        splitter: ReasoningSplitter,
        stop: Sequence[str] = (),
        tools: Tools | None = None,
    ):
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(self._decode)
        self._splitter = splitter
        self._stop = StopStrings(stop)
        self._tools = tools
        self._called = False  # a tool
        self._waiting: list[Token] = []  # tokens whose text is not certain yet
        self._prompt = prompt
        self._usage = Usage(len(prompt), 0)
        self._started = False
        self.finished = False

    def feed(self, update: Update) -> list[Event]:
        """Return the events of an update; after `finished` there are none.

        Of one that ends with an error there are those of its tokens. Raises RequestError if the
        engine has cancelled the request.
        """
        if self.finished:
            return []
        if update.finish_reason == "cancelled":
            sentence = "the server has cancelled this request; send it again."
            raise RequestError(sentence, http=500)
        events: list[Event] = []
        if not self._started:
            self._started = True
            self._usage = self._usage._replace(cached=update.cached_tokens)
            events.append(Start(self._prompt, update.cached_tokens, tuple(update.prompt or ())))
        for index, token in enumerate(update.tokens):
            ends = update.finish_reason == "stop" and index == len(update.tokens) - 1
            events += self._add(token, ends)
            if self._stop.matched:
                return merged([*events, *self._finish("stop")])
        if update.finish_reason and update.error is None:
            reason: Reason = "length" if update.finish_reason == "length" else "stop"
            events += self._finish(reason)
        return merged(events)

    def _add(self, token: Token, ends: bool) -> list[Event]:
        """Return the events that one token completes; one that ends the answer has no text."""
        thinking = self._splitter.thinking
        self._waiting.append(token)
        events = []
        if not ends:
            self._detokenizer.add(token.id)
            events = self._split(self._detokenizer.take_new())

        # the tags count as reasoning
        reasoning = thinking or self._splitter.thinking
        self._usage = self._usage._replace(
            completion=self._usage.completion + 1,
            reasoning=self._usage.reasoning + reasoning,
        )
        turned = self._splitter.thinking != thinking  # by a tag, which is not text
        if turned and not events:
            events.append(Reasoning(""))
        return self._with_tokens(events)

    def _finish(self, reason: Reason) -> list[Event]:
        """Return the last events of the choice."""
        self.finished = True
        thinking = self._splitter.thinking
        self._detokenizer.finish()
        events = self._split(self._detokenizer.take_new(), last=True)

        # tokens without text, as the one that ends a turn
        if self._waiting and not any(map(_is_text, events)):
            events.append(Reasoning("") if thinking else Content(""))
        events = self._with_tokens(events)
        if self._called and reason == "stop":
            reason = "tool_calls"
        return [*events, Finish(reason, self._usage, self._stop.matched)]

    def _split(self, text: str, last: bool = False) -> list[Event]:
        """Return the events that a piece of text completes."""
        events: list[Event] = []
        answer = ""
        for reasoning, piece in self._splitter.feed(text, last):
            if reasoning:
                events.append(Reasoning(piece))
            else:
                answer += piece

        answer = self._stop.feed(answer, last)
        if self._tools is None:
            return [*events, Content(answer)] if answer else events
        last = last or bool(self._stop.matched)
        found = self._tools.feed(answer, last)
        self._called = self._called or any(map(_is_call, found))
        return [*events, *found]

    def _with_tokens(self, events: list[Event]) -> list[Event]:
        """Give the tokens that waited to the first event with text, if there is one."""
        for index, event in enumerate(events):
            if isinstance(event, Reasoning | Content):
                events[index] = event._replace(tokens=tuple(self._waiting))
                self._waiting = []
                break
        return events

    def _decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, special=self._tools is not None)


def merged(events: Sequence[Event]) -> list[Event]:
    """Return the events with neighbours of one kind joined, so that few frames are sent."""
    joined: list[Event] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, Reasoning) and isinstance(last, Reasoning):
            joined[-1] = Reasoning(last.text + event.text, last.tokens + event.tokens)
        elif isinstance(event, Content) and isinstance(last, Content):
            joined[-1] = Content(last.text + event.text, last.tokens + event.tokens)
        elif isinstance(event, ToolArguments) and isinstance(last, ToolArguments):
            if event.index == last.index:
                joined[-1] = last._replace(text=last.text + event.text)
            else:
                joined.append(event)
        else:
            joined.append(event)
    return joined


def _is_text(event: Event) -> bool:
    return isinstance(event, Reasoning | Content)


def _is_call(event: Event) -> bool:
    return isinstance(event, ToolCall)
