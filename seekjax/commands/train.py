"""`seekjax train CONFIG`: one run, a workflow of several, or a sweep over values of fields."""

import shlex
import sys
from pathlib import Path

from seekjax.commands.arguments import config_name, load_config, parse
from seekjax.commands.cli import run_command
from seekjax.commands.grid import find_axes
from seekjax.commands.status import failing_in
from seekjax.errors import SeekjaxError, Status
from seekjax.terminal import discard_output, print_lines
from seekjax.workflow import Workflow


def train(argv: list[str]) -> int:
    """Train what a config describes, and return the exit status."""
    name = config_name(argv)
    chosen = load_config(name, trust="--trust" in argv)
    if isinstance(chosen, Workflow):
        from seekjax.commands.workflow import run_workflow

        commands = {"train.py": train_run, "seekjax": lambda words: run_command(words) == 0}
        return run_workflow(name, chosen, argv[1:], commands)

    options = argv[1:] if argv[:1] == [name] else argv
    axes = find_axes(chosen, options)
    if axes:
        from seekjax.commands.sweep import run_sweep

        return run_sweep(name, chosen, options, axes, train_run)
    return Status.FINISHED if train_run(argv) else Status.STOPPED


def train_run(argv: list[str]) -> bool:
    """Train one run, and return whether it has come to its end.

    A run that a signal stopped has not, and the same command continues it. Raises KeyboardInterrupt
    for a signal that came when there was nothing to save.
    """
    config = parse(argv, _program())

    # imported only now, so that --help and a mistyped option answer quickly
    from seekjax.commands.common import keep_compiled
    from seekjax.post.kinds import fit
    from seekjax.train.signals import listening

    with failing_in(config.out), listening(own_process=True) as signals:
        keep_compiled()
        fitted = fit(config, signals)
        if signals.stop is not None:
            show_pictures(fitted.folder)
            return False
        print_lines(fitted.parts.report.finish(fitted.state, fitted.folder))
        print("  or train on with", longer(argv, config.train.steps))
    return True


def show_pictures(folder: Path) -> None:
    """Draw the pictures of a run that was stopped, and name them where that can be read."""
    from seekjax.post.pictures import picture_line

    try:
        print_lines(picture_line(folder))
    except SeekjaxError as error:
        print(f"without pictures: {error}")
    except OSError:
        discard_output()  # the terminal is gone


def longer(argv: list[str], steps: int) -> str:
    """Return the command that continues a run to twice its length."""
    kept = []
    is_value = False
    for word in argv:
        if not is_value and not word.startswith("--train.steps="):
            is_value = word == "--train.steps"
            if not is_value:
                kept.append(word)
        else:
            is_value = False
    return f"{_program()} {shlex.join([*kept, '--train.steps', str(2 * steps)])}"


def _program() -> str:
    """Return how the user started this: through the console script, or through train.py."""
    if Path(sys.argv[0]).name == "seekjax":
        return "seekjax train"
    return "python train.py"
