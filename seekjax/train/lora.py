"""Low-rank adapters (LoRA, 2106.09685): the weights stay as they are, and what learns is a small
product added to each matrix.

    # a: [..., inputs, rank], normal; b: [..., rank, outputs], zero at first, so that the model
    # begins as it was
    w + alpha / rank * a b

A matrix may be stacked, one per layer and expert, and have several axes on either side, as "layers
q_latent heads nope". The adapters are the parameters of the run, `frozen["base"]` the weights;
whatever else a stage freezes, a reference for instance, are copies of the adapters.
"""

from typing import Any

import jax

from seekjax.config import Config
from seekjax.model.lora import adapter_axes, adapters, merge
from seekjax.train.optimizer import make_optimizer
from seekjax.train.state import RunSpec, TrainState


def make_plan(config: Config, frozen: tuple[str, ...] = ()) -> RunSpec:
    """The plan of a run: of all its weights, or of adapters where config.lora asks for them."""
    return (Adapted if config.lora.rank else RunSpec)(config, frozen)


class Adapted(RunSpec):
    """A plan whose parameters are adapters, {"expert_layers": {"attention": {"w_dq": {"a", "b"},
    ...}}}, beside frozen weights."""

    def __init__(self, config: Config, frozen: tuple[str, ...] = ()):
        super().__init__(config, frozen)
        self.base_axes = self.axes["params"]
        self.axes = self.axes | {"params": adapter_axes(self.base_axes, config.lora)}
        self.optimizer = make_optimizer(config, self.axes["params"])

    def begin(self, params: Any) -> TrainState:
        state = super().begin(
            adapters(params, self.base_axes, self.config.lora, self.config.train.seed)
        )
        return state.replace(frozen=state.frozen | {"base": params})

    def weights(self, params: Any, frozen: Any) -> Any:
        return merge(frozen["base"], params, self.base_axes, self.config.lora)

    def state_axes(self) -> TrainState:
        axes = super().state_axes()
        return axes.replace(frozen=axes.frozen | {"base": self.base_axes})

    def about(self) -> str:
        """How much learns."""
        own, all_of = (
            sum(x.size for x in jax.tree.leaves(tree))
            for tree in (self.shape.params, self.shape.frozen["base"])
        )
        return (
            f"adapters of rank {self.config.lora.rank}: {own:,} parameters beside {all_of:,} "
            "that stay as they are, prediction modules included"
        )
