"""What a config must satisfy before anything expensive happens.

Each complaint is one sentence that says what to change. The model's own checks are in
seekjax/model/check.py, those of the run's numbers in seekjax/config/validate.py.
"""

import netrc
import os
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

import jax
from jax.sharding import AbstractMesh, Mesh

from seekjax.config import Config
from seekjax.config.validate import check_run
from seekjax.errors import ConfigError, RunError, SeekjaxError, need
from seekjax.extras import import_extra
from seekjax.model.check import check_context, check_model, field_of, split_sizes
from seekjax.model.experts import check_exchange, check_trainable
from seekjax.placement import use_mesh
from seekjax.quant.fp8 import BLOCK
from sharding.mesh import MeshConfig, make_mesh
from sharding.place import check_divisible
from sharding.rules import split_by


def validate(
    config: Config, mesh_of: Callable[[MeshConfig], Mesh | AbstractMesh] = make_mesh
) -> None:
    """Raise ConfigError for the first thing wrong with the model, the run, or their fit to a mesh,
    and RunError for a package or key that is missing.

    `mesh_of` makes the mesh from config.mesh; by default it is one of the devices here.
    """
    try:
        check_model(config.model)
        check_run(config)
        check_trainable(config.kernel.dispatch)
        check_exchange(config.model, config.kernel, config.mesh.node)
        check_mesh(config, mesh_of(config.mesh))
        check_writers(config)
    except SeekjaxError:
        raise
    except ValueError as error:  # sharding has its own sentences, and no ConfigError
        raise ConfigError(str(error)) from error


def check_mesh(config: Config, mesh: Mesh | AbstractMesh) -> None:
    """Raise ValueError if the mesh splits an axis into parts of different sizes, and ConfigError
    if this run cannot split its sequences.
    """
    check_context(config, mesh.shape["context"])
    rows = config.train.rows
    sizes = {"batch": rows, **split_sizes(config.model)}
    settings = {axis: field_of(config.model, axis) for axis in sizes}
    settings["batch"] = "train.micro_batch (train.batch where that is 0)"
    with use_mesh(mesh):
        check_divisible(sizes, settings, dict(mesh.shape))
        check_fp8_tiles(config)

        processes = jax.process_count()
        need(
            split_by("batch") % processes == 0,
            f"the mesh splits a batch into {split_by('batch')} parts, which {processes} processes "
            "cannot share, each with sequences of its own: give the axes before mesh.context more "
            "devices.",
        )

    if config.data.workers and jax.process_count() > 1:
        need(
            rows % jax.process_count() == 0,
            f"{settings['batch']} must be a multiple of the {jax.process_count()} processes.",
        )


def check_fp8_tiles(config: Config) -> None:
    """Raise ConfigError if the mesh in use cuts experts through a tile of FP8.

    Each device rounds its own part of an expert by its own tiles.
    """
    model, parts = config.model, split_by("expert_hidden")
    has_experts = model.layers > model.dense_layers
    if config.kernel.dtype != "fp8" or parts == 1 or not has_experts:
        return
    width = model.expert_hidden // parts
    need(
        width % BLOCK == 0,
        f"the mesh cuts model.expert_hidden {model.expert_hidden} into parts of {width}, and "
        f"kernel.dtype fp8 needs parts of a multiple of {BLOCK}: split it into fewer parts.",
    )


def check_writers(config: Config) -> None:
    """Raise RunError if the package of a writer of metrics is missing, or its key."""
    if config.tensorboard:
        import_extra("tensorboardX", "tensorboard", "--tensorboard", RunError)
    if not config.wandb:
        return
    import_extra("wandb", "wandb", "--wandb", RunError)
    need(
        _has_wandb_key(),
        "--wandb has no key: run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline to "
        "keep the record in the run's folder.",
        RunError,
    )


def _has_wandb_key() -> bool:
    """Return whether Weights & Biases needs no key here, or has one where it looks for it."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return True
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    files = [os.environ.get("NETRC"), "~/.netrc", "~/_netrc"]
    for file in filter(None, files):
        with suppress(OSError, netrc.NetrcParseError):
            if host in netrc.netrc(os.path.expanduser(file)).hosts:
                return True
    return False
