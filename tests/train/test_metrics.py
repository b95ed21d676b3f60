"""metrics.jsonl is valid JSON and whole, through resumes, full disks and damage."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from seekjax.config import Config
from seekjax.errors import RunError
from seekjax.train import metrics
from seekjax.train.clock import Spent
from seekjax.train.metrics import METRICS, Recorder, keep_until, read
from seekjax.train.run_folder import keep_earlier, time_spent


def rows(*steps):
    lines = [json.dumps({"step": step, "split": "train"}) + "\n" for step in steps]
    return "".join(lines)


def test_what_is_not_finite_is_null(tmp_path):
    recorder = Recorder(Config(), tmp_path, 0, print)
    record = {
        "step": 1,
        "split": "train",
        "loss": float("nan"),
        "layer": np.array([1.0, np.inf]),
        "load": [np.float32(0.5)],
    }
    recorder.write(record)
    [line] = (tmp_path / METRICS).read_text().splitlines()
    plain = json.loads(line, parse_constant=pytest.fail)
    assert plain["loss"] is None
    assert plain["layer"] == [1.0, None]
    assert plain["load"] == [0.5]


def test_a_full_disk_loses_no_line(tmp_path, monkeypatch):
    said = []
    recorder = Recorder(Config(), tmp_path, 0, said.append)

    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(metrics, "append", full)
        for step in (1, 2):
            recorder.write({"step": step, "split": "train"})
    assert len(said) == 1
    assert "training goes on" in said[0]
    recorder.write({"step": 3, "split": "train"})
    assert [record["step"] for record in read(tmp_path)] == [1, 2, 3]


def test_a_resume_drops_later_lines_and_those_that_are_not_whole(tmp_path):
    path = tmp_path / METRICS
    path.write_bytes(rows(1, 2).encode() + b'\xff\xfe{"step": 2\n[3]\n' + rows(3).encode() + b'{"s')
    assert [record["step"] for record in read(tmp_path)] == [1, 2, 3]
    keep_until(path, 2)
    assert path.read_text() == rows(1, 2)
    keep_until(tmp_path / "nowhere", 2)


def test_a_folder_in_the_place_of_a_file_is_a_sentence(tmp_path):
    (tmp_path / METRICS).mkdir()
    for use in (lambda: read(tmp_path), lambda: keep_until(tmp_path / METRICS, 1)):
        with pytest.raises(
            RunError, match=r"metrics.jsonl cannot be read .*: it is the run's record"
        ):
            use()


def test_the_time_of_earlier_starts_counts(tmp_path):
    assert time_spent(tmp_path, 0) == Spent()
    clocks = [(1, 1, 5.0, 1.0), (2, 1, 9.0, 4.0), (3, 2, 12.0, 6.0)]
    lines = []
    for step, start, seconds, step_seconds in clocks:
        row = {"step": step, "start": start, "seconds": seconds, "step_seconds": step_seconds}
        lines.append(json.dumps(row) + "\n")
    (tmp_path / METRICS).write_text("".join(lines) + rows(4))
    assert time_spent(tmp_path, 2) == Spent(2, 12.0, 4.0)


def test_a_new_run_keeps_the_record_of_the_one_before(tmp_path):
    said = []
    keep_earlier(said.append, tmp_path)
    for number in (1, 2):
        (tmp_path / METRICS).write_text(rows(number))
        (tmp_path / "config.json").write_text("{}")
        keep_earlier(said.append, tmp_path)
        assert Path(tmp_path / f"metrics-{number}.jsonl").read_text() == rows(number)
        assert (tmp_path / f"config-{number}.json").exists()
    assert not (tmp_path / METRICS).exists()
    assert "starting at step 0; the record of the earlier run is kept as metrics-2.jsonl" in said[1]


class Fake:
    """TensorBoard and W&B, which note what they are called with."""

    def __init__(self):
        self.calls = []

    def SummaryWriter(self, folder, purge_step):
        self.calls.append(purge_step)
        return self

    def close(self):
        self.calls.append("closed")

    def add_scalar(self, tag, value, step):
        self.calls.append((tag, value, step))

    def init(self, **settings):
        self.calls.append((settings["id"], settings["config"]["train"]["steps"]))
        return self

    def log(self, scalars, step):
        self.calls.append((scalars, step))


def test_writers_keep_splits_apart_and_continue_one_run(tmp_path, monkeypatch):
    board, web = Fake(), Fake()
    monkeypatch.setattr(
        metrics, "import_extra", lambda module, *_: web if module == "wandb" else board
    )
    config = Config(tensorboard=True, wandb="project")
    for resumed_at in (0, 2):
        recorder = Recorder(config, tmp_path, resumed_at, print)
        recorder.write({"step": 3, "split": "train", "loss": 2.0})
        recorder.write({"step": 3, "split": "held_out", "loss": 1.0})
    once = [("train/loss", 2.0, 3), ("held_out/loss", 1.0, 3)]
    assert board.calls == [1, *once, 3, *once]
    sent = [({"train/loss": 2.0}, 3), ({"held_out/loss": 1.0}, 3)]
    run = ((tmp_path / "wandb.txt").read_text(), 400)
    assert web.calls == [run, *sent, run, *sent]


def test_events_before_a_return_to_an_older_checkpoint_are_hidden(tmp_path, monkeypatch):
    board = Fake()
    monkeypatch.setattr(metrics, "import_extra", lambda *_: board)
    recorder = Recorder(Config(tensorboard=True), tmp_path, 0, print)
    for loss in (2.0, 1.0):
        recorder.write({"step": 3, "split": "train", "loss": loss})
        recorder.rewind(1)
    assert board.calls == [
        1,
        ("train/loss", 2.0, 3),
        "closed",
        2,
        ("train/loss", 1.0, 3),
        "closed",
        2,
    ]


def test_an_evaluation_that_is_missing_is_seen(tmp_path):
    recorder = Recorder(Config(), tmp_path, 0, print)
    recorder.write({"step": 3, "split": "train"})
    assert not recorder.is_evaluated(3)
    recorder.write({"step": 3, "split": "held_out", "loss": 1.0})
    assert recorder.is_evaluated(3)
