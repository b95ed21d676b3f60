"""What several commands share."""

import os

import jax
import tyro

from seekjax.storage import cache_folder

Flat = tyro.conf.OmitArgPrefixes


def keep_compiled() -> None:
    """Programs compiled by one command serve the next: a start takes seconds less.
    JAX_COMPILATION_CACHE_DIR says where else, or nowhere."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
