"""AdamW as DeepSeek trained with it, and Muon for the matrices (V3 section 4.2; Muon:
2502.16982)."""

from typing import Any

import jax
import optax

from seekjax.config import Config
from seekjax.model.axes import decays, matrix
from seekjax.train.schedule import learning_rate


def make_optimizer(config: Config, axes: Any) -> optax.GradientTransformation:
    """Clip by global norm, scale by Adam or Muon, decay, follow the learning rate. `axes`: the
    logical axes of each parameter."""
    o = config.optimizer
    scale = optax.scale_by_adam(o.beta1, o.beta2, o.eps)
    if (
        o.name == "muon"
        # a rate of -1 cancels the sign that Muon brings along: decay and rate follow below, as for
        # Adam
    ):
        scale = optax.contrib.muon(
            -1.0,
            beta=0.95,
            consistent_rms=0.2,
            adam_b1=o.beta1,
            adam_b2=o.beta2,
            eps=o.eps,
            muon_weight_dimension_numbers=jax.tree.map(matrix, axes),
        )
    return optax.chain(
        optax.clip_by_global_norm(o.clip),
        scale,
        optax.add_decayed_weights(o.weight_decay, jax.tree.map(decays, axes)),
        optax.scale_by_learning_rate(learning_rate(config)),
    )
