"""Everything that changes during a run, and where each array of it lives."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from seekjax.config import Config
from seekjax.model.transformer import Transformer
from sharding.place import axes_of, unbox
from sharding.rules import sharding, split_by

from .optimizer import make_optimizer


class TrainState(struct.PyTreeNode):
    step: jax.Array  # optimizer steps done, int32
    params: Any
    balance: Any  # routing biases, float32; no gradient reaches them
    opt_state: optax.OptState
    key: jax.Array  # root of the run's randomness: fold in the step, never reuse
    ema: Any  # moving average of params, or None


class Plan:
    """The parts of a run that its config alone decides: model, optimizer, initial state, and the sharding of each array."""

    def __init__(self, config: Config):
        self.config = config
        self.model = Transformer(config.model, config.kernel)
        self.variables = jax.eval_shape(self._variables, jax.random.key(0))
        self.axes = axes_of(self.variables)
        self.optimizer = make_optimizer(config, self.axes["params"])

    def init(self, key: jax.Array) -> TrainState:
        """The state before the first step."""
        variables = unbox(self._variables(key))
        params = variables["params"]
        return TrainState(jnp.zeros((), jnp.int32), params, variables.get("balance", {}), self.optimizer.init(params), key,
                          jax.tree.map(jnp.copy, params) if self.config.train.ema else None)

    def state_axes(self) -> TrainState:
        """The logical axes of every array of the state; moments have those of their parameter."""
        shape = jax.eval_shape(self.init, jax.random.key(0))
        moments = optax.tree_utils.tree_map_params(self.optimizer, lambda _, axes: axes, shape.opt_state, self.axes["params"],
                                                   transform_non_params=lambda _: "")
        return TrainState("", self.axes["params"], self.axes.get("balance", {}), moments, "", self.axes["params"] if shape.ema else None)

    def abstract_state(self) -> TrainState:
        """Shapes, types and shardings on the mesh in use, with nothing allocated."""
        shape = jax.eval_shape(self.init, jax.random.key(0))
        return jax.tree.map(lambda x, axes: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(axes)), shape, self.state_axes())

    def _variables(self, key: jax.Array) -> Any:
        shape = split_by("batch"), self.config.data.sequence  # the smallest batch that every device has a part of; only traced
        return self.model.init(key, jnp.zeros(shape, jnp.int32))
