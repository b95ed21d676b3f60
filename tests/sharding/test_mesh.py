"""From sizes to a mesh, and one clear sentence for each way they can be wrong."""

import re

import jax
import pytest

from seekjax.placement import use_mesh
from sharding.mesh import MeshConfig, abstract_mesh, make_mesh
from sharding.place import check_divisible


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (MeshConfig(), (8, 1, 1, 1, 1, 1)),
        (MeshConfig(node=2, expert=2), (2, 1, 2, 2, 1, 1)),
        (MeshConfig(expert=2, context=2), (2, 1, 1, 2, 2, 1)),
        (MeshConfig(expert=4), (2, 1, 1, 4, 1, 1)),
        (MeshConfig(fsdp=2, expert=2, tensor=2), (1, 2, 1, 2, 1, 2)),
        (MeshConfig(data=2, fsdp=2), (2, 2, 1, 1, 1, 1)),  # four of eight devices stay idle
    ],
)
def test_data_0_takes_the_devices_that_are_left(config, expected):
    mesh = make_mesh(config)
    assert mesh.axis_names == ("data", "fsdp", "node", "expert", "context", "tensor")
    assert mesh.axis_sizes == expected
    assert set(mesh.devices.flat) <= set(jax.devices())


@pytest.mark.parametrize(
    ("config", "devices", "sentence"),
    [
        (
            MeshConfig(data=2, expert=8),
            8,
            "the mesh asks for 16 devices (data 2 x expert 8) but there are 8: make the axes "
            "smaller, or emulate them on a CPU with JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=16.",
        ),
        (
            MeshConfig(data=2),
            1,
            "the mesh asks for 2 devices (data 2) but there is 1: make the axes smaller, or "
            "emulate",
        ),
        (
            MeshConfig(expert=3),
            8,
            "the mesh asks for fsdp x node x expert x context x tensor = 3 devices, which does not "
            "divide the 8 there are; change these axes or set mesh.data yourself, or emulate",
        ),
        (MeshConfig(tensor=0), 8, "mesh.tensor is 0: give a positive number of devices."),
        (MeshConfig(data=-1), 8, "mesh.data is -1: give a positive number of devices."),
    ],
)
def test_a_mesh_that_does_not_fit_says_so_in_one_sentence(config, devices, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)) as error:
        make_mesh(config, jax.devices()[:devices])
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


def test_a_mesh_without_devices_can_be_any_size():
    assert dict(abstract_mesh(MeshConfig(fsdp=8, expert=64, tensor=4), 1).shape) == {
        "data": 1,
        "fsdp": 8,
        "node": 1,
        "expert": 64,
        "context": 1,
        "tensor": 4,
    }
    assert abstract_mesh(MeshConfig(expert=2), 8).shape["data"] == 4
    with pytest.raises(ValueError, match=r"mesh.expert is 0"):
        abstract_mesh(MeshConfig(expert=0), 8)


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        (
            {"experts": 6},
            "model.experts is 6, which mesh.expert 4 cannot split evenly: make it a "
            "multiple of 4 or shrink the mesh.",
        ),
        (
            {"experts": 8, "embed": 12},
            "model.embed is 12, which mesh.fsdp 2 x mesh.expert 4 cannot split evenly: "
            "make it a multiple of 8",
        ),
    ],
)
def test_an_indivisible_axis_names_its_field(sizes, sentence):
    with (
        use_mesh(abstract_mesh(MeshConfig(fsdp=2, expert=4), 8)),
        pytest.raises(ValueError, match=re.escape(sentence)) as error,
    ):
        check_divisible(
            sizes,
            {name: f"model.{name}" for name in sizes},
            {"data": 1, "fsdp": 2, "node": 1, "expert": 4, "context": 1, "tensor": 1},
        )
    assert str(error.value).startswith(sentence)


def test_divisible_axes_pass():
    with use_mesh(abstract_mesh(MeshConfig(fsdp=2, expert=4), 8)):
        check_divisible(
            {"experts": 8, "embed": 16, "layers": 3},
            {},
            {"data": 1, "fsdp": 2, "node": 1, "expert": 4, "context": 1, "tensor": 1},
        )
