"""Every hidden state, logit and prediction ahead as transformers 5.23 computes them from the
checkpoints in goldens/ (made by goldens/make.py)."""

from pathlib import Path

import numpy as np
import pytest

from seekjax.hf.load import load
from seekjax.hf.save import save
from seekjax.placement import use_mesh
from sharding.mesh import MeshConfig
from tests.fixtures import PLAIN
from tests.hf.compare import assert_equal, computed

GOLDENS = Path(__file__).with_name("goldens")


def golden(name):
    stored = dict(np.load(GOLDENS / name / "expected.npz"))
    return stored.pop("tokens"), stored


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v2", "v2_lite", "v3"])
def test_agrees(name):
    tokens, expected = golden(name)
    assert {"hidden_1", "hidden_2", "hidden_3", "logits"} <= expected.keys()
    assert ("ahead_1" in expected) == (name == "v3")
    assert_equal(computed(*load(GOLDENS / name, PLAIN), tokens), expected)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.mesh
def test_agrees_on_a_mesh_and_after_writing_it_out_again(tmp_path):
    tokens, expected = golden("v2_lite")
    save(tmp_path / "again", *load(GOLDENS / "v2_lite"), "f32")
    with use_mesh(MeshConfig(data=1, expert=2, tensor=1)):
        model, variables = load(tmp_path / "again", PLAIN)
        assert_equal(computed(model, variables, tokens), expected)
