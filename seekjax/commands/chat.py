"""`seekjax generate` and `seekjax chat`: text on a terminal as it is written."""

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal, TextIO

import tyro

from seekjax.commands.common import Flat, keep_compiled
from seekjax.config import KernelConfig
from seekjax.data.chat import Chat, Message, ReasoningParser, TemplateName, load_chat
from seekjax.data.tokenizer import THINK, THINK_END, Tokenizer
from seekjax.generate.generator import Generation, Generator
from seekjax.generate.sampling import Sampling
from seekjax.open import OpenedModel, need_tokenizer, on_mesh, open_model
from sharding.mesh import MeshConfig

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


@dataclass(frozen=True)
class Model:
    """What writes, and where."""

    folder: Annotated[
        Path, tyro.conf.Positional, tyro.conf.arg(name="model")
    ]  # a run's folder, or that of a published checkpoint
    dtype: Literal["float32", "bfloat16"] | None = (
        None  # of weights and activations; default: a run's own, float32 for a checkpoint
    )
    cache: Literal["same", "bfloat16", "fp8"] = "same"  # of latents; same: as dtype
    draft: bool | None = (
        # let the prediction module guess ahead; default: where there is one and it is faster, so
        # not on a CPU
        None
    )

    def open(self) -> tuple[OpenedModel, Generator]:
        """The model, ready to write; call it within the mesh."""
        opened = open_model(self.folder, self.dtype and KernelConfig(dtype=self.dtype))
        kernel = replace(
            opened.kernel, cache=self.cache if self.cache != "same" else opened.kernel.cache
        )
        generator = Generator(
            opened.model, opened.variables, kernel, draft=self.draft, consume=True
        )
        return opened._replace(variables={}), generator


@dataclass(frozen=True)
class Generate:
    """Continue a text."""

    model: Flat[Model]
    sampling: Flat[Sampling] = field(default_factory=Sampling)
    prompt: tuple[str, ...] = (
        "",
    )  # what to continue; several are written side by side; - reads standard input
    mesh: MeshConfig = MeshConfig(data=1)  # how many devices split what


@dataclass(frozen=True)
class Talk:
    """Talk with a model. An empty line is skipped; Ctrl-C stops an answer, Ctrl-D ends."""

    model: Flat[Model]
    sampling: Flat[Sampling] = field(
        default_factory=lambda: Sampling(max_new=2048, temperature=0.6, top_p=0.95)
    )
    system: str = ""  # said to the model before anything else
    template: TemplateName = (
        "auto"  # auto: the checkpoint's own; r1 begins every answer with thinking
    )
    mesh: MeshConfig = MeshConfig(data=1)  # how many devices split what


def generate(argv: list[str]) -> None:
    """The command; raises errors that cli.run turns into one sentence."""
    asked = tyro.cli(
        Generate, prog="seekjax generate", args=argv, config=(tyro.conf.FlagConversionOff,)
    )
    keep_compiled()
    with on_mesh(asked.mesh):
        opened, generator = asked.model.open()
        tokenizer = need_tokenizer(opened)
        prompts = [sys.stdin.read() if prompt == "-" else prompt for prompt in asked.prompt]
        ids = [[opened.begin, *tokenizer.encode(prompt).tolist()] for prompt in prompts]
        writing = generator.stream(ids, ending(asked.sampling, tokenizer), tokenizer.decode)
        if len(prompts) == 1:
            show(chain(prompts, fresh(writing)))
        else:
            for _ in writing:
                pass
            for prompt, row in zip(prompts, writing.completions):
                print(f"{prompt}{row.text}\n{dim('--')}")
        print(dim(writing.report()))


def chat(argv: list[str]) -> None:
    """The command; raises errors that cli.run turns into one sentence."""
    asked = tyro.cli(Talk, prog="seekjax chat", args=argv, config=(tyro.conf.FlagConversionOff,))
    keep_compiled()
    with on_mesh(asked.mesh):
        opened, generator = asked.model.open()
        tokenizer = need_tokenizer(opened)
        template = load_chat(opened.folder, tokenizer, asked.template)
        converse(
            generator,
            tokenizer,
            template,
            asked.sampling,
            [{"role": "system", "content": asked.system}] if asked.system else [],
        )


def converse(
    generator: Generator,
    tokenizer: Tokenizer,
    template: Chat,
    sampling: Sampling,
    messages: list[Message],
    ask: Callable = input,
) -> None:
    """Questions from `ask` and answers in turn, until it raises EOFError."""
    sampling = ending(sampling, tokenizer)
    while True:
        try:
            question = ask("> ")
        except EOFError:
            return print()
        except KeyboardInterrupt:
            print("\n" + dim("(Ctrl-D ends)"))
            continue
        if question.strip():
            messages.append({"role": "user", "content": question})
            messages.append(
                {
                    "role": "assistant",
                    "content": answer(generator, tokenizer, template, sampling, messages),
                }
            )


def answer(
    generator: Generator,
    tokenizer: Tokenizer,
    template: Chat,
    sampling: Sampling,
    messages: list[Message],
    out: TextIO | None = None,
) -> str:
    """Write one answer, its thinking dimmed, then the speed; Ctrl-C ends it. What was written stays
    in the conversation."""
    out = out or sys.stdout
    asked = template.render(messages)
    thinking = asked.rstrip().endswith(THINK)
    thoughts, text = ReasoningParser(thinking), THINK if thinking else ""
    writing = generator.stream(
        [tokenizer.encode(asked, special=True).tolist()], sampling, tokenizer.decode
    )
    shown = False

    def put(piece: str, last: bool = False) -> None:
        nonlocal shown
        for dimmed, part in thoughts.feed(piece, last):
            if not dimmed and shown is True:
                print("\n", file=out)  # an empty line between thinking and answer
                part = part.lstrip("\n")
            shown = dimmed
            print(dim(part, out) if dimmed else part, end="", file=out, flush=True)

    stopped = ""
    try:
        for piece in fresh(writing):
            text += piece
            put(piece)
    except KeyboardInterrupt:
        stopped = "stopped; "
    put("", last=True)
    print(f"\n{dim(stopped + writing.report(), out)}", file=out, flush=True)
    return (
        text if THINK not in text or THINK_END in text else text + THINK_END
    )  # templates drop what comes before it


def fresh(generation: Generation) -> Iterable[str]:
    """The new text of a single row, call by call."""
    for [row] in generation:
        yield row.text.take_new()


def show(pieces: Iterable[str]) -> None:
    """Print pieces as they come; Ctrl-C ends them."""
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        pass
    print()


def ending(sampling: Sampling, tokenizer: Tokenizer) -> Sampling:
    """A text also ends with the token that ends documents and turns."""
    return replace(sampling, stop_ids=(*sampling.stop_ids, tokenizer.eos))


def dim(text: str, out: TextIO | None = None) -> str:
    """Dimmed where it goes to a terminal that shows it."""
    return (
        f"{DIM}{text}{PLAIN}"
        if text and (out or sys.stdout).isatty() and "NO_COLOR" not in os.environ
        else text
    )
