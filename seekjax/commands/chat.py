"""`seekjax chat`: a conversation with a model on the terminal.

Standard output holds the answers alone unless it is a terminal; all else goes to standard error.
"""

import sys
from collections.abc import Callable
from typing import TextIO

from rich.console import Console

from seekjax.commands.common import keep_compiled
from seekjax.commands.generate import new_text, open_generator, stop_at_end
from seekjax.commands.settings import ChatOptions
from seekjax.config.generation import Sampling
from seekjax.console import DIM, console, print_text
from seekjax.data.chat import ChatTemplate, Message, ReasoningParser, load_chat
from seekjax.data.tokenizer import THINK, THINK_END, Tokenizer
from seekjax.errors import SeekjaxError
from seekjax.generate.generator import Generator
from seekjax.open import need_tokenizer, on_mesh
from seekjax.post.samples.template import thinking_opened
from seekjax.terminal import is_terminal, well_formed


def chat(options: ChatOptions) -> None:
    """Run the command; cli.exit_status prints the sentence of what it raises."""
    keep_compiled()

    messages: list[Message] = []
    if options.system:
        messages.append({"role": "system", "content": well_formed(options.system)})

    with on_mesh(options.mesh):
        opened, generator = open_generator(options.model, options.replicas)
        tokenizer = need_tokenizer(opened)
        template = load_chat(opened.folder, tokenizer, options.template, options.template_settings)
        converse(generator, tokenizer, template, options.sampling, messages)


def ask_question(prompt: str) -> str:
    """Return a line of standard input; the prompt is not part of a piped output."""
    if is_terminal(sys.stdin) and is_terminal(sys.stdout):
        return input(prompt)
    print(prompt, end="", file=sys.stderr, flush=True)
    return input()


def converse(
    generator: Generator,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    sampling: Sampling,
    messages: list[Message],
    ask: Callable[[str], str] = ask_question,
) -> None:
    """Read questions with `ask` and answer each, until `ask` raises EOFError.

    Questions and answers are appended to `messages`. A question that cannot be answered, as one
    that is longer than the context, is left out.
    """
    notes = console(sys.stderr)
    sampling = stop_at_end(sampling, tokenizer)
    while True:
        try:
            question = ask("> ")
        except EOFError:
            print_text(notes, "\n")
            return
        except KeyboardInterrupt:
            print_text(notes, "\n")
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


def answer(
    generator: Generator,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    sampling: Sampling,
    messages: list[Message],
    file: TextIO | None = None,
) -> str:
    """Generate, print and return one answer; then print the speed. Ctrl-C ends the answer.

    Thinking is dimmed. What was generated before Ctrl-C is returned.
    """
    thinking = bool(thinking_opened(template.render(messages)))
    ids = template.encode(tokenizer, messages)
    generation = generator.stream([ids], sampling, tokenizer.decode)

    screen = console(file)
    printer = AnswerPrinter(screen, thinking)
    text = THINK if thinking else ""
    interrupted = ""
    try:
        for piece in new_text(generation):
            text += piece
            printer.add(piece)
    except KeyboardInterrupt:
        interrupted = "stopped; "
    printer.add("", last=True)
    print_text(screen, "\n")
    notes = console(file or sys.stderr)
    print_text(notes, interrupted + generation.report(), DIM, end="\n")

    # templates drop what comes before the end of thinking, so thinking must have an end
    if THINK in text and THINK_END not in text:
        text += THINK_END
    return text


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
