"""The console script `seekjax COMMAND ...`, of which `python train.py ...` is the command train."""

import sys
import textwrap
from typing import Any, NamedTuple

from seekjax.commands.status import exit_status
from seekjax.errors import Status, UsageError
from seekjax.registry import did_you_mean, load_object
from seekjax.train.signals import listening


class Command(NamedTuple):
    """A command; its function is imported only when it runs, so that --help answers at once."""

    function: str  # module:function of the options or words; 0 or None = it finished
    arguments: str
    about: str
    options: str = ""  # their class in seekjax/commands/settings.py; "" = the function takes words


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
    "plan": Command(
        "seekjax.commands.plan:plan",
        "CONFIG --on h800:2048",
        "Work out what a run takes and costs: FLOPs, memory, traffic, the best mesh, hours, "
        "dollars; or, with --inference, what generating takes (--json).",
    ),
    "convert": Command(
        "seekjax.commands.convert:convert",
        "--from A --to B",
        "Turn a published checkpoint into a run, a run into a published checkpoint (--dtype), or "
        "either into a file for llama.cpp (--to-gguf).",
        "Convert",
    ),
    "quantize": Command(
        "seekjax.commands.quantize:quantize",
        "MODEL --to int8 --out B",
        "Write the same model with matrices in int8, int4 or fp8, for generate, chat and eval.",
        "Quantize",
    ),
    "generate": Command(
        "seekjax.commands.generate:generate",
        "MODEL --prompt TEXT",
        "Continue a text with a run or a published checkpoint (--max-new, --temperature, ...).",
        "Generate",
    ),
    "chat": Command(
        "seekjax.commands.chat:chat",
        "MODEL",
        "Hold a conversation on this terminal.",
        "ChatOptions",
    ),
    "serve": Command(
        "seekjax.commands.serve:serve",
        "MODEL",
        "Serve a model over HTTP, by OpenAI's and Anthropic's protocols and with a chat page.",
        "Serve",
    ),
    "eval": Command(
        "seekjax.commands.evaluate:evaluate",
        "MODEL --data PATH",
        "Measure bits per byte and perplexity of a text; with --task NAME, pass@1, pass@k and "
        "cons@k on held-out problems; or, with --lm-eval NAME, tasks of lm-evaluation-harness.",
        "Eval",
    ),
    "runs": Command(
        "seekjax.commands.runs:runs",
        "[FOLDER]",
        "List the runs below a folder (runs/): how far each came, and with which figures (--json).",
    ),
    "compare": Command(
        "seekjax.commands.compare:compare",
        "RUN RUN ...",
        "Compare runs: settings that differ, curves in one picture, final figures; runs that "
        "differ only in the seed are one row, with mean and standard deviation.",
    ),
    "plot": Command(
        "seekjax.commands.plot:plot",
        "RUN",
        "Draw the pictures of a run, also while it goes on or after it was stopped.",
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
        "Sample",
    ),
}

# Commands with a meaning of their own for Ctrl-C: a run is saved, an answer ends and not the chat,
# a server lets its answers end.
MEET_SIGNALS = ("train", "chat", "serve")

STATUSES = {
    Status.FINISHED: "finished",
    Status.FAILED: "failed: a defect, or the machine; the sentence names a file with the traceback",
    Status.BAD_INPUT: "bad input: the sentence says what to change",
    Status.STOPPED: "stopped by a signal, with everything saved: the same command continues",
    Status.INTERRUPTED: "interrupted (Ctrl-C) where there was nothing to save",
    Status.UNREAD: "the reader of the output has gone, as in `seekjax ... | head`",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status (seekjax/errors.py); one sentence for an error."""
    words = sys.argv[1:] if argv is None else argv
    return exit_status(lambda: _command(words))


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
    command = COMMANDS[name]
    given: Any = rest
    if command.options:
        from seekjax.commands import common, settings  # a quarter of a second, for tyro

        given = common.parse_options(getattr(settings, command.options), name, rest)

    function = load_object(command.function, "command")
    if name in MEET_SIGNALS:
        return function(given) or 0
    with listening(own_process=True, is_run=False):
        return function(given) or 0


def _command(words: list[str]) -> int:
    """Run what a command line asks for: a command, the list of commands, or the version."""
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if words[0] == "--version":
        from seekjax import __version__

        print(f"seekjax {__version__}")
        return 0
    if words[0] == "--completion":
        from seekjax.commands.completion import print_completion

        print_completion(words[1:], {name: command.options for name, command in COMMANDS.items()})
    return run_command(words)


def _usage() -> str:
    """Return the commands in columns, and the exit statuses."""
    lines = [
        "usage: seekjax COMMAND ...   |   seekjax COMMAND --help   |   seekjax --version",
        "       seekjax --completion bash|zsh|fish   prints a script that completes these lines",
        "",
    ]
    forms = {name: f"{name} {command.arguments}" for name, command in COMMANDS.items()}
    width = max(map(len, forms.values()))
    for name, command in COMMANDS.items():
        about = textwrap.wrap(command.about, 96 - width, break_on_hyphens=False)
        lines.append(f"  {forms[name]:{width}}  {about[0]}")
        lines += [f"  {'':{width}}  {line}" for line in about[1:]]

    lines += ["", "exit status:"]
    lines += [f"  {status:>3}  {meaning}" for status, meaning in STATUSES.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
