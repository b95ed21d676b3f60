"""One transformer layer, and a scanned stack of layers."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax import Array

from seekjax.config import KernelConfig, ModelConfig
from seekjax.model.attention import ATTENTION, attend_absorbed
from seekjax.model.experts import FeedForward, MixtureOfExperts
from seekjax.model.module import Module, rms_norm

# What the forward pass saves for the backward pass, which computes the rest again. "product" does
# not save "up", the arrays that a latent is projected up to, because they are cheap.
REMAT = {
    "product": jax.checkpoint_policies.save_only_these_names("latent", "product"),
    "latent": jax.checkpoint_policies.save_only_these_names("latent"),
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Block(Module):
    """x + attention(norm(x)), then x + ffn(norm(x)); the FFN is dense or a mixture of experts."""

    dense: bool = False
    attend: Callable | None = attend_absorbed

    @nn.compact
    def __call__(
        self,
        x_BTD: Array,
        cache: dict | None,
        angle: tuple[Array, Array],
        segment_BT: Array | None,
        mask_BT: Array,
        start: Any,
        choice_BTK: Array | None = None,
    ) -> tuple[Array, tuple[dict | None, dict]]:
        """Return the output, and the cache with the balance of the experts, {} if dense."""
        eps = self.model.norm_eps

        h_BTD = rms_norm(x_BTD, self.scale("attention_norm", "embed"), eps)
        kind = ATTENTION.find(self.model.attention)
        attention = self.build(kind, name="attention")
        y_BTD, cache = attention(h_BTD, angle, segment_BT, cache, start, self.attend)
        x_BTD += y_BTD

        h_BTD = rms_norm(x_BTD, self.scale("ffn_norm", "embed"), eps)
        if self.dense:
            ffn = self.build(FeedForward, width=self.model.hidden, name="ffn")
            y_BTD, balance = ffn(h_BTD), {}
        else:
            experts = self.build(MixtureOfExperts, name="ffn")
            y_BTD, balance = experts(h_BTD, mask_BT, choice_BTK)
        return x_BTD + y_BTD, (cache, balance)


def rematted(kernel: KernelConfig) -> type[Block]:
    """Return Block under the config's recomputation policy."""
    if kernel.remat == "none":
        return Block
    return nn.remat(Block, policy=REMAT[kernel.remat], prevent_cse=False)


def stacked(kernel: KernelConfig, layers: int) -> type[Block]:
    """Return a stack of Blocks whose weights are stacked too.

    A scan runs them: compile time does not grow with depth.
    """
    # the cache and the choice of experts have an axis of layers, everything else is shared
    shared = [nn.broadcast] * 4
    in_axes: Any = (0, *shared, 0)
    return nn.scan(
        rematted(kernel),
        length=layers,
        in_axes=in_axes,
        variable_axes={"params": 0, "balance": 0, "placement": 0},
        split_rngs={"params": True},
        metadata_params={nn.PARTITION_NAME: "layers"},
        # the check traces every block a second time, and nothing here is a constant of the loop
        check_constancy_invariants=False,
    )


def unstack(
    model: ModelConfig,
    tree: dict,
    consume: bool = False,
) -> dict:
    """Return a tree of variables, or of anything with their stacks, with one entry per layer.

    "expert_layers" becomes "expert_layers_0" and so on. A decoding step reads every weight once, so
    it must not first copy its layer out of a stack, as a scan does. `consume` frees each array of a
    stack once its layers are copied, so that the tree is never in memory twice.
    """
    result = dict(tree)
    for name, layers in model.stacks.items():
        stack = result.pop(name, {})
        leaves, structure = jax.tree.flatten(stack)
        if not leaves:
            continue
        if consume:
            columns = [_consumed(x) for x in leaves]
        else:
            columns = _layers_of(leaves)
        for layer in range(layers):
            layer_leaves = [column[layer] for column in columns]
            result[f"{name}_{layer}"] = structure.unflatten(layer_leaves)
    return result


def _consumed(x: Array) -> list[Array]:
    """Return the layers of a stack, and free it."""
    [layers] = jax.block_until_ready(_layers_of([x]))
    x.delete()
    return layers


@jax.jit
def _layers_of(stacks: list[Array]) -> list[list[Array]]:
    """Return the layers of each stack, by one program."""
    return [list(x) for x in stacks]
