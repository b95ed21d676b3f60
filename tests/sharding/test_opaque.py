"""`local(..., opaque=True)`, for kernels without a rule for what differs between devices: same
result and gradients, or a refusal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seekjax.kernels.attention import attend_plain
from seekjax.placement import use_mesh
from sharding.mesh import MeshConfig
from sharding.rules import local

AXES = (
    "batch sequence heads nope",
    "batch sequence heads rotary",
    "batch sequence heads nope",
    "batch sequence rotary",
    "batch sequence heads value",
)
SHAPES = (
    (8, 6, 4, 8),
    (8, 6, 4, 2),
    (8, 6, 4, 8),
    (8, 6, 2),
    (8, 6, 4, 8),
)  # the rotary key has no heads: its gradient adds up over tensor


def test_gradients_are_those_of_the_checked_body():
    arrays = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(SHAPES)]

    def gradients(opaque):
        attend = local(lambda *a: attend_plain(*a, 0.3), AXES, "batch sequence heads value", opaque)
        return jax.jit(jax.grad(lambda a: jnp.sin(attend(*a)).sum()))(arrays)

    alone = gradients(False)
    with use_mesh(MeshConfig(fsdp=2, expert=2, tensor=2)):
        for opaque in (True, False):
            for ours, expected in zip(gradients(opaque), alone):
                np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("outputs", ["batch sequence", "", ("batch sequence heads", "batch")])
def test_an_output_that_claims_to_be_alike_somewhere_is_refused(outputs):
    with (
        use_mesh(MeshConfig(data=2, tensor=4)),
        pytest.raises(
            ValueError, match=r"every mesh axis, but nothing in it is split by (data, )?tensor"
        ),
    ):
        local(abs, "batch sequence", outputs, opaque=True)
    with use_mesh(MeshConfig(data=1)):
        local(
            abs, "batch sequence", outputs, opaque=True
        )  # one device has nothing to disagree with
