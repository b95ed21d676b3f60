"""Several command lines in a row, as one run of many stages: `python train.py r1`.

Each line is what one could type: "NAME CONFIG --field value" trains into OUT/NAME, "NAME sample ..." and "NAME eval ..." are commands of `seekjax`;
{NAME} in a line is the path of that stage. The same line again goes on where the pipeline stopped: stages continue from their checkpoints.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Pipeline:
    """A run of many stages."""

    out: Path  # folder of all stages
    until: str = ""  # the last stage to run; empty = all


def run_pipeline(name: str, lines: Sequence[str], argv: Sequence[str], train: Callable[[list[str]], bool], command: Callable[[list[str]], None]) -> bool:
    """Run the lines one after the other; False once a stage was stopped before its end. `train` says whether its run is finished."""
    asked = tyro.cli(Pipeline, prog=f"train.py {name}", default=Pipeline(Path("runs") / name), args=argv, description=described(lines))
    stages = [line.split(maxsplit=1)[0] for line in lines]
    if asked.until and asked.until not in stages:
        raise ValueError(f"there is no stage {asked.until!r}: the stages are {', '.join(stages)}.")
    paths = {stage: str(asked.out / stage) for stage in stages}
    for number, (stage, line) in enumerate(zip(stages, lines), 1):
        words = shlex.split(line.format(**paths))[1:]
        if words[0] in ("sample", "eval"):
            print(f"\n== {number}/{len(lines)} {stage}: {shlex.join(['seekjax', *words])}", flush=True)
            command(words)
        else:
            words += ["--out", paths[stage]]
            print(f"\n== {number}/{len(lines)} {stage}: {shlex.join(['python', 'train.py', *words])}", flush=True)
            if not train(words):
                print(f"stopped in stage {stage}; the same line continues there.")
                return False
        if stage == asked.until:
            break
    return True


def described(lines: Sequence[str]) -> str:
    """The lines, for --help."""
    return "Runs these lines, each resumable:\n\n" + "\n\n".join(lines)
