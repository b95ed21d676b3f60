"""`seekjax runs`: what it reads from run folders, whole and broken."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from seekjax.commands.arguments import parse
from seekjax.commands.cli import main
from seekjax.config import Config, SftConfig
from seekjax.lock import is_held, only_owner
from tests.commands.made_runs import config_of, write_run


def rows(text: str) -> dict[str, list[str]]:
    """The cells of each line, by its first."""
    cells = [line.split() for line in text.splitlines()]
    return {row[0]: row[1:] for row in cells}


def test_each_run_is_a_row(tmp_path, capsys):
    write_run(tmp_path / "a", config_of("tiny"), [5.0, 4.0], loss=4.1, bits_per_byte=2.25)
    write_run(tmp_path / "r1" / "b", config_of(steps=100, sft=SftConfig()), [3.0])
    for number, name in enumerate(["a", "r1/b"]):
        os.utime(tmp_path / name / "metrics.jsonl", (1e9 + number, 1e9 + number))

    assert main(["runs", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    assert rows(table)["a"][:7] == ["tiny", "done", "20", "of", "20", "4.000", "2.250"]
    assert rows(table)["r1/b"][:6] == ["sft", "stopped", "10", "of", "100", "3.000"]
    assert [line.split()[0] for line in table.splitlines()] == ["run", "a", "r1/b"]
    assert "accuracy" not in table


def test_a_lock_that_is_held_says_running(tmp_path, capsys):
    folder = write_run(tmp_path / "a", config_of(steps=100), [3.0])
    with only_owner(folder):
        assert is_held(folder)
        assert main(["runs", str(tmp_path)]) == 0
    assert rows(capsys.readouterr().out)["a"][1] == "running"
    assert not is_held(folder)


def test_a_killed_owner_holds_nothing(tmp_path):
    owner = {"process": 999999999, "machine": os.uname().nodename, "started": "then"}
    (tmp_path / ".owner").write_text(json.dumps(owner))
    assert not is_held(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", "{", "is damaged"),
        ("config.json", "[]", "cannot be read as a config"),
        ("config.json", '{"train": {}}', "has no train.steps"),
        ("config.json", None, "cannot be read: No such file"),
    ],
)
def test_a_broken_folder_is_named_and_the_others_are_listed(name, content, said, tmp_path, capsys):
    write_run(tmp_path / "whole", config_of(), [3.0])
    broken = write_run(tmp_path / "broken", config_of(), [3.0]) / name
    broken.unlink() if content is None else broken.write_text(content)

    assert main(["runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "whole" in rows(out)
    assert f"broken: {broken} " in out
    assert said in out


def test_broken_lines_of_figures_do_not_count(tmp_path, capsys):
    folder = write_run(tmp_path / "a", config_of(), [3.0, 2.0])
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 30, "split": "train", "lo\xff')
    assert main(["runs", str(tmp_path), "--json"]) == 0
    [run] = json.loads(capsys.readouterr().out)
    assert (run["steps"], run["loss"], run["state"]) == (20, 2.0, "done")


def test_an_imported_model_has_weights_and_no_steps(tmp_path, capsys):
    folder = write_run(tmp_path / "a", config_of(), [])
    (folder / "metrics.jsonl").unlink()
    (folder / "checkpoints" / "0").mkdir(parents=True)
    assert main(["runs", str(folder)]) == 0
    assert rows(capsys.readouterr().out)["a"][:2] == ["pretrain", "weights"]


def test_a_folder_without_runs(tmp_path, capsys):
    assert main(["runs", str(tmp_path)]) == 2
    assert "there are no runs below" in capsys.readouterr().err
    assert main(["runs", str(tmp_path / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_the_list_does_not_import_jax(tmp_path):
    write_run(tmp_path / "a", config_of(), [3.0])
    code = (
        "import sys; from seekjax.commands.cli import main; "
        f"main(['runs', {str(tmp_path)!r}]); sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_has_the_name_of_its_config(tmp_path):
    assert parse(["tiny", "--out", str(tmp_path)], "train.py").name == "tiny"
    assert parse(["tiny", "--name", "mine"], "train.py").name == "mine"
    assert replace(Config(), name="a").kind == ""
