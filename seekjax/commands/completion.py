"""`seekjax --completion bash|zsh|fish`: the script by which a shell completes our command lines."""

from collections.abc import Mapping, Sequence
from dataclasses import field, make_dataclass, replace
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

import tyro

from seekjax.commands import settings
from seekjax.commands.arguments import config_names, option_rules
from seekjax.commands.options import read_options
from seekjax.commands.plan import PlanOptions
from seekjax.config import Config, DistillConfig, DpoConfig, GrpoConfig, Objective, SftConfig
from seekjax.errors import UsageError, need
from seekjax.registry import load_object

SHELLS = ("bash", "zsh", "fish")

# The options of commands that read their words themselves; the others take a config and fields.
READ_BY_THEMSELVES = {
    "runs": "seekjax.commands.runs:Runs",
    "compare": "seekjax.commands.compare:Compare",
    "plot": "seekjax.commands.plot:Plot",
    "rollouts": "seekjax.commands.rollouts:Rollouts",
}


def print_completion(words: Sequence[str], options_of: Mapping[str, str]) -> None:
    """Print the script for the shell that is named; it ends the program with status 0.

    options_of: the class of each command's options in settings.py; "" for a command that reads its
    words itself. Raises UsageError for a shell that is not known.
    """
    need(
        len(words) == 1 and words[0] in SHELLS,
        f"--completion takes one of {', '.join(SHELLS)}, as in: seekjax --completion bash.",
        UsageError,
    )
    kinds = []
    for command, name in options_of.items():
        kind = _kind_of(command, name)
        kinds.append(Annotated[kind, tyro.conf.subcommand(command, prefix_name=False)])

    # tyro prints the script instead of reading options, if this is the first of them.
    request = ["--tyro-print-completion", words[0]]
    every_command: Any = reduce(or_, kinds)
    read_options(every_command, request, "seekjax", rules=option_rules(lambda part, name: True))


def _kind_of(command: str, name: str) -> type:
    """Return the class of a command's options."""
    if name:
        return getattr(settings, name)
    if command in READ_BY_THEMSELVES:
        return load_object(READ_BY_THEMSELVES[command], "options")
    return _config_options(PlanOptions if command == "plan" else None)


def _config_options(own: type | None) -> type:
    """Return the options of a command that takes a config: its name, every field, and its own."""
    grpo = replace(GrpoConfig(tasks=("addition",)), objective=Objective())
    every_kind = replace(
        Config(), sft=SftConfig(), dpo=DpoConfig(), distill=DistillConfig(), grpo=grpo
    )
    names = Literal[tuple(config_names())]  # pyright: ignore
    fields = [
        ("config", tyro.conf.Positional[names], field(default="tiny")),
        ("fields", Annotated[Config, tyro.conf.arg(name="")], field(default=every_kind)),
    ]
    if own is not None:
        fields.append(("own", Annotated[own, tyro.conf.arg(name="")], field(default_factory=own)))
    return make_dataclass("ConfigOptions", fields, frozen=True)
