"""Runs that train part of a model: low-rank adapters (LoRA, 2106.09685), or chosen experts (ESFT).

    w + alpha / rank * a b      a: [..., inputs, rank], normal; b: [..., rank, outputs], zero

b is zero at first, so that the model begins as it was. The adapters are the parameters of the run,
`frozen["base"]` the weights; other frozen weights, such as a reference, are copies of the adapters.
seekjax/model/lora.py has the functions on arrays.

A checkpoint holds the adapters and names the weights that they belong to, those of config.init
(seekjax/checkpoint/base.py). It holds all weights if these are nowhere else: a run from random
weights, or from a run of adapters, which exists merged in memory alone.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seekjax.axes import stacks_experts
from seekjax.checkpoint import base
from seekjax.checkpoint.base import Base, read_base_record
from seekjax.config import Config
from seekjax.model.lora import adapter_axes, adapters, merge
from seekjax.open import OpenedModel, is_of_adapters, read_base
from seekjax.train.optimizer import make_optimizer
from seekjax.train.state import Params, RunSpec, TrainState


def make_spec(config: Config, frozen: tuple[str, ...] = ()) -> RunSpec:
    """Return the spec of a run: of all its weights, or of adapters if config.lora has a rank."""
    if config.lora.rank:
        return Adapted(config, frozen)
    return RunSpec(config, frozen)


class Adapted(RunSpec):
    """A spec whose parameters are adapters next to frozen weights.

    The parameters are {"expert_layers": {"attention": {"w_dq": {"a", "b"}, ...}}}.
    """

    def __init__(self, config: Config, frozen: tuple[str, ...] = ()):
        super().__init__(config, frozen)
        self.base_axes = self.axes["params"]
        self.axes = self.axes | {"params": adapter_axes(self.base_axes, config.lora)}
        self.optimizer = make_optimizer(config, self.axes["params"])
        self._merge = jax.jit(self.weights)
        self.base: Base | None = None  # None: checkpoints hold all weights

    def begin(self, params: Params) -> TrainState:
        """Return the state around new weights, which are frozen, and their first adapters."""
        config = self.config
        state = super().begin(adapters(params, self.base_axes, config.lora, config.train.seed))
        return state.replace(frozen=state.frozen | {"base": params})

    def weights(self, params: Params, frozen: Any) -> Params:
        """Return the frozen weights with the adapters added."""
        return merge(frozen["base"], params, self.base_axes, self.config.lora)

    def variables(self, state: TrainState) -> dict[str, Any]:
        """Return {"params", "balance"} as the model takes them, merged by one program."""
        params = self._merge(state.params, {"base": state.frozen["base"]})
        return {"params": params, "balance": state.balance}

    def state_axes(self) -> TrainState:
        """Return the logical axes of every array of the state."""
        axes = super().state_axes()
        return axes.replace(frozen=axes.frozen | {"base": self.base_axes})

    def record_base(self, opened: OpenedModel, state: TrainState) -> None:
        """Note which weights this run starts from: its checkpoints name them."""
        if is_of_adapters(opened):
            return
        step = int(opened.step.name) if opened.step else None
        run = self.config.out or Path()
        weights = state.frozen["base"]
        self.base = base.base_of(
            opened.folder, step, self.config.kernel.compute_dtype, run, weights
        )

    def saved(self, state: TrainState) -> TrainState:
        """Return the part of a state that a checkpoint holds: without the weights that it names."""
        return state if self.base is None else _without_base(state)

    def files_of_step(self) -> dict[str, str]:
        """Return the file that names the weights."""
        return {} if self.base is None else {base.NAME: self.base.text}

    def abstract_like(self, saved: Any) -> TrainState:
        """Return the abstract state in the form of a saved tree, with or without the weights."""
        abstract = super().abstract_like(saved)
        holds_base = "base" in (saved.get("frozen") or {})
        return abstract if holds_base else _without_base(abstract)

    def completed(self, state: TrainState, step: Path) -> TrainState:
        """Return the state of a restored step with the weights that it names.

        Raises RunError or WeightsError if these are gone, or are others than they were.
        """
        state = super().completed(state, step)
        self.base = read_base_record(step)
        if self.base is None:
            return state
        config = self.config
        weights = read_base(self.base, step.parents[1], config.init, "--init", config.trust)
        weights = jax.device_put(weights, self.shardings().frozen["base"])
        return state.replace(frozen=state.frozen | {"base": weights})

    def trained(self) -> list[str]:
        """Return a line on how many parameters are trained."""
        trained = sum(x.size for x in jax.tree.leaves(self.shape.params))
        frozen = sum(x.size for x in jax.tree.leaves(self.shape.frozen["base"]))
        return [
            f"learning: adapters of rank {self.config.lora.rank}: {trained:,} parameters next to "
            f"{frozen:,} that stay as they are, prediction modules included"
        ]


def _without_base(state: TrainState) -> TrainState:
    """Return a state, or one of shapes, without the frozen weights."""
    others = {name: tree for name, tree in state.frozen.items() if name != "base"}
    return state.replace(frozen=others)


EXPERT_STACK = "expert_layers"  # the part of the model that holds its routed experts


class Chosen(RunSpec):
    """A spec in which only chosen experts are trained (ESFT, 2407.01906).

    Every other weight gets no gradient and no decay, and keeps its bits.
    """

    def __init__(self, config: Config):
        super().__init__(config)
        self._chosen_LE: np.ndarray | None = None
        train_all = self.optimizer

        def update(updates, state, params=None):
            updates, state = train_all.update(updates, state, params)
            return jax.tree.map(lambda x, mask: jnp.where(mask, x, 0), updates, self.mask()), state

        self.optimizer = optax.GradientTransformation(train_all.init, update)

    @property
    def chosen_LE(self) -> np.ndarray:
        """Bool [L, E]: the experts to train. `choose` must come before the first step is traced."""
        assert self._chosen_LE is not None, "the experts are not chosen yet"
        return self._chosen_LE

    @property
    def is_chosen(self) -> bool:
        """Return whether the experts are chosen."""
        return self._chosen_LE is not None

    def choose(self, chosen_LE: np.ndarray) -> None:
        """Set the experts to train."""
        self._chosen_LE = chosen_LE

    def mask(self) -> Any:
        """Return for every weight whether it is trained, in a shape that broadcasts to it."""

        def mask_of(path: tuple, axes: str) -> np.ndarray:
            if path[0].key == EXPERT_STACK and stacks_experts(axes):
                rank = len(axes.split())
                return np.expand_dims(self.chosen_LE, tuple(range(2, rank)))
            return np.zeros((), bool)

        return jax.tree_util.tree_map_with_path(mask_of, self.axes["params"])

    def weights(self, params: Params, frozen: Any) -> Params:
        """Return the weights, with a gradient for the chosen experts alone."""

        def trained(x: jax.Array, mask: np.ndarray) -> jax.Array:
            stopped = jax.lax.stop_gradient(x)
            return jnp.where(mask, x, stopped) if mask.any() else stopped

        return jax.tree.map(trained, params, self.mask())
