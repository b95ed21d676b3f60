"""What Orbax is asked to do with the arrays of a state."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from seekjax.checkpoint.write import Checkpoints


@pytest.mark.mesh
def test_small_arrays_of_many_devices_are_saved_without_compiling(tmp_path):
    """Cut up among the devices, each shape would take a program for each part."""
    mesh = jax.make_mesh((4, 2), ("rows", "columns"), axis_types=(AxisType.Auto,) * 2)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )

    def place(shape, *axes):
        values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        return jax.device_put(values, NamedSharding(mesh, PartitionSpec(*axes)))

    state = {"whole": place((24, 40)), "split": place((40, 24), "rows")}
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    checkpoints = Checkpoints(tmp_path, 1)
    before = len(compiled)
    checkpoints.save(1, state, data={}, config={})
    checkpoints.close()
    assert len(compiled) == before

    _, restored, _ = Checkpoints(tmp_path, 1).restore(abstract)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
