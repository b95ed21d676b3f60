"""The console script `seekjax COMMAND ...`, of which `python train.py ...` is the command train."""

import sys
from collections.abc import Callable
from typing import NamedTuple

from seekjax.errors import SeekjaxError, UsageError
from seekjax.registry import did_you_mean, load_object
from seekjax.terminal import TEXT_MARKS, accept_any_text, discard_output, visible

BROKEN_PIPE = 141  # the status of a program that SIGPIPE ends


class Command(NamedTuple):
    """A command; its function is imported only when it runs, so that --help answers at once."""

    function: str  # module:function of the words after the command's name; 0 or None = it finished
    arguments: str
    about: str


COMMANDS = {
    "train": Command(
        "seekjax.commands.train:train",
        "[CONFIG] [--field value]",
        "Train, from nothing or from a model; `seekjax train --help` explains the fields.",
    ),
    "show": Command(
        "seekjax.commands.show:show",
        "[CONFIG] [--field value]",
        "Print every array of a config or a run: shape, logical axes, placement, bytes per "
        "device, the totals, and what quantising saves.",
    ),
    "convert": Command(
        "seekjax.commands.convert:convert",
        "--from A --to B",
        "Turn a published checkpoint into a run, a run into a published checkpoint (--dtype), or "
        "either into a file for llama.cpp (--to-gguf).",
    ),
    "quantize": Command(
        "seekjax.commands.quantize:quantize",
        "MODEL --to int8 --out B",
        "Write the same model with matrices in int8, int4 or fp8, for generate, chat and eval.",
    ),
    "generate": Command(
        "seekjax.commands.generate:generate",
        "MODEL --prompt TEXT",
        "Continue a text with a run or a published checkpoint (--max-new, --temperature, ...).",
    ),
    "chat": Command(
        "seekjax.commands.chat:chat",
        "MODEL",
        "Hold a conversation on this terminal.",
    ),
    "eval": Command(
        "seekjax.commands.evaluate:evaluate",
        "MODEL --data PATH",
        "Measure bits per byte and perplexity of a text; or, with --task NAME, pass@1, pass@k and "
        "cons@k on held-out problems.",
    ),
    "rollouts": Command(
        "seekjax.commands.rollouts:rollouts",
        "RUN [--step N]",
        "Print what a run of reinforcement wrote, and what each sample earned and why.",
    ),
    "sample": Command(
        "seekjax.commands.sample:sample",
        "MODEL --task T --out F",
        "Sample answers to training problems and keep the right ones as chats to fine-tune on.",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status: 2 with one sentence on stderr for bad input."""
    words = sys.argv[1:] if argv is None else argv
    return exit_status(lambda: _command(words))


def exit_status(work: Callable[[], int | None]) -> int:
    """Return the status of `work`, 2 after printing the sentence of a SeekjaxError, or BROKEN_PIPE
    if nothing reads the output any more.
    """
    accept_any_text()
    try:
        status = work() or 0
        sys.stdout.flush()
    except SeekjaxError as error:
        # what a file or a template has put into the sentence is shown, not executed
        print(f"error: {visible(str(error), keep=TEXT_MARKS)}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        discard_output()
        return BROKEN_PIPE
    return status


def run_command(words: list[str]) -> int:
    """Run the command named first with the words after it, and return its exit status.

    Raises UsageError with the nearest name for an unknown command, and the command's SeekjaxError.
    """
    name, *rest = words
    if name not in COMMANDS:
        raise UsageError(
            f"there is no command {name!r}{did_you_mean(name, COMMANDS)} "
            f"The commands are {', '.join(COMMANDS)}."
        )
    function = load_object(COMMANDS[name].function, "command")
    return function(rest) or 0


def _command(words: list[str]) -> int:
    """Run what a command line asks for: a command, the list of commands, or the version."""
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if words[0] == "--version":
        from seekjax import __version__

        print(f"seekjax {__version__}")
        return 0
    return run_command(words)


def _usage() -> str:
    """Return one paragraph per command."""
    lines = [
        "usage: seekjax COMMAND ...        seekjax COMMAND --help        seekjax --version",
        "",
    ]
    for name, command in COMMANDS.items():
        lines.append(f"  seekjax {name} {command.arguments}")
        lines.append(f"      {command.about}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
