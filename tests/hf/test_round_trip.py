"""Reading then writing gives the same tensors byte for byte, writing then reading the same arrays,
on any mesh and in any number of files."""

import json
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seekjax.config import KernelConfig
from seekjax.hf.load import load
from seekjax.hf.names import join, split, tensors
from seekjax.hf.published import interleave_pairs
from seekjax.hf.save import save
from seekjax.model.abstract import abstract_variables
from seekjax.model.count import parameters
from seekjax.placement import use_mesh
from sharding.mesh import MeshConfig
from tests.hf.small import LITE, V2, V3, WIDE, drawn, raw_tensors

MODELS = {
    "v3": V3,
    "v2": V2,
    "v2-lite": LITE,
    "two predictions": replace(V3, mtp_depth=2),
    "no dense, no shared": replace(V3, dense_layers=0, shared_experts=0),
    "all dense": replace(V3, dense_layers=2, mtp_depth=0),
    "wide": WIDE,
}


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "fp8", "fp8-ue8m0"])
def test_write_read_write(model, dtype, tmp_path):
    variables = drawn(model)
    save(tmp_path / "a", model, variables, dtype, file_bytes=1000)
    read = load(tmp_path / "a")
    assert read[0] == model
    save(tmp_path / "b", *read, dtype, scales=tmp_path / "a" if dtype.startswith("fp8") else None)
    a, b = raw_tensors(tmp_path / "a"), raw_tensors(tmp_path / "b")
    assert a == b
    assert len(list(tmp_path.glob("a/*.safetensors"))) > 1
    assert len(list(tmp_path.glob("b/*.safetensors"))) == 1
    assert json.loads((tmp_path / "a/config.json").read_text()) == json.loads(
        (tmp_path / "b/config.json").read_text()
    )
    # in float32 whatever the matrices are in, as in DeepSeek's files
    biases = [kind for name, (kind, _, _) in a.items() if name.endswith("e_score_correction_bias")]
    assert set(biases) <= {"F32"}
    if model in (V3, WIDE):
        assert biases
    if dtype == "f32":
        jax.tree.map(np.testing.assert_array_equal, read[1], variables)
    if dtype.startswith("fp8"):
        kinds = {name.rpartition(".")[2]: kind for name, (kind, _, _) in a.items()}
        assert kinds["weight_scale_inv"] == "F32"
        assert a["model.embed_tokens.weight"][0] == "BF16"
        assert a["model.layers.0.input_layernorm.weight"][0] == "BF16"
        assert a["model.layers.1.self_attn.kv_a_proj_with_mqa.weight"][0] == "F8_E4M3"


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_table_names_every_array_once(model):
    """Every element of every array of ours is in exactly one tensor, and `join` undoes `split`."""
    wanted = {
        tuple(key.key for key in path): np.zeros(x.shape, int)
        for path, x in jax.tree_util.tree_leaves_with_path(
            abstract_variables(model, KernelConfig())
        )
    }
    count = 0
    for tensor in tensors(model):
        x = np.arange(math.prod(tensor.shape)).reshape(tensor.shape)
        ours = split(x, tensor)
        assert np.array_equal(join(ours, tensor), x)
        if tensor.row.kind != "copy":
            count += x.size * (tensor.row.kind != "bias")
            for piece, part in zip(ours, tensor.parts, strict=True):
                wanted[part.path][part.at] += np.ones(piece.shape, int)
    assert all(
        (seen == (path[0] == "params" or model.scoring == "sigmoid")).all()
        for path, seen in wanted.items()
    )
    if not model.mtp_depth:
        assert count == parameters(model).total


@pytest.mark.slow
@pytest.mark.mesh
@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(data=2, fsdp=2, expert=2),
        MeshConfig(data=1, expert=4),
        MeshConfig(data=1, fsdp=2, tensor=2),
    ],
    ids=str,
)
def test_on_a_mesh(mesh, tmp_path, monkeypatch):
    if mesh.tensor > 1:  # as a stack that is large
        monkeypatch.setattr("seekjax.hf.load.AT_ONCE", 0)
    model = replace(V3, vocab=12, embed=8, hidden=6, expert_hidden=4, q_latent=8)
    variables = drawn(model)
    save(tmp_path / "a", model, variables, "f32")
    with use_mesh(mesh):
        read, placed = load(tmp_path / "a")
        jax.tree.map(
            lambda x, wanted: np.testing.assert_equal(x.sharding, wanted.sharding),
            placed,
            abstract_variables(model, KernelConfig()),
        )
        save(tmp_path / "b", read, placed, "f32")
    jax.tree.map(np.testing.assert_array_equal, placed, variables)
    assert raw_tensors(tmp_path / "a") == raw_tensors(tmp_path / "b")


@pytest.mark.slow
def test_a_large_stack_is_filled_layer_by_layer(tmp_path, monkeypatch):
    """A rounded one; test_on_a_mesh has one of floats."""
    model, kernel = replace(V3, dense_layers=0, mtp_depth=0), KernelConfig(weights="int8")
    save(tmp_path / "a", model, drawn(model), "f32")
    _, at_once = load(tmp_path / "a", kernel)
    monkeypatch.setattr("seekjax.hf.load.AT_ONCE", 0)
    _, by_layer = load(tmp_path / "a", kernel)
    jax.tree.map(np.testing.assert_array_equal, by_layer, at_once)


def test_the_kernel_chooses_the_type_of_matrices_alone(tmp_path):
    save(tmp_path / "a", V3, drawn(V3), "bf16")
    _, variables = load(tmp_path / "a", KernelConfig(dtype="bfloat16"))
    layer = variables["params"]["expert_layers"]
    assert layer["ffn"]["w_gate"].dtype == jnp.bfloat16
    assert variables["params"]["embed"].dtype == jnp.bfloat16
    assert layer["ffn"]["w_router"].dtype == jnp.float32
    assert layer["ffn_norm"].dtype == jnp.float32
    assert variables["balance"]["expert_layers"]["ffn"]["bias"].dtype == jnp.float32
    save(tmp_path / "b", V3, variables, "bf16")
    assert raw_tensors(tmp_path / "a") == raw_tensors(tmp_path / "b")


def test_rotary_halves_become_pairs():
    assert interleave_pairs(np.array([[1, 2, 3, -1, -2, -3]]), 1).tolist() == [
        [1, -1, 2, -2, 3, -3]
    ]


def test_a_failed_write_leaves_nothing(tmp_path):
    variables = drawn(V3)
    del variables["params"]["head"]
    with pytest.raises(KeyError):
        save(tmp_path / "a", V3, variables)
    assert not list(tmp_path.iterdir())
