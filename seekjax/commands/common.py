"""What several commands share."""

import os
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

import tyro

from seekjax.commands.options import note, read_options
from seekjax.commands.renamed import current_flags
from seekjax.storage import writable_cache

Flat = tyro.conf.OmitArgPrefixes
Options = TypeVar("Options")


def parse_options(kind: type[Options], command: str, argv: list[str]) -> Options:
    """Return the options of a command as its dataclass.

    Exits with status 0 after --help, and with 2 and the nearest name if an option does not exist.
    """
    words, notices = current_flags(argv, {f"--{name}" for name in _switches(kind)})
    note(notices)
    return read_options(kind, words, f"seekjax {command}")


def _switches(kind: Any) -> list[str]:
    """Return the boolean options of a dataclass and of the flat parts in it."""
    hints = get_type_hints(kind)
    names = []
    for field in fields(kind):
        if is_dataclass(hints[field.name]):
            names += _switches(hints[field.name])
        elif hints[field.name] is bool:
            names.append(field.name.replace("_", "-"))
    return names


def keep_compiled() -> None:
    """Keep compiled programs in the cache folder, so that the next start takes seconds less.

    JAX_COMPILATION_CACHE_DIR names another folder, or turns the cache off if it is empty.
    """
    import jax  # takes a second, which a wrong option should not

    folder = None
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = writable_cache("compiled")
    if folder is not None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
