"""Optional packages, each installed by an extra of this project: `pip install 'seekjax[EXTRA]'`."""

import importlib
from types import ModuleType

from seekjax.errors import SeekjaxError


def import_extra(
    module: str,
    extra: str,
    purpose: str,
    error: type[SeekjaxError],
) -> ModuleType:
    """Import a module of an optional package.

    Raises `error` with the sentence of `missing_extra` if the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as failure:
        package = module.partition(".")[0]
        raise missing_extra(purpose, package, extra, error) from failure


def missing_extra(
    purpose: str, package: str, extra: str, error: type[SeekjaxError]
) -> SeekjaxError:
    """Return the error for a missing package; `purpose` is the singular noun that needs it."""
    return error(f"{purpose} needs the package {package}: pip install 'seekjax[{extra}]'.")
