"""Train a DeepSeek model: `python train.py [CONFIG] [--field value ...]`; `--help` explains every
field.

python train.py                                        the default run, configs/tiny.py, on whatever
is here python train.py small --train.steps 2000 --out runs/a python train.py r1
a pipeline of several runs JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=8 python train.py tiny --mesh.data
2 --mesh.fsdp 2 --mesh.expert 2
"""

import shlex
import sys

from seekjax.commands.cli import load_config, named, parse, run, tool
from seekjax.commands.workflow import follow
from seekjax.workflow import Pipeline


def main() -> int:
    argv = sys.argv[1:]
    chosen = load_config(name := named(argv))
    if isinstance(chosen, Pipeline):
        return follow(
            name,
            chosen,
            argv[1:],
            {"train.py": train, "seekjax": tool},
            lambda words: parse(words, "train.py"),
        )
    train(argv)
    return 0


def train(argv: list[str]) -> bool:
    """One run; whether all its steps are done."""
    config = parse(argv, "train.py")
    from seekjax.commands.common import keep_compiled
    from seekjax.post.kinds import training_of
    from seekjax.train.loop import fit

    keep_compiled()
    fitted = fit(config, training_of(config))
    if fitted.finished:
        print("\n".join(fitted.parts.report.finish(fitted.state, fitted.folder)))
        print("  or train on with", longer(argv, config.train.steps))
    return fitted.finished


def longer(argv: list[str], steps: int) -> str:
    """The command that continues this run to twice its length."""
    kept = [
        word
        for before, word in zip(["", *argv], argv)
        if "--train.steps" not in (before, word) and not word.startswith("--train.steps=")
    ]
    return shlex.join(["python", "train.py", *kept, "--train.steps", str(2 * steps)])


if __name__ == "__main__":
    sys.exit(run(main))
