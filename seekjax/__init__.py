"""DeepSeek in JAX, end to end.

Start reading at train.py; the model is in seekjax/model, and sharding/ says where arrays live. The
names below are the public ones; everything else may change from version to version.
"""

import importlib
from typing import TYPE_CHECKING, Any

from seekjax.version import __version__

if TYPE_CHECKING:
    from seekjax.config import Config
    from seekjax.generate.generator import Generator
    from seekjax.generate.sampling import Sampling
    from seekjax.open import open_model
    from seekjax.post.kinds import fit

__all__ = ["Config", "Generator", "Sampling", "__version__", "fit", "open_model"]

_HOMES = {
    "Config": "seekjax.config",
    "Generator": "seekjax.generate.generator",
    "Sampling": "seekjax.generate.sampling",
    "fit": "seekjax.post.kinds",
    "open_model": "seekjax.open",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import seekjax` does not import JAX."""
    if name not in _HOMES:
        raise AttributeError(f"module 'seekjax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
