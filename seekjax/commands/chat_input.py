"""How `seekjax chat` reads a question: a line of a pipe, or an editor of lines on a terminal."""

import os
import sys
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input, create_input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.shortcuts import CompleteStyle

from seekjax.storage import writable_cache
from seekjax.terminal import is_terminal, well_formed

# Returns a question; raises EOFError after the last, and KeyboardInterrupt for one given up.
Ask = Callable[[str], str]

HISTORY = "chat-history"  # a file in the folder of this name in the cache folder


def on_terminal() -> bool:
    """Return whether questions are typed and answers read on a terminal."""
    return is_terminal(sys.stdin) and is_terminal(sys.stdout)


def ask_piped(prompt: str) -> str:
    """Return a line of standard input; the prompt is not part of a piped output."""
    print(prompt, end="", file=sys.stderr, flush=True)
    try:
        return input()
    except (EOFError, KeyboardInterrupt):
        print(file=sys.stderr, flush=True)
        raise


class LineEditor:
    """Reads questions on a terminal: editing, history, several lines, completion of commands.

    Enter ends a question, except after a backslash at the end; Alt-Enter begins a line within it.
    """

    def __init__(
        self,
        commands: Collection[str] = (),
        history: History | None = None,
        input: Input | None = None,
        output: Output | None = None,
    ):
        """`commands` are completed; `input` and `output` replace those of the process.

        Without `history` the questions of this conversation alone can be called back.
        """
        self._session: PromptSession[str] = PromptSession(
            history=history or InMemoryHistory(),
            completer=CommandCompleter(commands),
            complete_style=CompleteStyle.READLINE_LIKE,  # with Tab, at once
            multiline=True,
            prompt_continuation="  ",
            key_bindings=key_bindings(),
            enable_suspend=True,
            input=input or create_input(sys.stdin),
            output=output or terminal_output(),
        )

    def __call__(self, prompt: str) -> str:
        """Return the next question. Raises EOFError for Ctrl-D, KeyboardInterrupt for Ctrl-C."""
        return self._session.prompt(prompt)


def terminal_output() -> Output:
    """Return the terminal of standard output.

    It is never asked where its cursor is: an answer that comes late would be read as a question.
    """
    output = Vt100_Output.from_pty(sys.stdout, term=os.environ.get("TERM"))
    output.enable_cpr = False
    return output


def key_bindings() -> KeyBindings:
    """Return what Enter and Alt-Enter do."""
    keys = KeyBindings()

    @keys.add("enter")
    def end_or_continue(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


class CommandCompleter(Completer):
    """Completes the name of a command, and the file after a command that takes one."""

    def __init__(self, commands: Collection[str]):
        self._commands = commands
        self._paths = PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        """Yield what the text before the cursor may go on with."""
        text = document.text_before_cursor
        if text.startswith("/save "):
            path = Document(text.removeprefix("/save "))
            yield from self._paths.get_completions(path, complete_event)
            return

        for name in self._commands:
            if text.startswith("/") and name.startswith(text):
                yield Completion(name, start_position=-len(text))


class KeptHistory(FileHistory):
    """The questions of earlier conversations, in a file that the user alone can read.

    A file that cannot be read or written costs the history and not the conversation.
    """

    def load_history_strings(self) -> Iterable[str]:
        """Yield the questions, the newest first."""
        try:
            yield from super().load_history_strings()
        except OSError:
            return

    def store_string(self, string: str) -> None:
        """Append a question."""
        try:
            os.close(os.open(self.filename, os.O_CREAT | os.O_WRONLY, 0o600))
            super().store_string(well_formed(string))
        except OSError:
            return


def kept_history() -> History:
    """Return the history in the cache folder, or one in memory where nothing can be written."""
    folder = writable_cache("chat")
    if folder is None:
        return InMemoryHistory()
    return KeptHistory(str(Path(folder) / HISTORY))
