"""The real engine over the smallest random model, with one token per byte and with drafts."""

from dataclasses import replace

import jax
import numpy as np

from seekjax.generate.engine.engine import Engine, EngineSettings
from seekjax.model.abstract import named_variables
from seekjax.model.init import init_params
from sharding.place import axes_of, unbox
from tests.fixtures import ONE_LAYER, PLAIN

MODEL = replace(ONE_LAYER, vocab=320, context=1024, mtp_depth=1)
# programs of one size
SETTINGS = EngineSettings(page_size=16, pages=80, max_batch=1, chunk=64, slots=1024, draft=True)


def tiny_engine() -> Engine:
    """A compiled engine, in about ten CPU seconds."""
    named = named_variables(MODEL)
    axes, shapes = axes_of(named), unbox(named)
    params = init_params(MODEL, shapes["params"], axes["params"], 0)
    balance = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes["balance"])
    engine = Engine(MODEL, {"params": params, "balance": balance}, PLAIN, SETTINGS)
    engine.compile()
    return engine
