"""Redundant experts on the command line: the same text, and what they buy."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from seekjax.commands.replicas import add_replicas, check, known_load
from seekjax.commands.settings import RedundantExperts
from seekjax.config import Config, DataConfig
from seekjax.errors import GenerateError
from sharding.mesh import MeshConfig
from tests.fixtures import ONE_LAYER, PLAIN, save_run

MESH = ("--mesh.expert", "2", "--redundant-experts", "4")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one layer, with a text beside it that shows which experts are popular."""
    folder = tmp_path_factory.mktemp("replicas") / "run"
    config = Config(ONE_LAYER, DataConfig(tokenizer="byte"), kernel=PLAIN, mesh=MeshConfig(data=1))
    save_run(config, folder)
    text = "a text that shows which experts are popular " * 20
    (folder / "sample.txt").write_text(text)
    return folder


def check_sentence(err):
    """The load was uneven, and is more even."""
    assert "8 experts in 12 places on 2 devices: by the load on" in err
    before, after = (
        float(word.split("x")[0]) for word in err.split("device has ")[1].split(" and ")
    )
    assert 1 <= after < before


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.mesh
def test_redundant_experts_write_the_same_text(command, run):
    how = ("generate", run, "--temperature", "0", "--max-new", "8", "--prompt", "one", "two", "3")
    status, alone, _ = command(*how)
    assert status == 0
    status, out, err = command(*how, *MESH, "--load-text", run / "sample.txt")
    assert status == 0
    assert out == alone
    check_sentence(err)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.mesh
def test_redundant_experts_measure_the_same_bits(command, run, tmp_path):
    text = run / "sample.txt"
    how = ("eval", run, "--data", text, "--sequence", "64")
    alone, copied = tmp_path / "alone.json", tmp_path / "copied.json"
    status, _, _ = command(*how, "--progress", alone)
    assert status == 0
    status, out, err = command(*how, "--progress", copied, *MESH, "--load-text", text)
    assert status == 0
    assert "880 bytes" in out
    check_sentence(err)

    one, two = (json.loads(file.read_text())["sums"] for file in (alone, copied))
    assert one.pop("nats") == pytest.approx(two.pop("nats"), rel=1e-6)
    assert one == two


def opened(folder, model=ONE_LAYER):
    return SimpleNamespace(folder=folder, model=model)


def test_the_load_of_a_run_is_its_newest(tmp_path):
    rows = [
        {"step": 1, "split": "train", "load": [[1.0, 3.0]]},
        {"step": 20, "split": "train", "load": [[2.0, 2.0]]},
        {"step": 21, "split": "train"},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    load, where = known_load(opened(tmp_path), None)
    np.testing.assert_array_equal(load, [[2, 2]])
    assert where == "in step 20 of the run"


def test_what_cannot_be_is_one_sentence(tmp_path):
    with pytest.raises(GenerateError, match="this mesh has one: give --mesh"):
        check(ONE_LAYER, 4, devices=1)
    with pytest.raises(GenerateError, match=r"8 experts and 3 more .* 4 devices, make it 4"):
        check(ONE_LAYER, 3, devices=4)
    with pytest.raises(GenerateError, match="this one has none"):
        check(replace(ONE_LAYER, dense_layers=1), 4, devices=4)
    with pytest.raises(GenerateError, match=r"no record .* name a text with --load-text"):
        known_load(opened(tmp_path), None)
    with pytest.raises(GenerateError, match="--load-text is for --redundant-experts"):
        add_replicas(opened(tmp_path), RedundantExperts(load_text=tmp_path))
