"""A workflow: each step once, on from where it was stopped, and every mistake reported before the
first step."""

import json
from pathlib import Path

import pytest

from seekjax.commands.arguments import config_names, load_config, parse
from seekjax.commands.workflow import _reports, command_of, meaning, run_workflow, split_options
from seekjax.errors import ConfigError, RunError, Status, UsageError
from seekjax.workflow import Evaluate, Output, Sample, Train, Workflow

STEPS = (
    Train("tiny", name="first"),
    Sample("second", model="first", tasks=["countdown:1"], problems=2, samples=1, max_new=8),
    Train("tiny", name="third", init="first", options={"train.log_every": 5}),
)
ALL = ["first", "second", "third"]


class Commands(dict):
    """Notes what it is called with, and makes what --out names."""

    def __init__(self, stop=None):
        super().__init__({"train.py": self.call, "seekjax": self.call})
        self.calls, self.stop = [], stop

    def call(self, words):
        self.calls.append(words)
        made = Path(words[words.index("--out") + 1])
        made.mkdir(parents=True, exist_ok=True)
        if isinstance(self.stop, BaseException) and made.stem == "second":
            raise self.stop
        return made.stem != self.stop


def go(tmp_path, *argv, stop=None, steps=STEPS):
    commands = Commands(stop)
    workflow = Workflow("three", steps)
    status = run_workflow("three", workflow, ["--out", str(tmp_path), *argv], commands)
    made = [Path(words[words.index("--out") + 1]).stem for words in commands.calls]
    return status, made, commands.calls


def test_steps_follow_each_other_once(tmp_path, capsys):
    status, ran, calls = go(tmp_path, "--seed", "3")
    assert status == 0
    assert ran == ALL
    assert calls[0] == ["tiny", "--out", f"{tmp_path}/first", "--train.seed", "3"]
    text = capsys.readouterr().out
    assert (
        f"== second (2 of 3)\n   seekjax sample {tmp_path}/first --task countdown:1 --problems 2 "
        f"--samples 1 --max-new 8 --seed 3 --out {tmp_path}/second.jsonl\n"
    ) in text
    assert "all 3 steps of three are finished" in text
    assert go(tmp_path, "--seed", "3")[1] == []
    assert "== first (1 of 3): finished before" in capsys.readouterr().out


def test_what_was_stopped_or_deleted_is_made_again(tmp_path, capsys):
    status, ran, _ = go(tmp_path, stop="second")
    assert status == Status.STOPPED
    assert ran == ["first", "second"]
    assert "the same command continues" in capsys.readouterr().out
    assert go(tmp_path)[1] == ["second", "third"]
    (tmp_path / "third").rmdir()
    assert go(tmp_path, stop="third")[0] == Status.STOPPED
    assert (tmp_path / "third").is_dir()
    assert go(tmp_path)[1] == ["third"]
    assert go(tmp_path)[1] == []


def test_what_was_made_from_something_to_be_made_anew_is_not_taken_for_finished(tmp_path):
    go(tmp_path)
    (tmp_path / "first").rmdir()
    message = "step second of .* was made from .*first, which is to be made again: delete "
    with pytest.raises(RunError, match=message + ".*second.jsonl too"):
        go(tmp_path)
    for name in ("second.jsonl", "third"):
        (tmp_path / name).rmdir()
    assert go(tmp_path)[1] == ALL


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RunError("nothing can be learnt")])
def test_a_tool_that_is_interrupted_or_fails_leaves_what_is_finished(tmp_path, capsys, error):
    if isinstance(error, KeyboardInterrupt):
        assert go(tmp_path, stop=error)[0] == Status.STOPPED
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
    record = json.loads((tmp_path / "workflow.json").read_text())
    seconds = {name: entry["seconds"] for name, entry in record.items()}
    assert seconds == {"first": 10, "second": 20, "third": 10}


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([Train("tiny", name="third", init="fourth")], "reads what step fourth makes, but no step"),
        ([Train("tiny", name="a", options={"sft.chats": [Output("b")]})], "what step b makes"),
        ([Train("tiny", name="a", options={"distill.teacher": Output("a")})], "what step a makes"),
        ([Evaluate("late", tasks=["x"], samples=1, max_new=1)], "step late-eval of the workflow"),
        ([STEPS[0], STEPS[0]], "two steps of the workflow are called first"),
    ],
)
def test_steps_that_do_not_fit_together_are_refused(steps, message):
    with pytest.raises(ConfigError, match=message):
        Workflow("bad", steps)


def test_another_line_for_what_is_finished_is_refused(tmp_path):
    go(tmp_path)
    before = (tmp_path / "workflow.json").read_bytes()
    message = "step third of .* was made by another line .*name another --out, or delete "
    with pytest.raises(RunError, match=message + ".*third to make it again"):
        go(tmp_path, "--third.train.steps", "7")
    assert (tmp_path / "workflow.json").read_bytes() == before


@pytest.mark.parametrize(
    "text", ["{", "[]", "[" * 9999, '{"first": 3}', '{"first": {"line": "\'", "seconds": 1}}', None]
)
def test_a_damaged_record_is_refused_in_a_sentence(text, tmp_path):
    file = tmp_path / "workflow.json"
    file.mkdir() if text is None else file.write_text(text)
    with pytest.raises(RunError, match=r"workflow.json (is damaged|cannot be read)"):
        go(tmp_path)


def test_damaged_figures_are_named(tmp_path):
    workflow = Workflow("one", [Train("tiny", name="a"), Evaluate("a", ["x"], 1, 1)])
    products = workflow.products(tmp_path)
    products["a-eval"].write_text("[]")
    with pytest.raises(RunError, match="holds no figures: delete it"):
        _reports(workflow, products)


def test_the_record_of_an_earlier_version_counts(tmp_path):
    """Its file was pipeline.json, its options stood in another order and had other names."""
    steps = (
        Train("tiny", name="base"),
        Train(
            "grpo",
            name="reason",
            init="base",
            options={
                "optimizer.learning_rate": 1e-4,
                "grpo.tasks": ["countdown:1", "addition:2"],
                "grpo.preflight": False,
                "grpo.rewards": [("accuracy", 1.0)],
            },
        ),
    )
    lines = {
        "base": f"python train.py tiny --out {tmp_path}/base --train.seed 0",
        "reason": f"python train.py grpo --init {tmp_path}/base --out {tmp_path}/reason "
        "--train.seed 0 --post.tasks countdown:1 addition:2 --post.preflight False "
        "--post.rewards accuracy 1.0 --optimizer.learning-rate 3e-4 "
        "--optimizer.learning-rate 1e-4",
    }
    record = {
        name: {"line": line, "seconds": 2.0, "finished": True} for name, line in lines.items()
    }
    (tmp_path / "pipeline.json").write_text(json.dumps(record))
    for name in lines:
        (tmp_path / name).mkdir()
    assert go(tmp_path, steps=steps)[:2] == (0, [])
    with pytest.raises(RunError, match=r"step reason of .* was made by another line"):
        go(tmp_path, "--reason.grpo.kl", "0", steps=steps)
    (tmp_path / "reason").rmdir()
    assert go(tmp_path, steps=steps)[1] == ["reason"]
    assert json.loads((tmp_path / "workflow.json").read_text())["base"]["line"] == lines["base"]


def test_lines_differ_in_meaning_if_a_value_differs():
    line = "python train.py sft --sft.tasks a b --train.steps 3"
    assert meaning(line) == meaning("python train.py sft --train.steps=3.0 --post.tasks a b")
    assert meaning(line) != meaning("python train.py sft --sft.tasks b a --train.steps 3")
    assert meaning(line) != meaning("python train.py tiny --sft.tasks a b --train.steps 3")
    assert meaning(line) != meaning("python train.py sft --sft.tasks a b")


def test_words_go_to_their_step():
    argv = ["--seed", "1", "--third.train.steps", "7", "--first.sft.tasks", "a", "b"]
    argv += ["--out", "x", "--fourth.a", "1"]
    common, extra = split_options(argv, ALL)
    assert extra == {"third": ["--train.steps", "7"], "first": ["--sft.tasks", "a", "b"]}
    assert common == ["--seed", "1", "--out", "x", "--fourth.a", "1"]


def test_a_mistake_in_the_last_step_is_reported_before_the_first(tmp_path, capsys):
    with pytest.raises(SystemExit):
        go(tmp_path, "--third.train.stesp", "7")
    assert "train.steps" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", [["--plan"], ["--plan", "True"]])
def test_the_plan_is_shown_and_nothing_done(tmp_path, capsys, flag):
    assert go(tmp_path, *flag)[:2] == (0, [])
    line = f"python train.py tiny --init {tmp_path}/first --out {tmp_path}/third --train.seed 0"
    assert f" third  {line} --train.log-every 5\n" in capsys.readouterr().out


def test_a_workflow_is_not_a_run():
    with pytest.raises(UsageError, match=r"r1 is several runs: start them with python train.py r1"):
        parse(["r1"], "seekjax show")


@pytest.mark.parametrize(
    "name", [name for name in config_names() if isinstance(load_config(name), Workflow)]
)
def test_every_line_of_ours_can_be_read(name, tmp_path):
    """Training lines by the parser of train.py; the others name a command. Each makes what a later
    one starts from."""
    made = set()
    workflow = load_config(name)
    assert isinstance(workflow, Workflow)
    for step, words in workflow.lines(tmp_path, 5).items():
        assert command_of(words).startswith(("python train.py ", "seekjax "))
        if words[0] == "train.py":
            config = parse(words[1:], "train.py")
            assert config.train.seed == 5
            assert config.out == tmp_path / step
            assert config.init is None or config.init in made
            made.add(config.out)
        else:
            assert words[0] == "seekjax"
            assert words[1] in ("eval", "sample")
            assert Path(words[2]) in made
