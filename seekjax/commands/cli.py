"""The command lines: `python train.py CONFIG --field value` and `seekjax COMMAND ...`."""

import importlib
import pkgutil
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import tyro

from seekjax.config import Config
from seekjax.errors import UsageError
from seekjax.registry import did_you_mean
from seekjax.storage import kind_of
from seekjax.workflow import Pipeline


def config_names() -> list[str]:
    """The runs in configs/."""
    import configs

    return sorted(module.name for module in pkgutil.iter_modules(configs.__path__))


def load_config(name: str) -> Config | Pipeline:
    """The config or the pipeline of a file in configs/, of a Python file that defines one, or the
    config of the folder of a run that has begun."""
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise UsageError(f"there is no config file {name}.")
        there = runpy.run_path(name)
        found = there.get("config") or there.get("pipeline")
    elif name in config_names():
        module = importlib.import_module(f"configs.{name}")
        found = getattr(module, "config", None) or module.pipeline
    elif kind_of(folder := Path(name).expanduser()) == "run":
        from seekjax.checkpoint.config_json import read_config

        found = replace(read_config(folder / "config.json"), out=folder)
    else:
        raise UsageError(
            f"there is no config {name!r}{did_you_mean(name, config_names())} "
            f"configs/ has: {', '.join(config_names())}."
        )
    if not isinstance(found, (Config, Pipeline)):
        raise UsageError(
            f"{name} does not define `config = Config(...)`, nor `pipeline = Pipeline(...)`."
        )
    return found


def parse(argv: list[str], program: str, default: str = "tiny") -> Config:
    """The config named first (default: tiny) with every later --field replaced; exits with help or
    a did-you-mean on bad input."""
    name = named(argv, default)
    config = load_config(name)
    if isinstance(config, Pipeline):
        raise UsageError(
            f"{name} is several runs: start them with python train.py {name}, and name "
            "one of them by its own folder."
        )
    config = replace(config, out=config.out or Path("runs") / Path(name).stem)
    return tyro.cli(
        Config,
        prog=f"{program} {name}",
        default=config,
        args=argv[argv[:1] == [name] :],
        config=(tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands),
        description=f"{importlib.import_module(f'configs.{name}').__doc__ if name in config_names() else ''}\nConfigs: "
        ""
        f"{', '.join(config_names())}.",
    )


def named(argv: list[str], default: str = "tiny") -> str:
    """What a command line names first."""
    return argv[0] if argv and not argv[0].startswith("-") else default


def run(work) -> int:
    """Call work(); bad input becomes one sentence on stderr and exit status 2."""
    from seekjax.data import DataError
    from seekjax.errors import CheckpointError, ConfigError, GenerateError, RunError, WeightsError

    try:
        return work() or 0
    except (
        UsageError,
        ConfigError,
        DataError,
        CheckpointError,
        RunError,
        WeightsError,
        GenerateError,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def show(argv: list[str]) -> int:
    """CONFIG [--field value]    Print every array of a config or a run: shape, logical axes, spec,
    bytes per device, the totals, and what quantising saves."""
    from seekjax.commands.show import table

    print(table(parse(argv, "seekjax show")))
    return 0


def convert(argv: list[str]) -> None:
    """--from A --to B           A published checkpoint into a run, a run into a published
    checkpoint (--dtype), or either for llama.cpp (--to-gguf)."""
    from seekjax.commands.convert import convert

    convert(argv)


def quantize(argv: list[str]) -> None:
    """MODEL --to int8 --out B   The same model with matrices in int8, int4 or fp8, for generate,
    chat and eval."""
    from seekjax.commands.quantize import quantize

    quantize(argv)


def generate(argv: list[str]) -> None:
    """MODEL --prompt TEXT       Continue a text with a run or a published checkpoint (--max-new,
    --temperature, --top-p, ...)."""
    from seekjax.commands.generate import generate

    generate(argv)


def chat(argv: list[str]) -> None:
    """MODEL                     Talk with it on this terminal."""
    from seekjax.commands.chat import chat

    chat(argv)


def evaluate(argv: list[str]) -> None:
    """MODEL --data PATH         Bits per byte and perplexity of a text; or --task NAME: pass@1,
    pass@k and cons@k on held-out problems."""
    from seekjax.commands.evaluate import evaluate

    evaluate(argv)


def rollouts(argv: list[str]) -> None:
    """RUN [--step N]            What a run of reinforcement wrote, and what each sample earned and
    why."""
    from seekjax.commands.rollouts import rollouts

    rollouts(argv)


def sample(argv: list[str]) -> None:
    """MODEL --task T --out F    Sample answers to training problems and keep the right ones as
    chats to fine-tune on."""
    from seekjax.commands.sample import sample

    sample(argv)


COMMANDS = {
    "show": show,
    "convert": convert,
    "quantize": quantize,
    "generate": generate,
    "chat": chat,
    "eval": evaluate,
    "rollouts": rollouts,
    "sample": sample,
}


def tool(argv: list[str]) -> bool:
    """A line of the console script; whether it came to its end."""
    return not COMMANDS[argv[0]](argv[1:])


def main() -> int:
    """The console script `seekjax`."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name not in COMMANDS:
        commands = "\n".join(
            f"    seekjax {command} {work.__doc__}" for command, work in COMMANDS.items()
        )
        print(
            "usage:\n    python train.py [CONFIG] [--field value]    Train; `python "
            f"train.py --help` explains every field.\n{commands}"
        )
        return 0 if name in ("-h", "--help") else 2
    return run(lambda: COMMANDS[name](sys.argv[2:]))
