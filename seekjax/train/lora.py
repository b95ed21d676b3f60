"""Runs that train part of a model: low-rank adapters (LoRA, 2106.09685), or chosen experts (ESFT).

    w + alpha / rank * a b      a: [..., inputs, rank], normal; b: [..., rank, outputs], zero

b is zero at first, so that the model begins as it was. The adapters are the parameters of the run,
`frozen["base"]` the weights; other frozen weights, such as a reference, are copies of the adapters.
seekjax/model/lora.py has the functions on arrays.
"""

from typing import Any

import jax

from seekjax.config import Config
from seekjax.model.lora import adapter_axes, adapters, merge
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

    def begin(self, params: Params) -> TrainState:
        """Return the state around new weights, which are frozen, and their first adapters."""
        config = self.config
        state = super().begin(adapters(params, self.base_axes, config.lora, config.train.seed))
        return state.replace(frozen=state.frozen | {"base": params})

    def weights(self, params: Params, frozen: Any) -> Params:
        """Return the frozen weights with the adapters added."""
        return merge(frozen["base"], params, self.base_axes, self.config.lora)

    def state_axes(self) -> TrainState:
        """Return the logical axes of every array of the state."""
        axes = super().state_axes()
        return axes.replace(frozen=axes.frozen | {"base": self.base_axes})

    def trained(self) -> list[str]:
        """Return a line on how many parameters are trained."""
        trained = sum(x.size for x in jax.tree.leaves(self.shape.params))
        frozen = sum(x.size for x in jax.tree.leaves(self.shape.frozen["base"]))
        return [
            f"learning: adapters of rank {self.config.lora.rank}: {trained:,} parameters next to "
            f"{frozen:,} that stay as they are, prediction modules included"
        ]
