"""`seekjax chat`: a conversation with a model on the terminal.

Standard output holds the answers alone unless it is a terminal; all else goes to standard error.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console

from seekjax.commands.chat_commands import COMMANDS, is_command, run_command
from seekjax.commands.chat_input import Ask, LineEditor, ask_piped, kept_history, on_terminal
from seekjax.commands.common import keep_compiled
from seekjax.commands.generate import new_text, open_weights, stop_at_end
from seekjax.commands.settings import ChatOptions
from seekjax.config.generation import Sampling
from seekjax.console import DIM, console, print_text
from seekjax.data.chat import ChatTemplate, Message, ReasoningParser, load_chat
from seekjax.data.tokenizer import THINK, THINK_END, Tokenizer
from seekjax.errors import GenerateError, SeekjaxError, Status, need
from seekjax.generate.conversation import ConversationGenerator
from seekjax.generate.engine.engine import Engine, EngineSettings
from seekjax.generate.generator import Generation
from seekjax.open import OpenedModel, need_tokenizer, on_mesh
from seekjax.post.samples.template import thinking_opened
from seekjax.terminal import well_formed

SLOTS = 1024  # tokens that nearly every conversation fits into, so that it needs one size
PATIENCE = 0.5  # seconds for a program to be compiled at the end


def chat(options: ChatOptions) -> None:
    """Run the command; cli.exit_status prints the sentence of what it raises."""
    keep_compiled()

    messages: list[Message] = []
    if options.system:
        messages.append({"role": "system", "content": well_formed(options.system)})

    typed = on_terminal()
    with on_mesh(options.mesh), conversation(options, background=typed) as (opened, generator):
        tokenizer = need_tokenizer(opened)
        template = load_chat(opened.folder, tokenizer, options.template, options.template_settings)

        # a pipe has no commands: each of its lines is a question
        if not typed:
            converse(generator, tokenizer, template, options.sampling, messages)
            return
        print_text(console(sys.stderr), "/help lists the commands; Ctrl-D ends", DIM, end="\n")
        ask = LineEditor(COMMANDS, kept_history())
        converse(generator, tokenizer, template, options.sampling, messages, ask, commands=True)


@contextmanager
def conversation(
    options: ChatOptions, background: bool
) -> Iterator[tuple[OpenedModel, ConversationGenerator]]:
    """Yield the model without its weights, and what generates answers.

    `background` compiles while questions are typed, and ends the process with the block: at once,
    though a program is still being compiled, which cannot be stopped.
    """
    opened = open_weights(options.model, options.replicas)
    settings = EngineSettings(max_batch=1, queue=1, slots=SLOTS, draft=options.model.draft)
    engine = Engine(opened.model, opened.variables, opened.kernel, settings, consume=True)
    generator = ConversationGenerator(engine, background)
    try:
        yield opened._replace(variables={}), generator
        if not generator.close(PATIENCE):
            leave()
    finally:
        generator.close(0)


def leave() -> None:
    """End the process at once. Nothing is lost: every file is complete or not there."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(Status.FINISHED)


def converse(
    generator: ConversationGenerator,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    sampling: Sampling,
    messages: list[Message],
    ask: Ask = ask_piped,
    commands: bool = False,
) -> None:
    """Read questions with `ask` and answer each, until `ask` raises EOFError.

    Questions and answers are appended to `messages`. A question that cannot be answered, as one
    that is longer than the context, is left out. With `commands` a line such as /undo is not a
    question (chat_commands.py).
    """
    notes = console(sys.stderr)
    sampling = stop_at_end(sampling, tokenizer)
    while True:
        try:
            question = ask("> ")
            if commands and is_command(question):
                obey(messages, question, notes)
                continue
        except EOFError:
            return
        except KeyboardInterrupt:
            print_text(notes, "(Ctrl-D ends)", DIM, end="\n")
            continue

        if not question.strip():
            continue
        messages.append({"role": "user", "content": well_formed(question)})
        try:
            text = answer(generator, tokenizer, template, sampling, messages)
        except SeekjaxError as error:
            messages.pop()
            print_text(notes, f"{error} The question is left out.", end="\n")
        else:
            messages.append({"role": "assistant", "content": text})


def obey(messages: list[Message], line: str, notes: Console) -> None:
    """Run a command and print its notice, or the sentence of what it rejects."""
    try:
        print_text(notes, run_command(messages, well_formed(line)), DIM, end="\n")
    except SeekjaxError as error:
        print_text(notes, str(error), end="\n")


def answer(
    generator: ConversationGenerator,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    sampling: Sampling,
    messages: list[Message],
    file: TextIO | None = None,
) -> str:
    """Generate, print and return one answer; then print the speed. Ctrl-C ends the answer.

    Thinking is dimmed. What was generated before Ctrl-C is returned. Raises GenerateError if the
    conversation leaves no room for an answer.
    """
    thinking = bool(thinking_opened(template.render(messages)))
    ids = template.encode(tokenizer, messages)
    need(
        len(ids) < generator.context,
        f"the conversation has {len(ids):,} tokens with this question, and the model's context "
        f"holds {generator.context:,}: shorten it, or begin another.",
        GenerateError,
    )

    # Ctrl-C is noted, and ends the answer between two device calls
    screen = console(file)
    printer = AnswerPrinter(screen, thinking)
    text = THINK if thinking else ""
    with interrupts() as interrupted:
        generation = generator.stream([ids], sampling, tokenizer.decode)
        for piece in new_text(generation):
            text += piece
            printer.add(piece)
            if interrupted:
                break
        printer.add("", last=True)
    print_text(screen, "\n")

    notes = console(file or sys.stderr)
    ended = "stopped; " if interrupted else cut_short(generation, sampling)
    print_text(notes, ended + generation.report(), DIM, end="\n")

    # templates drop what comes before the end of thinking, so thinking must have an end
    if THINK in text and THINK_END not in text:
        text += THINK_END
    return text


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """Yield a list to which each Ctrl-C within the block is appended, instead of raising."""
    noted: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted  # only the main thread may have handlers
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: noted.append(number))
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def cut_short(generation: Generation, sampling: Sampling) -> str:
    """Return the reason, if an answer has not reached its own end."""
    [completion] = generation.completions
    if completion.finish_reason != "length":
        return ""
    if len(completion.ids) >= sampling.max_new:
        return "cut off at --max-new; "
    return "cut off where the model's context ends; "


class AnswerPrinter:
    """Prints an answer piece by piece: thinking dimmed, an empty line, then the answer proper."""

    def __init__(self, screen: Console, thinking: bool):
        self._screen = screen
        self._parser = ReasoningParser(thinking)
        self._after_thinking = False  # whether the text printed last was thinking

    def add(self, piece: str, last: bool = False) -> None:
        """Print what is certain after this piece, or all that is left after the last."""
        for thinking, text in self._parser.feed(piece, last):
            if self._after_thinking and not thinking:
                print_text(self._screen, "\n\n")
                text = text.lstrip("\n")
            self._after_thinking = thinking
            print_text(self._screen, text, DIM if thinking else None)
