"""The whole model: embedding, dense layers, expert layers, final norm, head, and multi-token
prediction.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from seekjax.config import ModelConfig
from seekjax.model.attention import ATTENTION, attend_absorbed
from seekjax.model.block import Block, stacked
from seekjax.model.module import Module, rms_norm
from seekjax.model.mtp import PredictionModule, ahead
from seekjax.model.rope import angles
from seekjax.quant.formats import dense, rows
from sharding.context import in_order as context_in_order
from sharding.context import lay_out
from sharding.rules import constrain, local, mesh_axes, split_by

# By name of the stack (with one more axis in front: L) or prediction module: load_E, balance_loss,
# dropped, choice_BTK, gate_BTK.
Balance = dict[str, dict[str, Array]]


class Output(NamedTuple):
    """What a forward pass returns.

    hidden_BTD is normed: logits are hidden_BTD @ head_DV, left to the caller, who may need only
    some of them.
    """

    hidden_BTD: Array
    mtp_BTD: tuple[Array, ...]  # of each prediction depth
    head_DV: Any  # an array; Quantised if it is stored so and the model is unrolled
    balance: Balance
    cache: Any


class Transformer(Module):
    """Pure: `init(key, tokens)` returns {"params", "balance"}, `apply` an Output.

    unrolled: each layer has its own weights and cache (`block.unstack`), for decoding, which reads
    each of them once.
    """

    unrolled: bool = False

    @nn.compact
    def __call__(
        self,
        tokens_BT: Array,
        segment_BT: Array | None = None,
        mask_BT: Array | None = None,
        mtp_tokens_BX: Array | None = None,
        cache: dict | None = None,
        start: Any = 0,
        attend: Callable | None = attend_absorbed,
        choice: dict[str, Array] | None = None,
        in_order: bool = True,
    ) -> Output:
        """Run T tokens.

        segment_BT     documents that a token may look within (None: everything before it)
        mask_BT        tokens of a text (None: all); the others, such as padding, visit no routed
                       expert and do not count in the balance
        mtp_tokens_BX  the tokens from position 0 on and beyond T, to run the prediction modules
        cache, start, attend    see AttentionKind
        choice         the experts that tokens visit instead of choosing, {stack: choice_BTK} as in
                       Output.balance
        in_order       False: on a mesh that splits sequences, the output's are as the devices hold
                       them (`sharding.context.held`), which saves an exchange
        """
        m = self.model
        B, T = tokens_BT.shape
        if mask_BT is None:
            mask_BT = jnp.ones((B, T), bool)
        position_BT = jnp.reshape(start, (-1, 1)) + jnp.arange(T)
        position_BT = jnp.broadcast_to(position_BT, (B, T))

        # Every token goes to the device of its position.
        lay = partial(lay_out, parts=split_by("sequence"))
        tokens_BT, mask_BT = lay(tokens_BT), lay(mask_BT)
        segment_BT = None if segment_BT is None else lay(segment_BT)
        angle = angles(m, lay(position_BT))

        # Embedding
        embed_VD = jax.tree.map(
            partial(constrain, axes="vocab -"), self.weight("embed", "vocab embed")
        )
        head_DV = self.weight("head", "embed vocab")
        if not self.unrolled:
            head_DV = dense(head_DV, self.kernel.compute_dtype)
        x_BTD = rows(embed_VD, tokens_BT, self.kernel.compute_dtype)
        x_BTD = constrain(x_BTD, "batch sequence embed")

        # Layers
        context = (angle, segment_BT, mask_BT)
        caches: dict = {}
        balance: Balance = {}
        for name, block in self.build_layers(attend).items():
            layer_cache = None if cache is None else cache[name]
            layer_choice = None if choice is None else choice.get(name)
            if layer_choice is not None:
                layer_choice = lay(layer_choice, axis=-2)
            x_BTD, (caches[name], balance[name]) = block(
                x_BTD, layer_cache, *context, start, layer_choice
            )
        hidden_BTD = rms_norm(x_BTD, self.scale("final_norm", "embed"), m.norm_eps)

        # Multi-token prediction
        if mtp_tokens_BX is None and self.is_initializing():
            mtp_tokens_BX = tokens_BT
        mtp_BTD = []
        if mtp_tokens_BX is not None:
            h_BTD = hidden_BTD
            for k in range(1, m.mtp_depth + 1):
                name = f"mtp_{k}"
                next_BT = lay(ahead(mtp_tokens_BX, k, T))
                token_BTD = rows(embed_VD, next_BT, self.kernel.compute_dtype)
                token_BTD = constrain(token_BTD, "batch sequence embed")
                module = self.build(PredictionModule, name=name)
                h_BTD, (_, balance[name]) = module(h_BTD, token_BTD, *context)
                mtp_BTD.append(h_BTD)

        output = Output(
            hidden_BTD,
            tuple(mtp_BTD),
            head_DV,
            balance={name: figures for name, figures in balance.items() if figures},
            cache=None if cache is None else caches,
        )
        return ordered(output) if in_order else output

    def build_layers(self, attend: Callable | None) -> dict[str, Block]:
        """Return the dense layers, then the expert layers, by name.

        Each stack is one scanned Block, or one Block per layer if the model is unrolled.
        """
        blocks = {}
        for stack, layers in self.model.stacks.items():
            dense = stack == "dense_layers"
            if self.unrolled:
                kind = Block
                names = [f"{stack}_{layer}" for layer in range(layers)]
            else:
                kind = stacked(self.kernel, layers)
                names = [stack]
            for name in names:
                blocks[name] = self.build(kind, dense=dense, attend=attend, name=name)
        return blocks


def ordered(output: Output) -> Output:
    """Return an output with every sequence in the order of its positions again."""
    axes = mesh_axes("sequence")
    if not axes:
        return output

    def restore(x_BTX: Array) -> Array:
        token = "batch sequence -"
        return local(partial(context_in_order, axes=axes), (token,), token)(x_BTX)

    balance: Balance = {}
    for name, figures in output.balance.items():
        balance[name] = dict(figures)
        for kind in ("choice_BTK", "gate_BTK"):
            many = restore if figures[kind].ndim == 3 else jax.vmap(restore)
            balance[name][kind] = many(figures[kind])
    return output._replace(
        hidden_BTD=restore(output.hidden_BTD),
        mtp_BTD=tuple(map(restore, output.mtp_BTD)),
        balance=balance,
    )


def logits(output: Output) -> Array:
    """Return float32 logits of every position, for generation and tests.

    The training loss never holds all of them.
    """
    return jnp.einsum(
        "BTD,DV->BTV", output.hidden_BTD, output.head_DV, preferred_element_type=jnp.float32
    )


def other_products(model: ModelConfig) -> tuple[str, ...]:
    """Return the weights that enter other products than `project`, by name."""
    kind = ATTENTION.find(model.attention)
    return (*kind.other_products, *PredictionModule.other_products)
