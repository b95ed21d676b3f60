"""The command line as a user meets it: help, overrides, and one clear sentence for every kind of
bad input, before anything compiles."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import pytest

import seekjax
from seekjax.commands.arguments import config_names, load_config, parse
from seekjax.commands.cli import COMMANDS, main
from seekjax.commands.common import keep_compiled
from seekjax.commands.status import exit_status
from seekjax.commands.train import longer
from seekjax.config import Config, Piece
from seekjax.config.recipes import RECIPES
from seekjax.errors import ConfigError, UsageError
from seekjax.registry import load_object
from seekjax.train import loop, pretrain

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def nothing_expensive(monkeypatch):
    """A test that gets as far as tracing the model has failed to complain in time."""

    def compile_steps(*_):
        raise AssertionError("bad input reached the compiler")

    monkeypatch.setattr(pretrain, "make_spec", compile_steps)


def train(*argv: str, out) -> int:
    return exit_status(lambda: loop.fit(parse([*argv, "--out", str(out)], "train.py")) and 0)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["tinny"], r"no config 'tinny': did you mean 'tiny'\?"),
        (["mine.py"], "no config file mine.py"),
        (["x" * 5000], "no config 'xxx"),
        (["~no-such-user/run"], "no config '~no-such-user/run'"),
        (["--mesh.expert", "3"], "expert .* = 3 devices, which does not divide the 8"),
        (
            ["--mesh.data", "16"],
            "asks for 16 devices .data 16. but there are 8: .*JAX_NUM_CPU_DEVICES=16",
        ),
        (["--mesh.data", "-2"], "mesh.data is -2"),
        (
            ["--mesh.data", "1", "--mesh.tensor", "8"],
            "model.heads is 4, which mesh.tensor 8 cannot split evenly: make it a multiple of 8",
        ),
        (["--train.batch", "12"], "train.batch .* is 12, which mesh.data 8 cannot split"),
        (["--train.micro-batch", "24"], "train.batch 8 is not a multiple of train.micro_batch 24"),
        (
            ["--train.batch-start", "4"],
            "train.batch_start 4 must be a multiple of train.micro_batch 8",
        ),
        (["--train.steps", "0"], "train.steps is 0"),
        (["--model.experts", "15"], "model.experts 15 cannot be split into model.expert_groups 4"),
        (
            ["--model.experts-per-token", "9"],
            "model.experts_per_token 9 exceeds the 8 experts of a token's 2 groups",
        ),
        (["--model.rotary", "15"], "model.rotary is 15: rotary widths come in pairs"),
        (["--model.attention", "mha"], "set model.nope to 0"),
        (["--data.sequence", "8192"], "data.sequence 8192 exceeds model.context 4096"),
        (["--optimizer.schedule.until", "0.5"], "until is now part of --optimizer.schedule, which"),
        (["--optimizer.schedule", "0.5:1", "0.9:1"], "the last at 1"),
        (["--optimizer.schedule", "1:1", "0.9:1"], "must end at rising shares"),
        (["--post.tasks", "countdown"], "--post.tasks needs a config of post-training: tiny is"),
        (["--grpo.kl", "0"], "--grpo.kl is an option of grpo runs, but tiny is pre-training"),
        (["--data.sources", "nowhere.txt"], "nowhere.txt"),
        (["--data.sources", "stdlibb"], "stdlib"),
        (
            ["--data.sources", "stories", "--data.tokenizer", "byte", "--model.vocab", "100"],
            "model.vocab",
        ),
    ],
)
def test_bad_input_is_one_sentence(argv, said, tmp_path, capsys):
    assert train(*argv, out=tmp_path / "run") == 2
    message = capsys.readouterr().err.strip()
    assert re.search(said, message), message
    assert message.startswith("error: "), message
    assert "\n" not in message, message
    assert not list(tmp_path.glob("run/checkpoints/*"))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--train.stesp", "5"], "train.steps"),
        (["--train.steps", "many"], "is not a whole number"),
        (["--kernel.remat", "magic"], "invalid choice"),
        (["--optimizer.schedule", "1:1:round"], "'1:1:round' is not a piece of a schedule"),
    ],
)
def test_a_wrong_override_names_the_nearest_field(argv, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        train(*argv, out=tmp_path)
    assert exit.value.code == 2
    assert said in capsys.readouterr().err


def test_a_run_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert (
        train(
            "--data.sources", "stories", "--data.tokenizer", "byte", out=tmp_path / "file" / "run"
        )
        == 2
    )
    assert "--out" in capsys.readouterr().err


def options_in(text):
    return set(re.findall(r"--[a-z][a-z0-9.-]+", text))


@pytest.mark.parametrize("name", ["tiny", "sft", "dpo", "distill", "grpo"])
def test_help_is_short(name, capsys):
    with pytest.raises(SystemExit):
        parse([name, "--help"], "train.py")
    text = capsys.readouterr().out
    assert "Every field: --help-all" in text
    assert {"--train.steps", "--optimizer.learning-rate", "--out"} <= options_in(text)
    assert not {"--optimizer.beta1", "--grpo.kl-form"} & options_in(text)
    assert len(options_in(text)) < 40
    assert name == "tiny" or f"--{name}." in text


def test_help_all_explains_every_field(capsys):
    with pytest.raises(SystemExit):
        parse(["grpo", "--help-all"], "train.py")
    text = capsys.readouterr().out
    assert {"--optimizer.beta1", "--grpo.kl-form", "--model.rope.beta-fast"} <= options_in(text)
    assert "estimator of that divergence" in text
    with pytest.raises(SystemExit):
        parse(["--help-all"], "train.py")
    text = capsys.readouterr().out
    for words in (
        "--train.steps",
        "optimizer steps in the whole run",
        "--model.kv-latent",
        "--mesh.expert",
        "--out",
    ):
        assert words in text
    assert "[q_lora_rank]" in text
    assert "V3" in text


@pytest.mark.parametrize("name", config_names())
def test_every_config_loads_and_says_what_to_expect(name):
    import importlib

    assert load_config(name)
    assert importlib.import_module(f"configs.{name}").__doc__.count("\n") >= 3


def test_a_config_by_path_and_overrides(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from seekjax.config import Config\nconfig = Config()\n")
    config = parse(
        [
            str(path),
            "--train.steps",
            "7",
            "--mesh.expert",
            "2",
            "--optimizer.schedule",
            "0.3:1",
            "1:0.5:linear",
        ],
        "train.py",
    )
    assert (
        config.train.steps,
        config.mesh.expert,
        config.optimizer.schedule,
        config.out,
    ) == (7, 2, (Piece(0.3, 1.0), Piece(1.0, 0.5, "linear")), Path("runs/mine"))


def test_show_says_what_quantising_saves(monkeypatch, capsys):
    """v3 as published on one device of 8: FP8 weights, float32 scales, and embedding, head, router
    and norms as they are."""
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "seekjax",
            "show",
            "v3",
            "--kernel.weights",
            "fp8",
            "--mesh.expert",
            "8",
            "--mesh.fsdp",
            "1",
            "--mesh.tensor",
            "1",
        ],
    )
    assert main() == 0
    text = capsys.readouterr().out
    kept = {
        line.split()[0]: line.split()[1:]
        for line in text.partition("weights kept in")[2].splitlines()[1:]
    }
    assert list(kept) == ["float32", "bfloat16", "int8", "int4", "fp8"]
    assert kept["float32"][:2] == ["2.48", "TiB"]
    assert kept["bfloat16"] == [
        "1.24",
        "TiB",
        "1.24",
        "TiB,",
        "50%",
    ]
    assert "moments" not in text
    assert re.search(r"w_gate/values +58 x 256 x 7168 x 2048 +float8_e4m3fn", text)
    assert re.search(
        r"parameters +\d+ +\d+ +" + " ".join(kept["fp8"][:2]), text
    )  # what the table adds up to


def test_show_of_a_run_is_of_its_own_config(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["seekjax", "show", str(tmp_path)])
    assert main() == 2
    assert "there is no config" in capsys.readouterr().err
    (tmp_path / "checkpoints").mkdir()
    assert main() == 2
    assert "cannot be read as a config" in capsys.readouterr().err


def test_the_console_script_lists_its_commands(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["seekjax"])
    assert main() == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in COMMANDS)
    monkeypatch.setattr(sys, "argv", ["seekjax", "shwo"])
    assert main() == 2
    assert "there is no command 'shwo': did you mean 'show'?" in capsys.readouterr().err
    assert main(["--version"]) == 0
    assert re.fullmatch(r"seekjax \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_exists_and_explains_its_options(name, capsys):
    assert callable(load_object(COMMANDS[name].function, "command"))
    with pytest.raises(SystemExit) as exit:
        main([name, "--help"])
    assert exit.value.code == 0
    assert "options" in capsys.readouterr().out


def test_the_commands_are_listed_and_the_package_imported_without_jax():
    code = (
        "import sys, seekjax; from seekjax.commands.cli import main; status = main([]); "
        "assert not {'jax', 'tyro'} & set(sys.modules); sys.exit(status)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0
    )


def test_the_next_command_is_the_same_line_but_longer():
    assert (
        longer(["tiny", "--train.steps", "5", "--out", "a b"], 5)
        == "python train.py tiny --out 'a b' --train.steps 10"
    )
    assert longer(["--train.steps=5"], 5) == "python train.py --train.steps 10"


@pytest.mark.slow
def test_train_py_is_short_and_fails_fast():
    assert len((ROOT / "train.py").read_text().splitlines()) <= 30
    done = subprocess.run(
        [sys.executable, "train.py", "tiny", "--mesh.expert", "1000"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: the mesh asks for")
    assert "Traceback" not in done.stderr


def test_what_is_compiled_is_kept_beside_tokenizers_unless_said_otherwise(monkeypatch, tmp_path):
    before = (
        jax.config.jax_compilation_cache_dir,
        jax.config.jax_persistent_cache_min_compile_time_secs,
    )
    monkeypatch.setenv("SEEKJAX_CACHE", str(tmp_path))
    try:
        keep_compiled()
        assert (
            jax.config.jax_compilation_cache_dir == before[0]
        )  # JAX_COMPILATION_CACHE_DIR is set here
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
        keep_compiled()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "compiled")
    finally:
        jax.config.update("jax_compilation_cache_dir", before[0])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before[1])


def grpo(*argv):
    config = parse(["grpo", *argv], "train.py")
    return config.grpo


def test_a_recipe_is_changed_field_by_field():
    dapo = RECIPES["dapo"]
    assert grpo("--grpo.recipe", "dapo").objective is None
    changed = grpo("--grpo.clip-high", "0.3", "--grpo.no-resample", "--grpo.recipe", "dapo")
    assert changed.recipe == "dapo"
    assert changed.objective == replace(dapo, clip_high=0.3, resample=False)
    assert grpo("--grpo.recipe=dapo", "--grpo.clip_high=0.3").objective.clip_high == 0.3
    assert grpo("--grpo.kl", "0").objective == replace(RECIPES["v3_2"], kl=0.0)


def test_a_recipe_from_outside(tmp_path, monkeypatch):
    (tmp_path / "papers.py").write_text(
        "from seekjax.config import Objective\nMINE = Objective(kl=0.5)\nNOT = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    changed = grpo("--grpo.recipe", "papers:MINE", "--grpo.clip-low", "0.1").objective
    assert changed.kl == 0.5
    assert changed.clip_low == 0.1
    with pytest.raises(ConfigError, match="papers:NOT is of type int: it must be an Objective"):
        grpo("--grpo.recipe", "papers:NOT")
    with pytest.raises(ConfigError, match="there is no recipe 'dapoo': did you mean 'dapo'"):
        grpo("--grpo.recipe", "dapoo")


def test_booleans_are_flags():
    assert not parse(["--no-model.renormalise"], "train.py").model.renormalise
    assert not parse(["--model.no-renormalise"], "train.py").model.renormalise
    assert parse(["--lora.experts"], "train.py").lora.experts
    assert not grpo("--no-grpo.preflight").preflight


OLD_AND_NEW = [
    ("sft --post.chats a.jsonl b.jsonl", "sft --sft.chats a.jsonl b.jsonl"),
    ("grpo --post.recipe dapo --post.kl 0", "grpo --grpo.recipe dapo --grpo.kl 0"),
    ("grpo --post.preflight False", "grpo --grpo.no-preflight"),
    ("grpo --post.keep-mask=False", "grpo --grpo.no-keep-mask"),
    ("dpo --post.beta=0.2", "dpo --dpo.beta=0.2"),
    (
        "distill --post.group 3 --post.on-policy True",
        "distill --distill.sampling.group 3 --distill.on-policy",
    ),
    ("distill --post.top_k 3", "distill --distill.top-k 3"),
    ("tiny --lora.experts True --tensorboard False", "tiny --lora.experts --no-tensorboard"),
]


@pytest.mark.parametrize(("old", "new"), OLD_AND_NEW)
def test_old_command_lines_work_with_a_notice(old, new, capsys):
    expected = parse(new.split(), "train.py")
    assert capsys.readouterr().err == ""
    assert parse(old.split(), "train.py") == expected
    notices = capsys.readouterr().err.splitlines()
    assert notices
    assert all(re.fullmatch("note: --.* is now --.*", line) for line in notices)


def test_a_file_with_a_pipeline_names_the_workflow(tmp_path):
    path = tmp_path / "mine.py"
    for text in ("from seekjax.pipeline import Pipeline\n", "pipeline = 3\n"):
        path.write_text(text)
        with pytest.raises(UsageError, match=r"several runs are now `workflow = Workflow"):
            load_config(str(path))
    for text, reason in (
        ("x = 1\n1 / 0\n", r"cannot be run \(line 2\): ZeroDivisionError"),
        ("x = (\n", r"cannot be run \(line 1\): SyntaxError"),
        ("import no_such_module\n", r"cannot be run \(line 1\): ModuleNotFoundError"),
        ("from seekjax.config import Config\nConfig(modle=1)\n", r"\(line 2\): TypeError"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=reason):
            load_config(str(path))
    path.write_text("config = 3\n")
    with pytest.raises(UsageError, match=r"does not define `config = Config"):
        load_config(str(path))


def test_the_public_names_are_imported_when_they_are_used():
    for name in seekjax.__all__:
        assert getattr(seekjax, name) is not None
    assert seekjax.Config() == Config()
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        seekjax.nothing  # noqa: B018
