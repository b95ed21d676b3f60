"""What a config must satisfy before anything expensive happens.

Each complaint is one sentence that says what to change. The model's own checks are in
seekjax/model/check.py, those of the run's numbers in seekjax/config/validate.py.
"""

from collections.abc import Callable

import jax
from jax.sharding import AbstractMesh, Mesh

from seekjax.config import Config
from seekjax.config.validate import check_run
from seekjax.errors import ConfigError, need
from seekjax.model.check import check_model, field_of, split_sizes
from seekjax.model.experts import check_trainable
from seekjax.placement import use_mesh
from sharding.mesh import MeshConfig, make_mesh
from sharding.place import check_divisible


def validate(
    config: Config, mesh_of: Callable[[MeshConfig], Mesh | AbstractMesh] = make_mesh
) -> None:
    """Raise ConfigError for the first thing wrong with the model, the run, or their fit to a mesh.

    `mesh_of` makes the mesh from config.mesh; by default it is one of the devices here.
    """
    try:
        check_model(config.model)
        check_run(config)
        check_trainable(config.kernel.dispatch)
        check_mesh(config, mesh_of(config.mesh))
    except ConfigError:
        raise
    except ValueError as error:  # sharding has its own sentences, and no ConfigError
        raise ConfigError(str(error)) from error


def check_mesh(config: Config, mesh: Mesh | AbstractMesh) -> None:
    """Raise ValueError if the mesh splits an axis into parts of different sizes."""
    rows = config.train.rows
    sizes = {"batch": rows, **split_sizes(config.model)}
    settings = {axis: field_of(config.model, axis) for axis in sizes}
    settings["batch"] = "train.micro_batch (train.batch where that is 0)"
    with use_mesh(mesh):
        check_divisible(sizes, settings, dict(mesh.shape))

    if config.data.workers and jax.process_count() > 1:
        need(
            rows % jax.process_count() == 0,
            f"{settings['batch']} must be a multiple of the {jax.process_count()} processes.",
        )
