"""A config by its name, and the options of the command line that change its fields."""

import importlib
import pkgutil
import runpy
import traceback
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

import configs
from seekjax.checkpoint.config_json import read_config
from seekjax.commands.grid import SWEEP_HELP
from seekjax.commands.options import note, read_options
from seekjax.commands.renamed import current_options, negated, option_of
from seekjax.config import (
    Config,
    DataConfig,
    DistillConfig,
    DpoConfig,
    ExtendConfig,
    GrpoConfig,
    KernelConfig,
    LoraConfig,
    MeshConfig,
    ModelConfig,
    Objective,
    OptimizerConfig,
    Piece,
    Schedule,
    SftConfig,
    TrainConfig,
)
from seekjax.config.fields import field_comments, leaves
from seekjax.config.recipes import find_recipe, objective_of
from seekjax.config.values import check_values
from seekjax.errors import SeekjaxError, UsageError, need
from seekjax.registry import did_you_mean
from seekjax.storage import kind_of
from seekjax.workflow import Workflow
from sharding.mesh_config import FREQUENT as FREQUENT_AXES

# What --help shows of each part of a config; --help-all shows every field.
FREQUENT: dict[type, tuple[str, ...]] = {
    ModelConfig: ("embed", "layers", "experts"),
    DataConfig: ("sources", "tokenizer", "sequence"),
    OptimizerConfig: ("name", "learning_rate", "schedule"),
    MeshConfig: FREQUENT_AXES,
    KernelConfig: ("dtype",),
    TrainConfig: ("steps", "batch", "micro_batch", "seed"),
    LoraConfig: ("rank",),
    ExtendConfig: ("context",),
    SftConfig: ("chats", "tasks"),
    DpoConfig: ("pairs", "beta"),
    DistillConfig: ("teacher", "chats", "tasks", "on_policy"),
    GrpoConfig: ("tasks", "rewards", "recipe", "prompts", "group", "max_new"),
}
RARE = {Config: ("name", "tensorboard", "wandb")}  # which --help leaves out of what it shows whole


NAME_CHARACTERS = 100  # of a name that does not exist, in a sentence

Offers = Callable[[type, str], bool]  # of the fields of a part, which become options


def config_names() -> list[str]:
    """Return the names of the runs in configs/."""
    return sorted(module.name for module in pkgutil.iter_modules(configs.__path__))


def config_name(argv: list[str], default: str = "tiny") -> str:
    """Return the config that a command line names first."""
    if argv and not argv[0].startswith("-"):
        return argv[0]
    return default


def load_config(name: str, trust: bool = False) -> Config | Workflow:
    """Return what a name stands for: a config or a workflow.

    The name is one of configs/, a Python file, or the folder of a run that has begun. `trust` lets
    a folder's config name code from outside this package. Raises UsageError and RunError.
    """
    if name.endswith(".py"):
        return _from_file(name)
    if name in config_names():
        return _defined_in(name, vars(importlib.import_module(f"configs.{name}")))
    folder = _run_folder(name)
    if folder is not None:
        config = read_config(folder / "config.json", trust=trust)
        return replace(config, out=folder, trust=trust)
    raise UsageError(
        f"there is no config {name[:NAME_CHARACTERS]!r}{did_you_mean(name, config_names())} "
        f"configs/ has: {', '.join(config_names())}."
    )


def _run_folder(name: str) -> Path | None:
    """Return the folder of a run that has begun, or None if the name is that of none."""
    try:
        folder = Path(name).expanduser()
        return folder if kind_of(folder) == "run" else None
    except (OSError, RuntimeError, ValueError):  # too long, an unknown user, a null
        return None


def parse(argv: list[str], program: str, default: str = "tiny") -> Config:
    """Return the config named first, with the fields that the options set.

    Prints a notice for an option that had another name once. Exits with status 0 after --help, and
    with 2 and the nearest name if an option does not exist. Raises UsageError for a workflow.
    """
    name = config_name(argv, default)
    options = argv[1:] if argv[:1] == [name] else argv
    config = load_config(name, trust="--trust" in options)
    if isinstance(config, Workflow):
        raise UsageError(
            f"{name} is several runs: start them with python train.py {name}, and name one of them "
            "by its own folder."
        )
    folder = config.out or Path("runs") / Path(name).stem
    config = replace(config, out=folder.expanduser())

    options, notices = current_options(options, config, name)
    note(notices)
    config = _with_options(config, options, f"{program} {name}", _description(name))
    config = replace(config, name=config.name or Path(name).stem)
    need(config.out, "--out is None: a run needs a folder.", UsageError)
    check_values(config)
    return replace(config, out=config.out and config.out.expanduser())


def _from_file(name: str) -> Config | Workflow:
    """Return what a Python file defines. Raises UsageError if it cannot be read or run."""
    path = Path(name).expanduser()
    need(path.is_file(), f"there is no config file {name}.", UsageError)
    try:
        return _defined_in(name, runpy.run_path(str(path)))
    except SeekjaxError:
        raise
    except Exception as error:  # a user's file may raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == "seekjax.pipeline":
            raise UsageError(_OLD_PIPELINE.format(name=name)) from error
        raise UsageError(
            f"the config file {name} cannot be run{_line_of(error, str(path))}: "
            f"{type(error).__name__}: {error}."
        ) from error


def _line_of(error: Exception, path: str) -> str:
    """Return " (line N)", the last line of a file that an error passed through, if there is one."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return f" (line {error.lineno})"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == path:
            return f" (line {frame.lineno})"
    return ""


_OLD_PIPELINE = (
    "{name} defines a pipeline: several runs are now `workflow = Workflow(...)` of "
    "seekjax.workflow, as in configs/r1.py."
)


def _defined_in(name: str, names: dict[str, Any]) -> Config | Workflow:
    """Return the config or the workflow among the names of a module."""
    defined = names.get("config", names.get("workflow"))
    if isinstance(defined, Config | Workflow):
        return defined
    if "pipeline" in names:
        raise UsageError(_OLD_PIPELINE.format(name=name))
    raise UsageError(
        f"{name} does not define `config = Config(...)`, nor `workflow = Workflow(...)`."
    )


def _description(name: str) -> str:
    """Return what --help says before the options."""
    about = ""
    if name in config_names():
        about = importlib.import_module(f"configs.{name}").__doc__ or ""
    configs = f"Configs: {', '.join(config_names())}."
    return f"{about}\n{configs}\nEvery field: --help-all.\n{SWEEP_HELP}"


def _with_options(config: Config, options: list[str], program: str, description: str) -> Config:
    """Return the config with the fields that the options set."""
    short = "--help-all" not in options
    if not short:
        options = ["--help" if word == "--help-all" else word for word in options]
    asks_for_help = "--help" in options or "-h" in options

    # The recipe fills the objective before other options change single fields of it.
    if config.grpo is not None:
        recipe = _last_value(options, "--grpo.recipe")
        objective = find_recipe(recipe) if recipe else objective_of(config.grpo)
        config = replace(config, grpo=replace(config.grpo, objective=objective))

    config = read_options(
        Config,
        options,
        program,
        default=config,
        description=description,
        rules=option_rules(_frequent if short and asks_for_help else _named_in(options, config)),
    )

    # An objective without changes is the recipe's, so that config.json stays as it was.
    grpo = config.grpo
    if grpo is not None and grpo.objective == find_recipe(grpo.recipe):
        config = replace(config, grpo=replace(grpo, objective=None))
    return config


def _last_value(options: list[str], option: str) -> str:
    """Return the last value that an option has on a command line, or ""."""
    value = ""
    for number, word in enumerate(options):
        if word == option and number + 1 < len(options):
            value = options[number + 1]
        elif word.startswith(f"{option}="):
            value = word.partition("=")[2]
    return value


def _frequent(part: type, name: str) -> bool:
    """Return whether --help shows a field."""
    return name in FREQUENT.get(part, (name,)) and name not in RARE.get(part, ())


def _named_in(options: list[str], config: Config) -> Offers:
    """Return which fields to offer for a line: those that it names, and all if one is unknown.

    tyro takes half a millisecond for each field, and only a wrong option needs its neighbours.
    """
    known = {option_of(path): path.split(".") for path, _ in leaves(config)}
    known |= {negated(option): path for option, path in known.items()}
    named: set[str] = set()
    for word in options:
        if word.startswith("--"):
            option = word.partition("=")[0].replace("_", "-")
            if option not in known:
                return lambda part, name: True
            named.update(known[option])
    return lambda part, name: name in named


def option_rules(offers: Offers) -> ConstructorRegistry:
    """Return the rules by which tyro turns the fields of a config into options."""
    registry = ConstructorRegistry()

    @registry.struct_rule
    def fields_as_options(info: StructTypeInfo) -> StructConstructorSpec | None:
        """Offer the fields of a part; those that are left out keep their value."""
        part = info.default
        if type(part) not in _PARTS:
            return None
        specs = []
        for name, hint in get_type_hints(type(part), include_extras=True).items():
            value = getattr(part, name)
            if not offers(type(part), name):
                continue
            if name in ("sft", "dpo", "distill", "grpo") and value is None:
                continue
            comment = field_comments(type(part))[name]
            specs.append(StructFieldSpec(name, _option_type(hint, value), value, comment))
        return StructConstructorSpec(partial(replace, part), tuple(specs))

    return registry


_PARTS = (
    *FREQUENT,
    Config,
    Objective,
    *(type(part) for part in (ModelConfig().rope, DistillConfig().sampling)),
)


def _option_type(hint: Any, value: Any) -> Any:
    """Return the type by which tyro parses a field."""
    if hint == Schedule:
        return Annotated[Schedule, _SCHEDULE]
    if isinstance(value, Objective):
        # without a prefix of its own: --grpo.clip-high
        return Annotated[Objective, tyro.conf.arg(name="")]
    if is_dataclass(value):
        return type(value)
    return hint


def _parse_schedule(words: list[str]) -> Schedule:
    """Return the pieces of UNTIL:TO[:SHAPE] words. Raises ValueError for another form."""
    shapes = get_args(get_type_hints(Piece)["shape"])
    pieces = []
    for word in words:
        until, _, rest = word.partition(":")
        to, _, shape = rest.partition(":")
        try:
            piece = Piece(float(until), float(to), shape or "constant")  # pyright: ignore
        except ValueError:
            piece = None
        if piece is None or piece.shape not in shapes:
            raise ValueError(
                f"{word!r} is not a piece of a schedule: write UNTIL:TO or UNTIL:TO:SHAPE with a "
                f"shape of {', '.join(shapes)}, as in 0.3:1 1:0.1:cosine"
            )
        pieces.append(piece)
    return tuple(pieces)


def _schedule_words(schedule: Schedule) -> list[str]:
    """Return the words that `_parse_schedule` reads."""
    words = []
    for piece in schedule:
        shape = "" if piece.shape == "constant" else f":{piece.shape}"
        words.append(f"{piece.until:.6g}:{piece.to:.6g}{shape}")
    return words


_SCHEDULE = PrimitiveConstructorSpec(
    nargs="*",
    metavar="UNTIL:TO[:SHAPE] ...",
    instance_from_str=_parse_schedule,
    is_instance=lambda value: isinstance(value, tuple),
    str_from_instance=_schedule_words,
)
