"""The arrays of a saved step by Orbax's metadata, before any of them is read."""

import math
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from seekjax.config import ModelConfig
from seekjax.errors import CheckpointError, RunError, need
from seekjax.model.count import parameters

# Bytes of its part from which a device helps to write an array that others hold too
WORTH_CUTTING = 2**20

# int4 weights have half as many elements as the parameters that they stand for
PACKED = 2


def saved_arrays(reader: ocp.Checkpointer | ocp.AsyncCheckpointer, step: Path) -> dict[str, Any]:
    """Return the tree of a step's train state, with shape and dtype at its leaves.

    Raises CheckpointError if Orbax finds none.
    """
    try:
        metadata: Any = reader.metadata(step / "state").item_metadata
        tree = metadata.tree
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
    except Exception as error:  # Orbax raises what its parsing happens to raise
        raise CheckpointError(
            f"{step / 'state'} has a damaged _METADATA, so that Orbax {ocp.__version__} cannot "
            "tell which arrays it holds: delete that step, the one before it will be used."
        ) from error
    need(tree, f"{step / 'state'} holds no arrays.", CheckpointError)
    return tree


def write_small_arrays_whole() -> None:
    """Let one device write a small array that several hold.

    Orbax cuts such an array up among them, which compiles a program for each shape and device.
    """
    handlers = ocp.type_handlers
    standard = handlers.get_type_handler(jax.Array)
    handler = handlers.ArrayHandler(
        min_slice_bytes_for_replica_parallel=WORTH_CUTTING,
        array_metadata_store=getattr(standard, "_array_metadata_store", None),
    )
    handlers.register_type_handler(jax.Array, handler, override=True)


def check_plausible(step: Path, saved: dict[str, Any], model: ModelConfig) -> None:
    """Raise RunError for a model of far more parameters than a step holds.

    Such a model would take minutes and much memory even to describe.
    """
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(saved)]
    elements = sum(sizes)
    count = parameters(model)
    total = count.total + count.mtp
    need(
        total <= PACKED * elements,
        f"{step / 'config.json'} describes a model of {total:,} parameters, but the checkpoint "
        f"holds {elements:,} numbers: config.json does not match these weights.",
        RunError,
    )
