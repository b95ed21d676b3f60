"""One transformer layer, and a scanned stack of them."""

import flax.linen as nn
import jax

from seekjax.config import ModelConfig
from seekjax.model.attention import LatentAttention, MultiHeadAttention, attend_absorbed
from seekjax.model.experts import FeedForward, MixtureOfExperts
from seekjax.model.module import Weighted, rms_norm

ATTENTION = {"mla": LatentAttention, "mha": MultiHeadAttention}

REMAT = {  # what the backward pass finds in memory; the rest it computes again
    "product": jax.checkpoint_policies.save_only_these_names(
        "latent", "product"
    ),  # but not "up": what a latent is made up to is cheap
    "latent": jax.checkpoint_policies.save_only_these_names("latent"),
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Block(Weighted):
    """x + attention(norm(x)), then x + ffn(norm(x)); the FFN is dense or a mixture of experts."""

    dense: bool = False
    attend: object = attend_absorbed

    @nn.compact
    def __call__(self, x_BTD, cache, angle, segment_BT, mask_BT, start, choice_BTK=None):
        m = self.model
        h_BTD = rms_norm(x_BTD, self.scale("attention_norm", "embed"), m.norm_eps)
        y_BTD, cache = self.build(ATTENTION[m.attention], name="attention")(
            h_BTD, angle, segment_BT, cache, start, self.attend
        )
        x_BTD += y_BTD
        h_BTD = rms_norm(x_BTD, self.scale("ffn_norm", "embed"), m.norm_eps)
        if self.dense:
            y_BTD, balance = self.build(FeedForward, width=m.hidden, name="ffn")(h_BTD), {}
        else:
            y_BTD, balance = self.build(MixtureOfExperts, name="ffn")(h_BTD, mask_BT, choice_BTK)
        return x_BTD + y_BTD, (cache, balance)


def rematted(kernel) -> type[Block]:
    """Block under the config's recomputation policy."""
    return (
        Block
        if kernel.remat == "none"
        else nn.remat(Block, policy=REMAT[kernel.remat], prevent_cse=False)
    )


def stacked(kernel, layers: int) -> type[Block]:
    """So many Blocks with their weights stacked, run by a scan: compile time does not grow with
    depth."""
    return nn.scan(
        rematted(kernel),
        length=layers,
        in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast, 0),
        variable_axes={"params": 0, "balance": 0},
        split_rngs={"params": True},
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


def unstack(model: ModelConfig, tree: dict, consume: bool = False) -> dict:
    """A tree of variables, or of anything with their stacks, with each layer's arrays apart:
    "expert_layers" becomes "expert_layers_0" and on.

    A decoding step reads every weight once, so it must not first copy its layer out of a stack, as
    a scan does. `consume` frees each array of a stack once its layers are copied, so that there is
    never a second whole.
    """
    stacks = {
        "dense_layers": model.dense_layers,
        "expert_layers": model.layers - model.dense_layers,
    }
    apart = {}
    for name, layers in stacks.items():
        leaves, structure = jax.tree.flatten(tree.get(name, {}))
        columns = []
        for x in leaves:
            columns.append(_layers_of(x))
            if consume:
                jax.block_until_ready(columns[-1])
                x.delete()
        if leaves:
            apart |= {
                f"{name}_{layer}": structure.unflatten(column)
                for layer, column in enumerate(zip(*columns))
            }
    return {name: part for name, part in tree.items() if name not in stacks} | apart


@jax.jit
def _layers_of(x: jax.Array) -> list[jax.Array]:
    """The layers of a stack, by one program."""
    return [x[layer] for layer in range(len(x))]
