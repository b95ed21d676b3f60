"""Everything that changes during a run, and where each array of it lives."""

from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from seekjax.config import Config
from seekjax.model.init import draw
from seekjax.model.transformer import Transformer
from seekjax.train.optimizer import make_optimizer
from sharding.place import axes_of, unbox
from sharding.rules import sharding, split_by


class TrainState(struct.PyTreeNode):
    step: jax.Array  # optimizer steps done, int32
    params: Any
    balance: Any  # routing biases, float32; no gradient reaches them
    opt_state: optax.OptState
    key: jax.Array  # root of the run's randomness: fold in the step, never reuse
    ema: Any  # moving average of params, or None
    # weights no gradient reaches, by what they are for, as {"reference": ...}; {} in pre-training
    frozen: Any


class RunSpec:
    """The parts of a run that its config alone decides: model, optimizer, initial state, and the
    sharding of each array."""

    def __init__(self, config: Config, frozen: tuple[str, ...] = ()):
        """frozen: names of copies of the first weights to keep beside those that learn."""
        self.config, self.frozen = config, frozen
        self.model = Transformer(config.model, config.kernel)
        self.variables = jax.eval_shape(self._variables, jax.random.key(0))
        self.axes = axes_of(self.variables)
        self.optimizer = make_optimizer(config, self.axes["params"])

    def begin(self, params: Any) -> TrainState:
        """The state around new weights."""
        balance = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), unbox(self.variables).get("balance", {})
        )
        return TrainState(
            jnp.zeros((), jnp.int32),
            params,
            balance,
            self.optimizer.init(params),
            jax.random.key(self.config.train.seed),
            jax.tree.map(jnp.copy, params) if self.config.train.ema else None,
            {name: jax.tree.map(jnp.copy, params) for name in self.frozen},
        )

    def weights(self, params: Any, frozen: Any) -> Any:
        """The model's weights, from those that learn and those that do not."""
        return params

    @cached_property
    def shape(self) -> TrainState:
        """Shapes and types of the state, with nothing allocated."""
        return jax.eval_shape(self.begin, unbox(self.variables)["params"])

    def state_axes(self) -> TrainState:
        """The logical axes of every array of the state; moments have those of their parameter."""
        named = {
            jax.tree_util.keystr(path): axes
            for path, axes in jax.tree_util.tree_leaves_with_path(self.axes["params"])
        }

        def axes_of_moment(
            path, _
        ):  # its path ends in that of its parameter; what belongs to none, as a count, is whole
            return next(
                (axes for end, axes in named.items() if jax.tree_util.keystr(path).endswith(end)),
                "",
            )

        moments = jax.tree_util.tree_map_with_path(axes_of_moment, self.shape.opt_state)
        return TrainState(
            "",
            self.axes["params"],
            self.axes.get("balance", {}),
            moments,
            "",
            self.axes["params"] if self.shape.ema else None,
            dict.fromkeys(self.frozen, self.axes["params"]),
        )

    def shardings(self) -> TrainState:
        """Where each array of the state lives on the mesh in use."""
        return jax.tree.map(sharding, self.state_axes())

    def abstract_state(self) -> TrainState:
        """Shapes, types and shardings: what a restore or an ahead-of-time compile needs."""
        return jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
            self.shape,
            self.shardings(),
        )

    def start(self, variables: dict | None = None) -> TrainState:
        """The state before the first step, each array made where it lives.

        variables: {"params", "balance"} of a model to start from, instead of random weights.
        """
        places = self.shardings()
        if variables is not None:
            return self._start_from(variables, places)

        whole, axes = unbox(self.variables)["params"], axes_of(self.variables)["params"]
        where = jax.tree.map(sharding, axes)
        params = draw(self.config.model, whole, axes, self.config.train.seed, where)
        return jax.jit(self.begin, out_shardings=places, donate_argnums=0)(params)

    def _start_from(self, variables: dict, places: TrainState) -> TrainState:
        def begin(params, balance):
            return self.begin(params).replace(balance=balance)

        def cast(x, wanted):
            return x.astype(wanted.dtype)

        params = jax.tree.map(cast, variables["params"], unbox(self.variables)["params"])
        start = jax.jit(begin, out_shardings=places, donate_argnums=0)
        return start(params, variables["balance"])

    def _variables(self, key: jax.Array) -> Any:
        shape = (
            split_by("batch"),
            self.config.data.sequence,
        )  # the smallest batch that every device has a part of; only traced
        return self.model.init(key, jnp.zeros(shape, jnp.int32))
