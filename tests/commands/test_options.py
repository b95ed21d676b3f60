"""Options as a user types them: numbers, paths, pairs and flags; a sentence for a wrong one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from seekjax.commands.arguments import parse
from seekjax.commands.status import exit_status
from seekjax.errors import UsageError

ROOT = Path(__file__).parents[2]


def refusal(words, capsys):
    """What a wrong option prints, folded lines joined."""
    with pytest.raises(SystemExit) as exit:
        parse(words, "train.py")
    assert exit.value.code == 2
    lines = [line.strip("│ ") for line in capsys.readouterr().err.splitlines()]
    return " ".join(lines)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--train.steps", "x"], "Error parsing --train.steps: 'x' is not a whole number"),
        (["--train.steps", "1.5"], "'1.5' is not a whole number"),
        (["--train.steps", "nan"], "'nan' is not a whole number"),
        (["--train.steps", "9" * 5000], "is not a whole number"),
        (["--train.steps=" + "é" * 5000], "is not a whole number"),
        (["--train.ema", ""], "'' is not a number"),
        (["--out="], "a path is empty: write . for this folder"),
        (["--init", "~no-such-user/x"], "begins with a user that this machine lacks"),
        (["grpo", "--grpo.rewards", "accuracy"], "it takes STR FLOAT, again and again"),
        (["grpo", "--grpo.rewards", "accuracy", "x"], "'x' is not a number"),
        (["--kernel.remat", "non"], "Expected one of ('none', 'product', 'latent', 'full')"),
    ],
)
def test_a_wrong_value_is_a_sentence(words, sentence, capsys):
    assert sentence in refusal(words, capsys)


def test_values_as_users_write_them():
    words = ["--train.steps", "1e3", "--train.ema", "0", "--model.sizes", "kv_heads", "2"]
    config = parse(words, "train.py")
    assert config.train.steps == 1000
    assert config.train.ema == 0.0
    assert config.model.sizes == (("kv_heads", 2),)
    config = parse(["grpo", "--grpo.rewards", "format", "-1"], "train.py")
    assert config.grpo.rewards == (("format", -1.0),)


def test_the_home_folder_is_in_every_path():
    words = ["distill", "--out=~/x", "--init", "~/i", "--distill.teacher=~/t"]
    config = parse([*words, "--distill.save-logits=~"], "train.py")
    home = Path.home()
    assert (config.out, config.init) == (home / "x", home / "i")
    assert (config.distill.teacher, config.distill.save_logits) == (home / "t", home)
    assert parse(["distill", "--distill.teacher", "None"], "train.py").distill.teacher is None
    with pytest.raises(UsageError, match="--out is None: a run needs a folder"):
        parse(["--out", "None"], "train.py")


@pytest.mark.parametrize(
    ("words", "on"),
    [
        (["--tensorboard"], True),
        (["--tensorboard", "True"], True),
        (["--tensorboard=true"], True),
        (["--no-tensorboard"], False),
        (["--tensorboard", "false"], False),
    ],
)
def test_a_flag_also_takes_true_and_false(words, on):
    assert parse(words, "train.py").tensorboard is on


def test_a_number_out_of_range_is_refused_before_anything_is_imported(capsys):
    assert exit_status(lambda: parse(["--train.seed", "-1"], "train.py") and 0) == 2
    assert capsys.readouterr().err == "error: train.seed is -1: it must be at least 0.\n"


def test_help_needs_no_jax_and_fits_one_column():
    code = (
        "import sys; from seekjax.commands.cli import COMMANDS, main\n"
        "for name in ['train', *(name for name in COMMANDS if COMMANDS[name].options)]:\n"
        "    try: main([name, '--help'])\n"
        "    except SystemExit as exit: assert exit.code == 0\n"
        "    assert not {'jax', 'flax', 'numpy', 'tokenizers'} & set(sys.modules), name\n"
    )
    environment = os.environ | {"COLUMNS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    for flag in (b"--train.steps", b"--prompt", b"--to-gguf", b"--per-problem"):
        assert flag in done.stdout
