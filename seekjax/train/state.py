"""Everything that changes during a run, and where each array of it lives."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from seekjax.config import Config
from seekjax.model.abstract import named_variables
from seekjax.model.init import init_params
from seekjax.model.transformer import Transformer
from seekjax.open import OpenedModel
from seekjax.seeds import root_key
from seekjax.train.optimizer import make_optimizer
from seekjax.train.skip import Recent, no_recent
from sharding.place import axes_of, unbox
from sharding.rules import sharding

Leaf = Any  # an array; in a state of shapes, axes or shardings, that of the array
Params = Any  # nested dicts of leaves
Axes = Any  # nested dicts of logical axes, as "embed heads nope"


class TrainState(struct.PyTreeNode):
    """All arrays of a run."""

    step: Leaf  # optimizer steps done, int32
    params: Params
    balance: Any  # routing biases, float32; no gradient reaches them
    opt_state: Any  # of the parts of the optimizer
    key: Leaf  # root of the run's randomness: fold in the step, never reuse
    ema: Params | None  # moving average of params, if the run keeps one
    frozen: Any  # weights without a gradient, by purpose, as {"reference": ...}; {} in pre-training

    @property
    def averaged(self) -> Params:
        """The weights to evaluate: their moving average if the run keeps one."""
        return self.params if self.ema is None else self.ema


class RunSpec:
    """What a run's config alone decides: model, optimizer, first state, and sharding.

    frozen: names of copies of the first weights to keep next to those that are trained.
    """

    def __init__(self, config: Config, frozen: tuple[str, ...] = ()):
        self.config = config
        self.frozen = frozen
        self.model = Transformer(config.model, config.kernel)
        self.abstract_variables = named_variables(config.model)
        self.axes = axes_of(self.abstract_variables)
        self.optimizer = make_optimizer(config, self.axes["params"])

    def begin(self, params: Params) -> TrainState:
        """Return the state around new weights."""
        shapes = unbox(self.abstract_variables).get("balance", {})
        balance = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

        def copy() -> Params:
            return jax.tree.map(jnp.copy, params)

        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            balance=balance,
            opt_state=self.optimizer.init(params),
            key=root_key(self.config.train.seed),
            ema=copy() if self.config.train.ema else None,
            frozen={name: copy() for name in self.frozen},
        )

    def weights(self, params: Params, frozen: Any) -> Params:
        """Return the model's weights, from those that are trained and those that are not."""
        return params

    def variables(self, state: TrainState) -> dict[str, Any]:
        """Return {"params", "balance"} as the model takes them."""
        return {"params": self.weights(state.params, state.frozen), "balance": state.balance}

    def trained(self) -> list[str]:
        """Return a line on what is trained, if that is not everything."""
        return []

    @cached_property
    def shape(self) -> TrainState:
        """Shapes and types of the state, with nothing allocated."""
        return jax.eval_shape(self.begin, unbox(self.abstract_variables)["params"])

    def state_axes(self) -> TrainState:
        """Return the logical axes of every array of the state."""
        axes = self.axes["params"]
        return TrainState(
            step="",
            params=axes,
            balance=self.axes.get("balance", {}),
            opt_state=moment_axes(self.shape.opt_state, self.shape.params, axes),
            key="",
            ema=axes if self.shape.ema else None,
            frozen=dict.fromkeys(self.frozen, axes),
        )

    def shardings(self) -> TrainState:
        """Return where each array of the state lives on the mesh in use."""
        return jax.tree.map(sharding, self.state_axes())

    def abstract_state(self) -> TrainState:
        """Return shapes, types and shardings: what a restore or an ahead-of-time compile needs."""

        def placed(x, place):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)

        return jax.tree.map(placed, self.shape, self.shardings())

    def abstract_like(self, saved: Any) -> TrainState:
        """Return the abstract state in the form of a saved tree of arrays.

        It may have been saved by a run that looked for spikes while this one does not, or the other
        way round: `completed` brings the restored state into this run's form.
        """
        abstract = self.abstract_state()
        paths = jax.tree_util.tree_leaves_with_path(saved)
        was_looking = any(jax.tree_util.keystr(path).endswith("recent']") for path, _ in paths)
        if was_looking == bool(self.config.train.spike):
            return abstract
        if not was_looking:
            return abstract.replace(opt_state=abstract.opt_state[:-1])

        shape = jax.eval_shape(no_recent).recent
        recent = jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding(""))
        return abstract.replace(opt_state=(*abstract.opt_state, Recent(recent)))

    def saved(self, state: TrainState) -> TrainState:
        """Return the part of a state that a checkpoint holds."""
        return state

    def files_of_step(self) -> dict[str, str]:
        """Return the texts of further files of a checkpoint, by their names."""
        return {}

    def completed(self, state: TrainState, step: Path) -> TrainState:
        """Return the state of a restored step with all that this run needs.

        It may be with or without recent updates.
        """
        is_looking = isinstance(state.opt_state[-1], Recent)
        if is_looking == bool(self.config.train.spike):
            return state
        if is_looking:
            return state.replace(opt_state=state.opt_state[:-1])
        recent = jax.device_put(no_recent(), sharding(""))
        return state.replace(opt_state=(*state.opt_state, recent))

    def record_base(self, opened: OpenedModel, state: TrainState) -> None:
        """Note which weights this run starts from, if its checkpoints name them."""

    def start(self, variables: dict | None = None) -> TrainState:
        """Return the state before the first step, each array made where it lives.

        variables: {"params", "balance"} of a model to start from, instead of random weights.
        """
        begin = compile_begin(self)
        shapes = unbox(self.abstract_variables)["params"]
        if variables is None:
            axes = axes_of(self.abstract_variables)["params"]
            where = jax.tree.map(sharding, axes)
            return begin(
                init_params(self.config.model, shapes, axes, self.config.train.seed, where)
            )

        def cast(x, wanted):
            return x.astype(wanted.dtype)

        params = jax.tree.map(cast, variables["params"], shapes)
        return begin(params, variables["balance"])


def compile_begin(spec: RunSpec) -> Callable[..., TrainState]:
    """Return the jitted state around weights, which it donates, and biases if they are given."""

    def begin(params: Params, balance: Any = None) -> TrainState:
        state = spec.begin(params)
        return state if balance is None else state.replace(balance=balance)

    return jax.jit(begin, out_shardings=spec.shardings(), donate_argnums=0)


def moment_axes(
    opt_state: optax.OptState,
    params: Params,
    axes: Axes,
) -> Any:
    """Return the logical axes of every array of an optimizer's state.

    A moment with the shape of its weight has the weight's axes. Anything else, such as a step
    count or a factored moment, is whole on every device. (optax.tree.map_params does not serve:
    it initialises the optimizer with placeholders, which Muon's choice of weights rejects.)
    """

    def is_params(part: Any) -> bool:
        return isinstance(part, dict) and part.keys() == axes.keys()

    def of_weight(
        names: str,
        weight: jax.ShapeDtypeStruct,
        moments: Any,
    ) -> Any:
        def of_moment(moment):
            return names if moment.shape == weight.shape else ""

        return jax.tree.map(of_moment, moments)

    def of_part(part: Any) -> Any:
        return jax.tree.map(of_weight, axes, params, part) if is_params(part) else ""

    return jax.tree.map(of_part, opt_state, is_leaf=is_params)
