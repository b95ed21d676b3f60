"""Several commands as one run: each is a line that also works by itself, and what is finished is
not done again.

python train.py r1 --out runs/r1 --seed 0 --cold.train.steps 300
"""

import itertools
import json
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro

from seekjax.errors import RunError
from seekjax.post.rollout.statistics import sentence
from seekjax.storage import write_atomically
from seekjax.workflow import Pipeline

TRAIN, TOOL = "train.py", "seekjax"  # what a line may begin with
MADE = ("--out", "--report")  # the word before the name of what a line makes


@dataclass(frozen=True)
class Asked:
    """What a user may say of all stages; --STAGE.FIELD VALUE adds --FIELD VALUE to the line of
    one."""

    out: Path  # the folder of all stages
    seed: int = 0  # of all stages
    plan: bool = False  # only show the lines


Command = Callable[
    [list[str]], bool
]  # the words after train.py or seekjax; whether it came to its end


def follow(
    name: str,
    pipeline: Pipeline,
    argv: list[str],
    commands: dict[str, Command],
    check: Callable[[list[str]], object],
) -> int:
    """Run the stages that are not finished. `check` reads the words of a training line and raises,
    so that a mistake in the last stage is met before the first. Raises RunError for a line that is
    none, and where a finished stage was made by another line.
    """
    rest, more = parted(argv, pipeline.stages)
    asked = tyro.cli(
        Asked,
        prog=f"train.py {name}",
        args=rest,
        default=Asked(Path("runs") / name),
        config=(tyro.conf.FlagConversionOff,),
        description=f"{pipeline.about}\nStages: {', '.join(pipeline.stages)}.",
    )
    lines = {
        stage: [*words_of(stage, line, asked), *more.get(stage, [])]
        for stage, line in pipeline.stages.items()
    }
    for words in lines.values():
        if words[0] == TRAIN:
            check(words[1:])
    if asked.plan:
        print(
            "\n".join(
                f"{stage:>{max(map(len, lines))}}  {command_of(words)}"
                for stage, words in lines.items()
            )
        )
        return 0
    record = Record(asked.out / "pipeline.json")
    finished = record.matching(lines)
    for number, (stage, words) in enumerate(lines.items(), 1):
        print(
            f"== {stage} ({number} of "
            f"{len(lines)}){': finished before' if stage in finished else ''}\n   "
            f"{command_of(words)}",
            flush=True,
        )
        if stage in finished:
            continue
        whole, began = False, time.perf_counter()
        record.begin(stage, words)
        try:
            whole = commands[words[0]](words[1:])
        except KeyboardInterrupt:  # training meets it after a step, the tools at once
            pass
        finally:
            record.end(stage, time.perf_counter() - began, whole)
        if not whole:
            print(f"stopped in {stage}; the same command continues from there.")
            return 1
    print(
        "\n".join(
            [
                f"== all {len(lines)} stages of {name} are finished: {asked.out}; "
                f"{record.total(lines) / 60:.1f} minutes",
                *reports(lines),
            ]
        )
    )
    return 0


def reports(lines: dict[str, list[str]]) -> list[str]:
    """What the stages that measure have found."""
    found = [
        (Path(words[2]).name, json.loads(product(words).read_text()))
        for words in lines.values()
        if words[:2] == [TOOL, "eval"]
    ]
    return [f"{model:>12}  {', '.join(seen['task'])}: {sentence(seen)}" for model, seen in found]


class Record:
    """pipeline.json: the lines that were begun, whether they came to their end, and how long each
    took, over all its starts."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.stages = json.loads(path.read_text()) if path.exists() else {}
        except ValueError as error:
            raise RunError(
                f"{path} cannot be read ({error}): move it away, and stages that are "
                "finished say so themselves."
            ) from error

    def matching(self, lines: dict[str, list[str]]) -> set[str]:
        """The stages that are finished. What was made and then deleted is to be made again. Raises
        RunError for a line that has changed since, or reads what is to be made again.
        """
        finished = {
            stage
            for stage, words in lines.items()
            if self.stages.get(stage, {}).get("finished") and product(words).exists()
        }
        made_anew = {str(product(words)) for stage, words in lines.items() if stage not in finished}
        for stage in sorted(finished):
            if sources := made_anew & set(lines[stage]):
                raise RunError(
                    f"stage {stage} of {self.path.parent} was made from {sources.pop()}, "
                    f"which is to be made anew: delete {product(lines[stage])} too."
                )
            if self.stages[stage]["line"] != (line := command_of(lines[stage])):
                raise RunError(
                    f"stage {stage} of {self.path.parent} was made by another line "
                    f"({self.stages[stage]['line']}; now {line}): name another --out, "
                    f"or delete {product(lines[stage])} to make it anew."
                )
        return finished

    def begin(self, stage: str, words: list[str]) -> None:
        """From here on the stage is not finished, though what it makes may be there; its clock goes
        on where it was stopped."""
        before = self.stages.get(stage, {})
        self.stages[stage] = {
            "line": command_of(words),
            "seconds": 0.0 if before.get("finished") else before.get("seconds", 0.0),
            "finished": False,
        }
        self.write()

    def end(self, stage: str, seconds: float, whole: bool) -> None:
        """What it took, and whether it is whole."""
        self.stages[stage] |= {
            "seconds": round(self.stages[stage]["seconds"] + seconds, 1),
            "finished": whole,
        }
        self.write()

    def write(self) -> None:
        """Replaces the file, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, json.dumps(self.stages, indent=1) + "\n")

    def total(self, lines: dict[str, list[str]]) -> float:
        """Seconds of these stages."""
        return sum(self.stages[stage]["seconds"] for stage in lines)


def words_of(stage: str, line: str, asked: Asked) -> list[str]:
    """A line as words. Raises RunError for one that is no command or does not say what it makes."""
    try:
        words = [word.format(out=asked.out, seed=asked.seed) for word in shlex.split(line)]
    except (ValueError, LookupError) as error:
        raise RunError(
            f"stage {stage} cannot be read ({type(error).__name__}: {error}): {line}"
        ) from error
    if words[:1] not in ([TRAIN], [TOOL]) or not set(MADE) & set(words):
        raise RunError(
            f"stage {stage} must begin with {TRAIN} or {TOOL} and name what it makes with "
            f"{' or '.join(MADE)}: {line}"
        )
    return words


def command_of(words: list[str]) -> str:
    """A stage as a user would type it."""
    return shlex.join((["python"] if words[0] == TRAIN else []) + words)


def product(words: list[str]) -> Path:
    """What a line makes."""
    return next(Path(value) for word, value in itertools.pairwise(words) if word in MADE)


def parted(argv: list[str], stages: dict[str, str]) -> tuple[list[str], dict[str, list[str]]]:
    """Words for all stages, and those for one: --cold.train.steps 300 gives {"cold":
    ["--train.steps", "300"]}."""
    rest, more, home = [], {}, None
    for word in argv:
        if word.startswith("--"):
            stage, dot, field = word[2:].partition(".")
            home = more.setdefault(stage, []) if dot and stage in stages else None
            word = f"--{field}" if home is not None else word
        (rest if home is None else home).append(word)
    return rest, more
