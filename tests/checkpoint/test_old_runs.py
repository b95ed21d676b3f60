"""Run folders that version 0.1 wrote: they open, continue and generate the same tokens.

tests/data_old has two of them without pictures and logs, and the text that each model continued
greedily with the code of its time.
"""

import json
import re
import shutil
from pathlib import Path

import pytest

from seekjax.checkpoint.config_json import read_config
from seekjax.checkpoint.old_config import in_current_form
from seekjax.commands.arguments import parse
from seekjax.config import (
    CONSTANT,
    Config,
    GrpoConfig,
    LoraConfig,
    Piece,
    SamplingConfig,
    SftConfig,
)
from seekjax.config.recipes import RECIPES, objective_of
from seekjax.config.run import V3_MTP
from seekjax.errors import RunError
from seekjax.post.kinds import training_of
from seekjax.train.loop import fit

# Other programs of the same numbers, which compile sooner.
PLAIN = ("--kernel.attention", "plain", "--kernel.experts", "loop", "--kernel.remat", "none")
OLD = Path(__file__).parents[1] / "data_old"


@pytest.fixture
def folders(tmp_path):
    """A copy of the old run folders, which a test may continue."""
    shutil.copytree(OLD, tmp_path / "runs")
    return tmp_path / "runs"


def test_the_config_of_pretraining_is_understood():
    config = read_config(OLD / "pretrain" / "config.json", trust=False)
    assert config.kind == ""
    assert config.optimizer.schedule == (Piece(0.3, 1.0), Piece(1.0, 0.1, "cosine"))
    assert config.train.balance_schedule == CONSTANT
    assert config.train.mtp_schedule == V3_MTP
    assert config.model.embed == 16
    assert config.data.sources == ("arithmetic",)


def test_the_config_of_reinforcement_is_understood():
    config = read_config(OLD / "grpo" / "config.json", trust=False)
    assert config.grpo == GrpoConfig(
        tasks=("addition:1",), prompts=4, group=4, max_new=8, preflight=False, eval_problems=16
    )
    assert config.sft is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pretrain", "grpo"])
def test_the_same_tokens_are_generated(name, command):
    words = ["generate", OLD / name, "--prompt", "12+34=", "--max-new", 24, "--temperature", 0]
    status, text, _ = command(*words)
    assert status == 0
    expected = (OLD / f"{name}.txt").read_text().split("\n")[0]
    # version 0.1 printed control characters as they are
    shown = re.sub(r"[\x00-\x1f]", lambda match: f"\\x{ord(match[0]):02x}", expected)
    assert text.split("\n")[0] == shown


def continued(folder, steps, *options):
    """The records of a run that is continued to `steps`."""
    words = [str(folder), "--train.steps", str(steps), "--train.log-every", "1", *options]
    config = parse([*words, "--mesh.data", "1"], "train.py")
    assert fit(config, training_of(config)).finished
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.long
@pytest.mark.slow
def test_pretraining_continues(folders):
    records = continued(folders / "pretrain", 10)
    # what version 0.1 reports when it continues the same folder
    losses = {record["step"]: record["loss"] for record in records if record["split"] == "train"}
    assert losses == pytest.approx({9: 5.7140298, 10: 5.6953044}, rel=1e-5)


@pytest.mark.long
@pytest.mark.slow
def test_reinforcement_continues(folders):
    records = continued(folders / "grpo", 6, "--init", str(folders / "pretrain"), *PLAIN)
    # what version 0.1 reports when it continues the same folder
    train = {record["step"]: record for record in records if record["split"] == "train"}
    entropy = {step: record["entropy"] for step, record in train.items()}
    assert entropy == pytest.approx({5: 5.7403245, 6: 5.7402892}, rel=1e-5)
    assert {step: record["length"] for step, record in train.items()} == {5: 7.6875, 6: 7.75}
    rollouts = (folders / "grpo" / "rollouts.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in rollouts] == [5, 6]


# Each translation of seekjax/checkpoint/old_config.py: what stood there, and what it is now.
TRANSLATIONS = [
    (
        {"optimizer": {"schedule": {"until": [1.0], "scale": [0.1], "shape": ["linear"]}}},
        lambda config: config.optimizer.schedule == (Piece(1.0, 0.1, "linear"),),
    ),
    ({"post": None}, lambda config: config == Config()),
    ({"post": None, "lora": {"rank": 3}}, lambda config: config == Config(lora=LoraConfig(3))),
    (
        {"post": {"chats": ["a.jsonl"], "attempts": 0.5}},
        lambda config: config.sft == SftConfig(chats=("a.jsonl",), attempts=0.5),
    ),
    ({"post": {"pairs": ["a.jsonl"], "beta": 2.0}}, lambda config: config.dpo.beta == 2.0),
    (
        {"post": {"teacher": "runs/a", "chats": [], "group": 3, "max_new": 5, "eval_problems": 7}},
        lambda config: (
            config.distill.teacher == Path("runs/a")
            and config.distill.sampling == SamplingConfig(group=3, max_new=5, eval_problems=7)
        ),
    ),
    (
        {"post": {"prompts": 3, "recipe": "dapo", "kl": None, "resample": None}},
        lambda config: config.grpo == GrpoConfig(prompts=3, recipe="dapo"),
    ),
    (
        {"post": {"prompts": 3, "recipe": "dapo", "kl": 0.5, "resample": None}},
        lambda config: (
            objective_of(config.grpo).kl == 0.5
            and objective_of(config.grpo).overlong == RECIPES["dapo"].overlong
        ),
    ),
]


@pytest.mark.parametrize(("old", "holds"), TRANSLATIONS)
def test_what_changed_its_form_is_translated(old, holds, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(old))
    assert holds(read_config(path, trust=False))
    current = in_current_form(old)
    assert in_current_form(current) == current


def test_what_no_version_wrote_is_refused(tmp_path):
    path = tmp_path / "config.json"
    for text, message in (
        ('{"post": {"flavour": 3}}', "belongs to no kind of post-training"),
        ('{"train": {"flavour": 3}}', "sets train.flavour, which this version of seekjax does not"),
        ('{"trust": true}', "sets trust, which this version"),
        ('{"post": 3}', "cannot be read as a config"),
        ("[]", "cannot be read as a config"),
        ("{", "cannot be read as a config"),
    ):
        path.write_text(text)
        with pytest.raises(RunError, match=message):
            read_config(path, trust=False)
