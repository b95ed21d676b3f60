"""Several values for a field make a grid of runs, which goes on where it was stopped."""

from pathlib import Path

import pytest

from seekjax.commands import train as train_command
from seekjax.commands.arguments import load_config, parse
from seekjax.commands.cli import main
from seekjax.commands.grid import cells, find_axes
from seekjax.config import Config
from seekjax.errors import RunError, Status
from tests.commands.made_runs import write_run

RATES = ["--optimizer.learning-rate", "1e-3", "0.003"]
SEEDS = ["--train.seed", "0", "1"]


def config(name: str = "tiny") -> Config:
    loaded = load_config(name)
    assert isinstance(loaded, Config)
    return loaded


@pytest.fixture
def trained(monkeypatch) -> list[Path]:
    """The folders in which a training was begun; a run writes its loss at once.

    A folder of `failing` fails, and one of `stopped` is stopped by a signal.
    """
    folders: list[Path] = []

    def train_run(argv: list[str]) -> bool:
        run = parse(argv, "train.py")
        assert run.out is not None
        folders.append(run.out)
        if (run.out.parent / "fail").exists() and run.train.seed == 1:
            raise RunError("the loss is not finite.")
        if (run.out.parent / "stop").exists() and run.train.seed == 1:
            return False
        write_run(run.out, run, [4.0 + run.train.seed], every=run.train.steps)
        return True

    monkeypatch.setattr(train_command, "train_run", train_run)
    return folders


def test_several_values_for_one_make_an_axis():
    options = [*SEEDS, "--data.sources", "stdlib", "stories", *RATES, "--train.steps", "5"]
    assert find_axes(config(), options) == {
        "--train.seed": ["0", "1"],
        "--optimizer.learning-rate": ["1e-3", "0.003"],
    }


@pytest.mark.parametrize(
    "options",
    [
        ["--data.sources", "stdlib", "stories"],
        ["--optimizer.schedule", "0.3:1", "1:0.1:cosine"],
        ["--train.seed", "0", "1", "--train.seed", "2"],
        ["--out", "a", "b"],
        ["--help", "--train.seed", "0", "1"],
    ],
)
def test_lists_and_single_values_keep_their_meaning(options):
    assert find_axes(config(), options) == {}


def test_a_field_of_the_objective_and_a_switch_are_axes_too():
    options = ["--grpo.kl", "0", "1e-3", "--grpo.preflight", "true", "false"]
    axes = find_axes(config("grpo"), options)
    assert dict(cells(axes)) == {
        "kl=0,preflight=true": ["--grpo.kl", "0", "--grpo.preflight"],
        "kl=0,preflight=false": ["--grpo.kl", "0", "--grpo.no-preflight"],
        "kl=0.001,preflight=true": ["--grpo.kl", "1e-3", "--grpo.preflight"],
        "kl=0.001,preflight=false": ["--grpo.kl", "1e-3", "--grpo.no-preflight"],
    }


def test_names_are_those_of_folders():
    names = [
        name for name, _ in cells({"--init": ["runs/a b", "/x"], "--train.batch": ["8", "1e1"]})
    ]
    assert names[0] == "init=runs-a-b,batch=8"
    assert names[3] == "init=x,batch=10"


def test_a_grid_is_run_and_compared(trained, tmp_path, capsys):
    out = ["--out", str(tmp_path / "grid")]
    assert main(["train", "tiny", *SEEDS, *RATES, "--train.steps", "5", *out]) == 0

    names = [folder.name for folder in trained]
    assert names == [
        f"seed={seed},learning-rate={rate}" for seed in "01" for rate in (0.001, 0.003)
    ]
    printed = capsys.readouterr().out
    assert "== 4 of 4 runs are finished" in printed
    assert "seed=*,learning-rate=0.003" in printed
    assert "4.500 ± 0.707" in printed
    assert (tmp_path / "grid" / "compare.png").exists()


def test_the_same_line_goes_on(trained, tmp_path, capsys):
    grid = tmp_path / "grid"
    line = ["train", "tiny", *SEEDS, "--out", str(grid)]
    grid.mkdir()
    (grid / "stop").touch()
    assert main(line) == Status.STOPPED
    assert "stopped in seed=1; the same command continues" in capsys.readouterr().out

    (grid / "stop").unlink()
    assert main(line) == 0
    assert [folder.name for folder in trained] == ["seed=0", "seed=1", "seed=1"]


def test_a_run_that_fails_does_not_end_the_others(trained, tmp_path, capsys):
    grid = tmp_path / "grid"
    grid.mkdir()
    (grid / "fail").touch()
    assert main(["train", "tiny", "--train.seed", "0", "1", "2", "--out", str(grid)]) == 2
    assert [folder.name for folder in trained] == ["seed=0", "seed=1", "seed=2"]
    printed = capsys.readouterr()
    assert "failed: the loss is not finite." in printed.out
    assert "1 of 3 runs failed (seed=1)" in printed.err


def test_the_plan_shows_lines_and_runs_nothing(trained, tmp_path, capsys):
    out = tmp_path / "grid"
    assert main(["train", "tiny", *SEEDS, "--plan", "--out", str(out)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"seed=0  python train.py tiny --train.seed 0 --out {out}/seed=0"
    assert second.startswith("seed=1  python train.py tiny --train.seed 1")
    assert not trained
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--train.seed", "0", "0.0"], "two runs of the sweep are seed=0"),
        (["--train.seed", "0", "-1"], "train.seed is -1: it must be at least 0"),
        (["--train.seed", "0", "1", "--out", "{run}"], "is the folder of a run: name another"),
    ],
)
def test_bad_input_is_one_sentence_before_the_first_run(options, said, trained, tmp_path, capsys):
    write_run(tmp_path / "run", Config(), [3.0])
    options = [option.format(run=tmp_path / "run") for option in options]
    assert main(["train", "tiny", "--out", str(tmp_path / "grid"), *options]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error
    assert not trained


def test_the_help_explains_sweeps(capsys):
    with pytest.raises(SystemExit):
        main(["train", "tiny", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "A field that takes a list keeps its meaning: --data.sources a b is one run." in printed
