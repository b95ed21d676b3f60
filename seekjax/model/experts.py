"""Feed-forward layers: SwiGLU, and the DeepSeekMoE mixture of shared and routed experts (V2 section
2.2, V3 section 2.1.2)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import meta

from seekjax.config import KernelConfig
from seekjax.kernels import grouped
from seekjax.kernels.few import experts_few
from seekjax.model.module import Weighted, project
from seekjax.model.routing import affinity, choose, count_choices, gates, sequence_balance
from seekjax.quant.formats import laid_out
from sharding import exchange
from sharding.few import few
from sharding.mesh import platform
from sharding.place import Named
from sharding.rules import constrain, local, mesh_axes, split_by


def swiglu(x_BTD, w_gate_DF, w_up_DF, w_down_FD):
    """(silu(x w_gate) * (x w_up)) w_down."""
    gate_BTF, up_BTF = project(x_BTD, w_gate_DF, w_up_DF)
    h_BTF = constrain(jax.nn.silu(gate_BTF) * up_BTF, "batch sequence hidden")
    return project(h_BTF, w_down_FD)[0]


def mixture(x_BTD, choice_BTK, gate_BTK, weights, kernel: KernelConfig):
    """sum_k gate_k expert_k(x), each device on its own tokens and experts; and how many rows were
    dropped in all."""
    axes, summed, everyone = mesh_axes("experts"), mesh_axes("expert_hidden"), mesh_axes("batch")
    into, out = "experts - expert_hidden", "experts expert_hidden -"
    weights, layout = laid_out(weights, (into, into, out))
    if kernel.dispatch == "few":
        dispatch, experts = few, experts_few
    else:
        dispatch = exchange.pick(kernel.dispatch, platform(), split_by("experts"))
        experts = (
            grouped.pick(platform())
            if kernel.experts == "auto"
            else getattr(grouped, f"experts_{kernel.experts}")
        )

    def body(x_btD, choice_btK, gate_btK, *weights):
        rows = (a.reshape(-1, a.shape[-1]) for a in (x_btD, choice_btK, gate_btK))
        y_mD, dropped = dispatch(*rows, weights, experts, axes, kernel.capacity)
        if summed:
            y_mD = jax.lax.psum(y_mD, summed)
        return y_mD.reshape(x_btD.shape), jax.lax.psum(dropped, everyone) if everyone else dropped

    token = "batch sequence -"
    return local(body, (token, token, token, *layout), (token, ""))(
        x_BTD, choice_BTK, gate_BTK, *weights
    )


class FeedForward(Weighted):
    """A dense SwiGLU of the given inner width."""

    width: int = 0

    @nn.compact
    def __call__(self, x_BTD):
        w_gate_DF = self.weight("w_gate", "embed hidden", hidden=self.width)
        w_up_DF = self.weight("w_up", "embed hidden", hidden=self.width)
        w_down_FD = self.weight("w_down", "hidden embed", hidden=self.width)
        return constrain(swiglu(x_BTD, w_gate_DF, w_up_DF, w_down_FD), "batch sequence embed")


class MixtureOfExperts(Weighted):
    """Shared experts plus the routed ones. Returns the output, who was chosen, and what the balance
    needs to know of this layer.

    `choice_BTK` has tokens visit these experts instead of those they would choose; the gates are
    the live ones (V3.2's "keep routing").
    """

    @nn.compact
    def __call__(self, x_BTD, mask_BT, choice_BTK=None):
        m = self.model
        w_router_DE = self.weight("w_router", "embed experts", dtype="float32")
        # Every device routes over all experts, so the bias is whole on each. It is no parameter:
        # the optimizer never sees it.
        bias_E = meta.unbox(
            self.variable(
                "balance", "bias", lambda: Named(jnp.zeros(m.experts, jnp.float32), "-")
            ).value
        )
        logit_BTE = jnp.einsum(
            "BTD,DE->BTE", x_BTD.astype(jnp.float32), w_router_DE, precision="highest"
        )
        score_BTE = affinity(logit_BTE, m)
        choice_BTK = choose(score_BTE, bias_E, m) if choice_BTK is None else choice_BTK
        gate_BTK = gates(score_BTE, choice_BTK, m)
        weights = (
            self.weight("w_gate", "experts embed expert_hidden"),
            self.weight("w_up", "experts embed expert_hidden"),
            self.weight("w_down", "experts expert_hidden embed"),
        )
        y_BTD, dropped = mixture(x_BTD, choice_BTK, gate_BTK, weights, self.kernel)
        if m.shared_experts:
            y_BTD += self.build(
                FeedForward, width=m.shared_experts * m.expert_hidden, name="shared"
            )(x_BTD)
        unbiased_BTK = jax.lax.top_k(score_BTE, m.experts_per_token)[1]
        return constrain(y_BTD, "batch sequence embed"), {
            "choice_BTK": choice_BTK,
            "gate_BTK": gate_BTK,
            "load_E": count_choices(choice_BTK, mask_BT, m.experts).sum(0),
            "balance_loss": sequence_balance(score_BTE, unbiased_BTK, mask_BT).sum(),
            "dropped": dropped,
        }
