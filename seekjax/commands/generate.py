"""`seekjax generate`: continue a text, on the terminal as it is generated.

Standard output holds prompts and completions alone; the speed goes to standard error.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace

from rich.console import Console

from seekjax.commands.common import keep_compiled
from seekjax.commands.replicas import add_replicas
from seekjax.commands.settings import Generate, ModelOptions, RedundantExperts
from seekjax.config import KernelConfig
from seekjax.config.generation import Sampling
from seekjax.console import DIM, console, print_text
from seekjax.data.tokenizer import Tokenizer
from seekjax.generate.generator import Generation, Generator
from seekjax.open import OpenedModel, need_tokenizer, on_mesh, open_model
from seekjax.terminal import well_formed


def generate(options: Generate) -> None:
    """Run the command; cli.exit_status prints the sentence of what it raises."""
    keep_compiled()
    screen = console()
    with on_mesh(options.mesh):
        opened, generator = open_generator(options.model, options.replicas)
        tokenizer = need_tokenizer(opened)

        prompts = list(map(read_prompt, options.prompt))
        ids = [[tokenizer.begin, *tokenizer.encode(prompt).tolist()] for prompt in prompts]
        sampling = stop_at_end(options.sampling, tokenizer)
        generation = generator.stream(ids, sampling, tokenizer.decode)

        if len(prompts) == 1:
            print_stream(screen, prompts[0], generation)
        else:
            print_side_by_side(screen, prompts, generation)
        print_text(console(sys.stderr), generation.report(), DIM, end="\n")


def open_generator(
    options: ModelOptions,
    replicas: RedundantExperts,
) -> tuple[OpenedModel, Generator]:
    """Return the model without its weights, and its generator; call it within the mesh."""
    opened = open_weights(options, replicas)
    generator = Generator(
        opened.model, opened.variables, opened.kernel, draft=options.draft, consume=True
    )
    return opened._replace(variables={}), generator


def open_weights(options: ModelOptions, replicas: RedundantExperts) -> OpenedModel:
    """Return the model as the options ask for it; call it within the mesh."""
    kernel = KernelConfig(dtype=options.dtype) if options.dtype else None
    opened = open_model(options.folder, kernel, trust=options.trust, base=options.base)
    opened = add_replicas(opened, replicas)

    kernel = opened.kernel
    if options.cache != "same":
        kernel = replace(kernel, cache=options.cache)
    return opened._replace(kernel=kernel)


def read_prompt(word: str) -> str:
    """Return a prompt of the command line, or standard input for -."""
    return well_formed(sys.stdin.read() if word == "-" else word)


def print_stream(screen: Console, prompt: str, generation: Generation) -> None:
    """Print a prompt and its completion as it is generated; Ctrl-C ends the completion."""
    try:
        print_text(screen, prompt)
        for piece in new_text(generation):
            print_text(screen, piece)
    except KeyboardInterrupt:
        pass
    print_text(screen, "\n")


def print_side_by_side(screen: Console, prompts: list[str], generation: Generation) -> None:
    """Print all prompts with their completions once these are finished."""
    completions = generation.finish()
    for prompt, completion in zip(prompts, completions):
        print_text(screen, f"{prompt}{completion.text}", end="\n")
        print_text(screen, "--", DIM, end="\n")


def new_text(generation: Generation) -> Iterator[str]:
    """Yield the new text of a single completion after each device call."""
    for [completion] in generation:
        if completion.text is not None:
            yield completion.text.take_new()


def stop_at_end(sampling: Sampling, tokenizer: Tokenizer) -> Sampling:
    """Return the settings with the model's own stop ids, which end documents and turns."""
    return replace(sampling, stop_ids=(*sampling.stop_ids, *tokenizer.stops))
