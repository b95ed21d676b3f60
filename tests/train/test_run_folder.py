"""A run's folder belongs to one run, with one set of settings."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from seekjax.checkpoint.config_json import to_json
from seekjax.checkpoint.write import MismatchError
from seekjax.config import Config, TrainConfig
from seekjax.errors import CheckpointError, RunError
from seekjax.train.run_folder import (
    describe,
    naming_fields,
    own_folder,
    refuse_another_run,
)
from seekjax.version import __version__

CONFIG = Config(train=TrainConfig(steps=40))


@pytest.fixture
def folder(tmp_path):
    """A run that has saved step 40."""
    step = tmp_path / "checkpoints" / "40"
    step.mkdir(parents=True)
    (step / "config.json").write_text(json.dumps(to_json(CONFIG)))
    return tmp_path


def with_rate(config):
    return replace(config, optimizer=replace(config.optimizer, learning_rate=0.01))


def test_a_finished_run_is_not_another_experiment(folder):
    refuse_another_run(CONFIG, folder, 40)
    quicker = replace(CONFIG, train=replace(CONFIG.train, log_every=1), tensorboard=True)
    refuse_another_run(quicker, folder, 40)
    message = (
        r"finished, with 40 steps, .* \(optimizer.learning_rate: 0.003 -> 0.01\): name another"
    )
    with pytest.raises(RunError, match=message):
        refuse_another_run(with_rate(CONFIG), folder, 40)
    with pytest.raises(RunError, match=r"train.steps: 40 -> 30"):
        refuse_another_run(replace(CONFIG, train=TrainConfig(steps=30)), folder, 40)
    longer = with_rate(replace(CONFIG, train=TrainConfig(steps=80)))
    refuse_another_run(longer, folder, 40)  # goes on: what differs is printed


def test_arrays_that_do_not_fit_are_named_by_their_settings(folder):
    wider = replace(CONFIG, model=replace(CONFIG.model, embed=7))
    with (
        pytest.raises(CheckpointError, match=r"other settings \(model.embed: 128 -> 7\): restore"),
        naming_fields(wider, folder),
    ):
        raise MismatchError("56 arrays", 40)
    with pytest.raises(MismatchError, match="56 arrays"), naming_fields(CONFIG, folder):
        raise MismatchError("56 arrays", 40)


def test_the_folder_says_which_version_made_it(tmp_path):
    tokenizer = SimpleNamespace(save=lambda folder: None)
    training = SimpleNamespace(config=CONFIG, tokenizer=tokenizer, manifest=lambda: {"sources": []})
    for done in (0, 40):
        describe(print, training, tmp_path, done)
        assert json.loads((tmp_path / "config.json").read_text())["train"]["steps"] == 40
        data = json.loads((tmp_path / "data.json").read_text())
        assert data == {"seekjax": __version__, "sources": []}

    (tmp_path / "data.json").unlink()
    (tmp_path / "data.json").mkdir()
    with pytest.raises(RunError, match=r"cannot be written"):
        describe(print, training, tmp_path, 40)


def test_two_runs_do_not_share_a_folder(tmp_path):
    config = replace(CONFIG, out=tmp_path / "run")
    with own_folder(config) as folder:
        assert folder.is_dir()
        with pytest.raises(RunError, match=r"writes into .*run now"), own_folder(config):
            pass
