"""Several values for a field that takes one: the axes of a grid of runs, and its cells."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path

from seekjax.commands.renamed import RENAMED, SWITCH, negated, option_of
from seekjax.config import Config, Objective
from seekjax.config.fields import leaves

SWEEP_HELP = (
    "Several values for a field that takes one make a sweep, as in --train.seed 0 1 2 "
    "--optimizer.learning-rate 1e-3 3e-3: a run for each combination, in --out/NAME-OF-VALUES "
    "(default: runs/CONFIG-sweep); --plan only shows the lines, and the same line again goes on. "
    "A field that takes a list keeps its meaning: --data.sources a b is one run."
)

# Fields that name a run or where it reports, and are the same for a whole sweep.
SHARED = ("out", "name", "wandb", "tensorboard", "profile", "trust")
NAME_CHARACTERS = 60  # of a value in the name of a folder

Axes = dict[str, list[str]]  # the values of each option that has several


def find_axes(config: Config, options: Sequence[str]) -> Axes:
    """Return the values of the options that have several and whose field takes one.

    The last mention of an option counts, as on any command line.
    """
    if {"--help", "--help-all", "-h"} & {*options}:
        return {}
    fields = _scalar_options(config)
    axes: Axes = {}
    for option, values in _mentions(options):
        axes.pop(option, None)
        if option not in fields or len(values) < 2:
            continue
        is_switch = isinstance(fields[option], bool)
        if not is_switch or {value.lower() for value in values} <= SWITCH.keys():
            axes[option] = values
    return axes


def _scalar_options(config: Config) -> dict[str, object]:
    """Return the options whose field takes one value, with that of the config."""
    if config.grpo is not None and config.grpo.objective is None:
        config = replace(config, grpo=replace(config.grpo, objective=Objective()))
    options = {}
    for path, value in leaves(config):
        if path not in SHARED and not isinstance(value, tuple):
            options[option_of(path)] = value
    return options


def _mentions(options: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each option of a line and the words after it, under its name of today."""
    option = ""
    values: list[str] = []
    for word in options:
        if not word.startswith("--"):
            values.append(word)
            continue
        yield option, values
        first, equals, rest = word.partition("=")
        option = first.replace("_", "-")
        option = RENAMED.get(option, option)
        values = [rest] if equals else []
    yield option, values


def shared_words(options: Sequence[str], axes: Axes) -> tuple[list[str], Path | None, bool]:
    """Return the words that all runs have, the folder that --out names, and whether to plan."""
    words: list[str] = []
    out = None
    plan = False
    for option, values in _mentions(options):
        if option == "--out" and values:
            out = Path(values[0])
        elif option == "--plan":
            plan = True
        elif option not in axes:
            words += [option, *values] if option else values
    return words, out, plan


def cells(axes: Axes) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each combination of values, and the words that set them."""
    names = _short_names(axes)
    for values in product(*axes.values()):
        parts = []
        words = []
        for option, value in zip(axes, values):
            parts.append(f"{names[option]}={_in_name(value)}")
            words += _setting(option, value)
        yield ",".join(parts), words


def _setting(option: str, value: str) -> list[str]:
    """Return the words that set an option: a switch has no value."""
    if value.lower() not in SWITCH:
        return [option, value]
    return [option if SWITCH[value.lower()] else negated(option)]


def _short_names(axes: Axes) -> dict[str, str]:
    """Return the last part of each option, or all of it where two end in the same."""
    short = {option: option.rpartition(".")[2].removeprefix("--") for option in axes}
    names = list(short.values())
    for option, name in short.items():
        if names.count(name) > 1:
            short[option] = option.removeprefix("--")
    return short


def _in_name(value: str) -> str:
    """Return a value as part of a folder's name: 1e-3 and 0.001 are the same."""
    with suppress(ValueError):
        number = float(value)
        return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
    return re.sub(r"[^\w.+-]+", "-", value).strip("-")[-NAME_CHARACTERS:]
