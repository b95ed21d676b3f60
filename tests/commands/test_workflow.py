"""A pipeline: each stage once, on where it was stopped, and every mistake met before the first
stage."""

import json
import shlex
from pathlib import Path

import pytest

from seekjax.commands.cli import config_names, load_config, parse
from seekjax.commands.workflow import command_of, follow, parted
from seekjax.errors import RunError, UsageError
from seekjax.workflow import Pipeline

THREE = Pipeline(
    "three",
    {
        "first": "train.py tiny --out {out}/first --train.seed {seed}",
        "second": "seekjax sample {out}/first --out {out}/second.jsonl",
        "third": "train.py tiny --init {out}/first --out {out}/third",
    },
)


class Commands(dict):
    """Notes what it is asked for, and makes what --out names."""

    def __init__(self, stop=None):
        super().__init__({"train.py": self.call, "seekjax": self.call})
        self.asked, self.stop = [], stop

    def call(self, words):
        self.asked.append(words)
        made = Path(words[words.index("--out") + 1])
        made.mkdir(parents=True, exist_ok=True)
        if isinstance(self.stop, BaseException) and made.stem == "second":
            raise self.stop
        return made.stem != self.stop


def go(tmp_path, *argv, stop=None, stages=THREE.stages):
    commands = Commands(stop)
    status = follow(
        "three",
        Pipeline("three", stages),
        ["--out", str(tmp_path), *argv],
        commands,
        lambda words: parse(words, "train.py"),
    )
    return (
        status,
        [Path(words[words.index("--out") + 1]).stem for words in commands.asked],
        commands.asked,
    )


def test_stages_follow_each_other_once(tmp_path, capsys):
    status, ran, asked = go(tmp_path, "--seed", "3")
    assert status == 0
    assert ran == ["first", "second", "third"]
    assert asked[0] == ["tiny", "--out", f"{tmp_path}/first", "--train.seed", "3"]
    said = capsys.readouterr().out
    assert (
        f"== second (2 of 3)\n   seekjax sample {tmp_path}/first --out {tmp_path}/second.jsonl\n"
        in said
    )
    assert "all 3 stages of three are finished" in said
    assert go(tmp_path, "--seed", "3")[1] == []
    assert "== first (1 of 3): finished before" in capsys.readouterr().out


def test_what_was_stopped_or_deleted_is_made_again(tmp_path, capsys):
    status, ran, _ = go(tmp_path, stop="second")
    assert status == 1
    assert ran == ["first", "second"]
    assert "the same command continues" in capsys.readouterr().out
    assert go(tmp_path)[1] == ["second", "third"]
    (tmp_path / "third").rmdir()
    assert go(tmp_path, stop="third")[0] == 1
    assert (tmp_path / "third").is_dir()
    assert go(tmp_path)[1] == ["third"]
    assert go(tmp_path)[1] == []


def test_what_was_made_from_something_to_be_made_anew_is_not_taken_for_finished(tmp_path):
    go(tmp_path)
    (tmp_path / "first").rmdir()
    with pytest.raises(
        RunError,
        match="stage second of .* was made from .*first, which is to be made anew: delete "
        ".*second.jsonl too",
    ):
        go(tmp_path)
    for name in ("second.jsonl", "third"):
        (tmp_path / name).rmdir()
    assert go(tmp_path)[1] == ["first", "second", "third"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RunError("nothing can be learnt")])
def test_a_tool_that_is_interrupted_or_fails_leaves_what_is_finished(tmp_path, capsys, error):
    if isinstance(error, KeyboardInterrupt):
        assert go(tmp_path, stop=error)[0] == 1
        assert "stopped in second; the same command continues" in capsys.readouterr().out
    else:
        with pytest.raises(RunError, match="nothing can be learnt"):
            go(tmp_path, stop=error)
    assert go(tmp_path)[1] == ["second", "third"]


def test_the_seconds_of_all_starts_count(tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("seekjax.commands.workflow.time.perf_counter", lambda: next(clock))
    go(tmp_path, stop="second")
    go(tmp_path)
    assert {
        name: one["seconds"]
        for name, one in json.loads((tmp_path / "pipeline.json").read_text()).items()
    } == {"first": 10, "second": 20, "third": 10}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("rm -rf --out x", "stage odd must begin with train.py or seekjax"),
        ("", "stage odd must begin"),
        ("train.py tiny", "name what it makes with --out or --report"),
        ("train.py tiny --out {home}", "stage odd cannot be read .KeyError: 'home'"),
        ("train.py 'tiny", "stage odd cannot be read .ValueError: No closing quotation"),
    ],
)
def test_a_line_that_is_none_is_refused_before_anything_runs(tmp_path, line, said):
    with pytest.raises(RunError, match=said):
        go(tmp_path, stages=THREE.stages | {"odd": line})
    assert not list(tmp_path.iterdir())


def test_another_line_for_what_is_finished_is_refused(tmp_path):
    go(tmp_path)
    before = (tmp_path / "pipeline.json").read_bytes()
    with pytest.raises(
        RunError,
        match="stage third of .* was made by another line .*name another --out, or delete "
        ".*third to make it anew",
    ):
        go(tmp_path, "--third.train.steps", "7")
    assert (tmp_path / "pipeline.json").read_bytes() == before
    (tmp_path / "pipeline.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        go(tmp_path)


def test_words_go_to_their_stage():
    rest, more = parted(
        [
            "--seed",
            "1",
            "--third.train.steps",
            "7",
            "--first.post.tasks",
            "a",
            "b",
            "--out",
            "x",
            "--fourth.a",
            "1",
        ],
        THREE.stages,
    )
    assert more == {"third": ["--train.steps", "7"], "first": ["--post.tasks", "a", "b"]}
    assert rest == ["--seed", "1", "--out", "x", "--fourth.a", "1"]


def test_a_mistake_in_the_last_stage_is_met_before_the_first(tmp_path, capsys):
    with pytest.raises(SystemExit):
        go(tmp_path, "--third.train.stesp", "7")
    assert "train.steps" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_plan_is_shown_and_nothing_done(tmp_path, capsys):
    assert go(tmp_path, "--plan", "True")[:2] == (0, [])
    assert (
        f"third  python train.py tiny --init {tmp_path}/first --out {tmp_path}/third\n"
        in capsys.readouterr().out
    )


def test_a_pipeline_is_no_run():
    with pytest.raises(UsageError, match="r1 is several runs: start them with python train.py r1"):
        parse(["r1"], "seekjax show")


@pytest.mark.parametrize(
    "name", [name for name in config_names() if isinstance(load_config(name), Pipeline)]
)
def test_every_line_of_ours_can_be_read(name, tmp_path):
    """Training lines by the parser of train.py; the tools' lines begin with a tool. Each makes what
    a later one starts from."""
    made = set()
    for stage, line in load_config(name).stages.items():
        words = shlex.split(line.format(out=tmp_path, seed=5))
        assert words[0] in ("train.py", "seekjax")
        assert shlex.join(words) in command_of(words)
        assert words[:2] != ["seekjax", "eval"] or Path(words[2]) in made
        if words[0] == "train.py":
            config = parse(words[1:], "train.py")
            assert config.train.seed == 5
            assert config.out == tmp_path / stage
            assert config.init is None or config.init in made
            made.add(config.out)
