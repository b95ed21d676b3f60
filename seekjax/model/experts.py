"""Feed-forward layers: SwiGLU, and the DeepSeekMoE mixture of shared and routed experts (V2 section
2.2, V3 section 2.1.2).
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta
from jax import Array

from seekjax.config import KernelConfig, ModelConfig
from seekjax.errors import ConfigError, need
from seekjax.kernels import grouped
from seekjax.kernels.grouped_fp8 import experts_fp8
from seekjax.kernels.small_batch import experts_small_batch
from seekjax.model.module import Module, project
from seekjax.model.quantile import gap_histogram
from seekjax.model.routing import affinity, balance_loss, choose, count_choices, gates
from seekjax.quant.formats import Weight, laid_out
from seekjax.quant.wire import FP8
from seekjax.registry import Registry
from sharding.exchange import EXCHANGES as SHARDING_EXCHANGES
from sharding.exchange import Exchange, exchange_small_batch, fastest, packing
from sharding.mesh import platform
from sharding.mesh_config import TWO_HOPS
from sharding.place import Named
from sharding.rules import constrain, local, mesh_axes, nodes_in_use, split_by
from sharding.vary import vary_like

EXCHANGES: Registry[Exchange] = Registry(
    "expert exchange",
    # "few" is the name of small_batch in older run folders and commands.
    {**SHARDING_EXCHANGES, "few": exchange_small_batch},
)


def swiglu(
    x_BTD: Array,
    w_gate_DF: Weight,
    w_up_DF: Weight,
    w_down_FD: Weight,
) -> Array:
    """Return (silu(x w_gate) * (x w_up)) w_down."""
    gate_BTF, up_BTF = project(x_BTD, w_gate_DF, w_up_DF)
    h_BTF = constrain(jax.nn.silu(gate_BTF) * up_BTF, "batch sequence hidden")
    (y_BTD,) = project(h_BTF, w_down_FD)
    return y_BTD


def mixture(
    x_BTD: Array,
    choice_BTK: Array,
    gate_BTK: Array,
    weights: tuple[Weight, Weight, Weight],
    kernel: KernelConfig,
) -> tuple[Array, Array]:
    """Return sum_k gate_k expert_k(x), and how many rows were dropped over all devices.

    Each device computes its own tokens, or those that the exchange sends to its experts.
    """
    axes = mesh_axes("experts")
    summed = mesh_axes("expert_hidden")
    everyone = (*mesh_axes("batch"), *mesh_axes("sequence"))
    exchange, experts = pick_forms(kernel)

    inward, outward = "experts - expert_hidden", "experts expert_hidden -"
    weights, layout = laid_out(weights, (inward, inward, outward))

    def body(x_btD, choice_btK, gate_btK, *weights):
        x_mD, choice_mK, gate_mK = map(_rows, (x_btD, choice_btK, gate_btK))
        if summed:
            # So that gradients are summed once per token, and not once per row on its way
            x_mD = vary_like(x_mD, *jax.tree.leaves(weights))
        y_mD, dropped = exchange(x_mD, choice_mK, gate_mK, weights, experts, axes, kernel.capacity)
        if summed:
            y_mD = jax.lax.psum(y_mD, summed)
        y_btD = y_mD.reshape(x_btD.shape)
        if everyone:
            dropped = jax.lax.psum(dropped, everyone)
        return y_btD, dropped

    token = "batch sequence -"
    run = local(body, (token, token, token, *layout), (token, ""))
    return run(x_BTD, choice_BTK, gate_BTK, *weights)


def pick_copies(choice_BTK: Array, physical_EC: Array, copies_E: Array) -> Array:
    """Return the physical experts that tokens visit: the copies of an expert take turns, by the
    token's number.
    """
    B, T, _ = choice_BTK.shape
    token_BT1 = jnp.arange(B * T).reshape(B, T, 1)
    copy_BTK = token_BT1 % copies_E[choice_BTK]
    return physical_EC[choice_BTK, copy_BTK]


def pick_forms(kernel: KernelConfig) -> tuple[Exchange, Callable[..., Array]]:
    """Return the exchange of tokens and the grouped product that the config names.

    Raises ConfigError for an exchange that is neither in `EXCHANGES` nor module:function.
    """
    if kernel.dispatch == "auto":
        exchange = EXCHANGES[fastest(platform(), split_by("experts"), nodes_in_use())]
    else:
        exchange = EXCHANGES.find(kernel.dispatch)
    if kernel.dispatch_dtype == "fp8":
        exchange = packing(exchange, FP8)

    if exchange is exchange_small_batch:
        return exchange, experts_small_batch
    if kernel.dtype == "fp8":
        return exchange, partial(experts_fp8, fp8=kernel.fp8)
    if kernel.experts == "auto":
        return exchange, grouped.pick(platform())
    return exchange, getattr(grouped, f"experts_{kernel.experts}")


def check_trainable(dispatch: str) -> None:
    """Raise ConfigError if kernel.dispatch names no exchange, or one without a gradient."""
    if dispatch != "auto":
        need(
            EXCHANGES.find(dispatch) is not exchange_small_batch,
            f"kernel.dispatch {dispatch} is for decoding and has no gradient: choose auto, dense, "
            "static, ragged or two_hop.",
        )


def check_exchange(model: ModelConfig, kernel: KernelConfig, nodes: int) -> None:
    """Raise ConfigError if the exchange of tokens does not fit the model or the nodes.

    Groups decide between which nodes a token crosses in two hops, so each must lie within one node.
    Without groups a token may visit every node.
    """
    if kernel.dispatch_dtype == "fp8" and kernel.dispatch != "auto":
        try:
            packing(EXCHANGES.find(kernel.dispatch), FP8)
        except ValueError as error:
            raise ConfigError(
                f"kernel.dispatch_dtype fp8 with kernel.dispatch {kernel.dispatch}: this exchange "
                "sends tokens only as they are, choose auto, static, ragged or two_hop."
            ) from error

    if kernel.dispatch not in TWO_HOPS:
        return
    need(
        nodes > 1,
        f"kernel.dispatch {kernel.dispatch} needs nodes, and mesh.node is {nodes}: give their "
        "number, as --mesh.node 2, or choose auto.",
    )
    need(
        model.expert_groups == 1 or model.expert_groups % nodes == 0,
        f"model.expert_groups is {model.expert_groups}, which mesh.node {nodes} cannot split "
        f"evenly for kernel.dispatch {kernel.dispatch}: make it a multiple of {nodes} or 1, or "
        "choose kernel.dispatch static.",
    )


def _rows(a_btX: Array) -> Array:
    """Return an array with one axis of tokens instead of two."""
    return a_btX.reshape(-1, a_btX.shape[-1])


class FeedForward(Module):
    """A dense SwiGLU of the given inner width."""

    width: int = 0

    @nn.compact
    def __call__(self, x_BTD: Array) -> Array:
        """Return the output, [B, T, D]."""
        w_gate_DF = self.weight("w_gate", "embed hidden", hidden=self.width)
        w_up_DF = self.weight("w_up", "embed hidden", hidden=self.width)
        w_down_FD = self.weight("w_down", "hidden embed", hidden=self.width)
        y_BTD = swiglu(x_BTD, w_gate_DF, w_up_DF, w_down_FD)
        return constrain(y_BTD, "batch sequence embed")


class MixtureOfExperts(Module):
    """Shared experts plus the routed ones."""

    @nn.compact
    def __call__(
        self,
        x_BTD: Array,
        mask_BT: Array,
        choice_BTK: Array | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Return the output, and what the balance needs of this layer.

        Tokens outside `mask_BT` visit no routed expert. `choice_BTK` are the experts that tokens
        visit instead of choosing; gates are computed as always (V3.2's "keep routing").
        """
        m = self.model

        # Router, in float32: scores, choice and gates
        w_router_DE = self.array("w_router", "embed experts", dtype="float32")
        bias_E = self.balance_bias()
        x32_BTD = x_BTD.astype(jnp.float32)
        logit_BTE = jnp.einsum("BTD,DE->BTE", x32_BTD, w_router_DE, precision="highest")
        score_BTE = affinity(logit_BTE, m)
        if choice_BTK is None:
            choice_BTK = choose(score_BTE, bias_E, m)
        gate_BTK = gates(score_BTE, choice_BTK, m)

        # Routed experts, some of which may have copies. Padding gets a number past the last one,
        # which every exchange leaves out.
        visited_BTK, places = self.places(choice_BTK)
        visited_BTK = jnp.where(mask_BT[..., None], visited_BTK, places)
        weights = (
            self.weight("w_gate", "experts embed expert_hidden", experts=places),
            self.weight("w_up", "experts embed expert_hidden", experts=places),
            self.weight("w_down", "experts expert_hidden embed", experts=places),
        )
        y_BTD, dropped = mixture(x_BTD, visited_BTK, gate_BTK, weights, self.kernel)

        # Shared experts are one fused FFN
        if m.shared_experts:
            width = m.shared_experts * m.expert_hidden
            y_BTD += self.build(FeedForward, width=width, name="shared")(x_BTD)

        # The balance of this layer
        y_BTD = constrain(y_BTD, "batch sequence embed")
        load_BE = count_choices(choice_BTK, mask_BT, m.experts)
        loss_B = balance_loss(score_BTE, choice_BTK, mask_BT, m)
        balance = {
            "choice_BTK": choice_BTK,
            "gate_BTK": gate_BTK,
            "load_E": load_BE.sum(0),
            "balance_loss": loss_B.sum(),
            "dropped": dropped,
        }
        if m.bias_update == "quantile":
            balance["gaps_EN"] = gap_histogram(score_BTE, bias_E, mask_BT, m)
        return y_BTD, balance

    def places(self, choice_BTK: Array) -> tuple[Array, int]:
        """Return where the weights of the chosen experts are, and the number of such places.

        Expert e is in place e, unless the variables have redundant experts (model/replicas.py).
        """
        logical_P = self.get_variable("placement", "logical_P")
        if logical_P is None:
            return choice_BTK, self.model.experts
        physical_EC = self.get_variable("placement", "physical_EC")
        copies_E = self.get_variable("placement", "copies_E")
        return pick_copies(choice_BTK, physical_EC, copies_E), logical_P.size

    def balance_bias(self) -> Array:
        """Return the routing bias of each expert, zeros at first.

        It is not a parameter: no gradient reaches it, and the train step moves it. Every device
        routes over all experts, so each has all of it.
        """

        def zeros() -> Named:
            return Named(jnp.zeros(self.model.experts, jnp.float32), "-")

        return meta.unbox(self.variable("balance", "bias", zeros).value)
