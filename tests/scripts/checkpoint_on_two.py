"""One of two processes, two CPU devices each, that save and restore together: `checkpoint_on_two.py
FOLDER PORT RANK`."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import seekjax.checkpoint.write as checkpoint


def main(folder, port, rank):
    jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=rank)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    places = {
        "step": everywhere,
        "w": NamedSharding(mesh, PartitionSpec("data")),
        "key": everywhere,
    }

    def make(step):
        return {
            "step": jnp.int32(step),
            "w": jnp.arange(32.0).reshape(8, 4) * step,
            "key": jax.random.key(step),
        }

    state_at = jax.jit(make, out_shardings=places)
    abstract = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        jax.eval_shape(make, 0),
        places,
    )

    jax.set_mesh(mesh)  # as the loop does

    checkpoints = checkpoint.Checkpoints(folder, keep=2)
    assert checkpoints.restore(abstract) is None
    for step in (1, 2):
        checkpoints.save(
            step, state_at(step), data={"rank": rank, "position": step}, config={"two": True}
        )
    checkpoints.wait()
    assert checkpoints.latest == 2

    if rank == 0:  # damage the newest: both must fall back to step 1
        (checkpoints.folder / "2" / "data-1.json").write_text("{}")
    checkpoints = checkpoint.Checkpoints(folder, keep=2)
    step, state, data = checkpoints.restore(abstract)
    assert (step, data) == (1, {"rank": rank, "position": 1})
    want = np.arange(32.0).reshape(8, 4)
    for shard in state["w"].addressable_shards:
        assert (np.asarray(shard.data) == want[shard.index]).all()
    assert (
        np.asarray(jax.random.key_data(state["key"]))
        == np.asarray(jax.random.key_data(jax.random.key(1)))
    ).all()

    if rank == 0:  # an error met by one is met by all

        def refuse(folder):
            raise PermissionError("read-only")

        checkpoint.write_manifest, write_manifest = refuse, checkpoint.write_manifest
    checkpoints.save(2, state_at(2), data={}, config={})
    try:
        checkpoints.wait()
    except checkpoint.CheckpointError as error:
        print(error)
    else:
        raise AssertionError("the failed save went unnoticed")
    if rank == 0:
        checkpoint.write_manifest = write_manifest
    checkpoints.save(3, state_at(3), data={"rank": rank, "position": 3}, config={"two": True})
    checkpoints.close()
    print("done")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
