"""Calls of tools in an answer: the formats of DeepSeek-V3, R1 and V3.1, parsed as text arrives.

V3 and R1, from their first to V3-0324 and R1-0528, write the arguments of a call in a fence:

    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather
    ```json
    {"city": "Tokyo"}
    ```<｜tool▁call▁end｜><｜tool▁calls▁end｜>

V3.1 writes them alone:

    <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Tokyo"}
    <｜tool▁call▁end｜><｜tool▁calls▁end｜>
"""

import re
import secrets
from collections.abc import Callable
from typing import NamedTuple

from seekjax.data.chat import ChatTemplate, overlap
from seekjax.post.samples.tool_form import CALLED, render_call
from seekjax.serve.events import Content, ToolArguments, ToolCall

CALLS_BEGIN, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL_BEGIN, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
SEPARATOR = "<｜tool▁sep｜>"
MARKS = (CALLS_BEGIN, CALL_BEGIN, SEPARATOR, CALL_END, CALLS_END)

NAME = r"[^\s<>`{}]{1,128}"
LONGEST_HEADER = 256  # characters from the end of one call to the arguments of the next
BLANKS = " \t\r\n`"  # with the fence behind the arguments

Parsed = Content | ToolCall | ToolArguments
Reader = Callable[[list[Parsed], bool], bool]  # appends to the events, given if the text is all


class CallForm(NamedTuple):
    """The texts around the name and the arguments of a call, and between two calls."""

    before: str  # the name
    between: str  # the name and the arguments
    after: str  # the arguments
    separator: str  # of calls


V3 = CallForm(
    f"function{SEPARATOR}",
    "\n```json\n",
    "\n```",
    "\n",
)
V3_1 = CallForm(
    "",
    SEPARATOR,
    "",
    "",
)


def find_call_form(chat: ChatTemplate) -> CallForm | None:
    """Return the form in which a template writes calls, or None if it has neither."""
    text = render_call(chat)
    for form in (V3, V3_1):
        if CALL_BEGIN + form.before + CALLED + form.between in text:
            return form
    return None


def new_call_id() -> str:
    """Return an id for a call, in OpenAI's form."""
    return f"call_{secrets.token_hex(12)}"


class ToolParser:
    """Separates the calls of an answer from its text, as text arrives.

    The first event of a call has its name; pieces of its arguments follow. How the pieces are cut
    depends on how the text is, what they join to does not. What begins like a call and goes on
    otherwise is content, marks included. Arguments are returned as they were written, from a "{"
    to the end mark, even if they turn out not to be JSON: their beginning has been sent.
    """

    def __init__(
        self,
        form: CallForm,
        parallel: bool = True,
        new_id: Callable[[], str] = new_call_id,
    ):
        """Parse calls of this form; without `parallel`, what follows the first call is left out."""
        before, between = re.escape(form.before), re.escape(form.between)
        self._header = re.compile(rf"\s*{CALL_BEGIN}{before}({NAME}){between}\s*(?={{)")
        self._parallel = parallel
        self._new_id = new_id

        self._read: Reader = self._read_content  # reads what comes next in the held text
        self._held = ""  # text that later text decides about
        self._opened = ""  # the mark that begins calls, until the first one
        self._index = -1  # of the latest call

    def feed(self, text: str, last: bool = False) -> list[Parsed]:
        """Return the events that `text` completes; if it is the `last` text, all that are left."""
        self._held += text
        events: list[Parsed] = []
        while self._read(events, last):
            pass
        return events

    def _read_content(self, events: list[Parsed], last: bool) -> bool:
        """Read up to the mark that begins calls; return whether it is there."""
        content, mark, rest = self._held.partition(CALLS_BEGIN)
        if not mark and not last:
            certain = len(content) - overlap(content, CALLS_BEGIN)
            content, rest = content[:certain], content[certain:]

        if content:
            events.append(Content(content))
        if not mark:
            self._held = rest
            return False
        self._opened = mark
        return self._go_on(self._read_header, rest)

    def _read_header(self, events: list[Parsed], last: bool) -> bool:
        """Read a call up to its arguments, or the end of all calls; return whether it is decided.

        Anything else is content.
        """
        text = self._held[:LONGEST_HEADER]
        header = self._header.match(text)
        if header:
            self._index += 1
            self._opened = ""
            events.append(ToolCall(self._index, self._new_id(), header[1]))
            return self._go_on(self._read_arguments, self._held[header.end() :])

        # Blanks before a mark are left out.
        begin = text.lstrip()
        if begin.startswith(CALLS_END):
            return self._go_on(self._read_content, self._held.lstrip()[len(CALLS_END) :])
        if last and not begin and not self._opened:
            return self._go_on(self._read_content, "")

        complete = last or len(text) == LONGEST_HEADER
        if not complete and (_may_begin(begin, CALL_BEGIN) or _may_begin(begin, CALLS_END)):
            return False
        if self._opened:
            events.append(Content(self._opened))
        return self._go_on(self._read_content, self._held)

    def _read_arguments(self, events: list[Parsed], last: bool) -> bool:
        """Read up to the end of a call; return whether it is there."""
        text, mark, rest = self._held.partition(CALL_END)
        certain = len(text)
        if not mark and not last:
            certain -= overlap(text, CALL_END)
        arguments = text[:certain].rstrip(BLANKS)
        if arguments:
            events.append(ToolArguments(self._index, arguments))

        if not mark:
            self._held = "" if last else text[len(arguments) :]
            return False
        return self._go_on(self._read_header if self._parallel else self._read_nothing, rest)

    def _read_nothing(self, events: list[Parsed], last: bool) -> bool:
        """Leave out the rest."""
        self._held = ""
        return False

    def _go_on(self, read: Reader, rest: str) -> bool:
        """Read the rest by another method; return True."""
        self._read = read
        self._held = rest
        return True


def _may_begin(text: str, mark: str) -> bool:
    """Return whether a text is a beginning of the mark, or begins with it."""
    return mark.startswith(text) or text.startswith(mark)
