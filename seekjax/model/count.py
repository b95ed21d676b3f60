"""Parameters, cache and FLOPs of a model, from its config alone: exact integers, no arrays, at once
for 671B.
"""

from dataclasses import dataclass

from seekjax.config import ModelConfig
from seekjax.model.attention import ATTENTION


@dataclass(frozen=True)
class Count:
    """How many parameters each part has.

    Total and active leave out multi-token prediction, as DeepSeek's own figures do.
    """

    embedding: int  # the input embedding; the head has as many
    attention: int  # of one layer, with the norms inside it
    dense: int  # one dense FFN
    expert: int  # one routed expert; a shared one has as many
    experts: int  # the whole FFN of one expert layer: routed, shared, router and its bias
    experts_active: int  # the part of it that one token visits
    router_bias: int  # balance biases of all expert layers, part of total; they have no gradient
    mtp: int  # all prediction modules, without the embedding and the head that they share
    total: int
    active: int  # what one token visits, embedding and head included

    @property
    def active_without_embedding(self) -> int:
        """The usual published figure: the embedding is a look-up, the head a matrix product."""
        return self.active - self.embedding

    @property
    def active_without_both(self) -> int:
        """The parameters that one token visits between embedding and head."""
        return self.active - 2 * self.embedding


def parameters(model: ModelConfig) -> Count:
    """Count every weight.

    The router has a balance bias if groups score by their top two, as in V3's `noaux_tc`.
    """
    width = model.embed
    expert_layers = model.layers - model.dense_layers
    attention = ATTENTION.find(model.attention).parameters(model)

    # Feed-forward: a SwiGLU has three matrices
    dense = 3 * width * model.hidden
    expert = 3 * width * model.expert_hidden
    bias = model.experts if model.group_score == "top2" else 0
    router = width * model.experts + bias
    experts = router + (model.shared_experts + model.experts) * expert
    experts_active = router + (model.shared_experts + model.experts_per_token) * expert

    # Everything but the expert layers' FFN; a layer has a norm before attention and before the FFN
    layer = attention + 2 * width
    embedding = model.vocab * width
    rest = 2 * embedding + model.layers * layer + model.dense_layers * dense + width

    # A prediction module has the last layer's kind of FFN, the join of state and embedding, the
    # norms of both, and a last norm
    ffn = experts if expert_layers else dense
    module = layer + ffn + 2 * width * width + 3 * width

    return Count(
        embedding=embedding,
        attention=attention,
        dense=dense,
        expert=expert,
        experts=experts,
        experts_active=experts_active,
        router_bias=expert_layers * bias,
        mtp=model.mtp_depth * module,
        total=rest + expert_layers * experts,
        active=rest + expert_layers * experts_active,
    )


def cache_elements(model: ModelConfig) -> int:
    """Return how many numbers the cache holds per token, over all layers."""
    return model.layers * ATTENTION.find(model.attention).cache_elements(model)


def cache_bytes(model: ModelConfig, element: int = 2) -> int:
    """Return the bytes of cache per token, with `element` bytes per number (2: bfloat16)."""
    return cache_elements(model) * element


def flops_per_token(
    model: ModelConfig, sequence: int, training: bool = True, causal: bool = True
) -> int:
    """Return the average FLOPs of one token in a sequence.

    That is two per active weight without the embedding, and attention over the tokens before it.
    Training costs three times the forward pass. `causal=False` counts the whole square of scores,
    as some published figures do. Multi-token prediction is left out, as in DeepSeek's figures.
    """
    kind = ATTENTION.find(model.attention)
    attention = model.layers * sequence * kind.pair_flops(model)
    if causal:
        attention //= 2

    forward = 2 * parameters(model).active_without_embedding + attention
    return 3 * forward if training else forward
