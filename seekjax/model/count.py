"""Parameters, cache and FLOPs of a model, from its config alone: exact integers, no arrays, at once
for 671B."""

from dataclasses import dataclass

from seekjax.config import ModelConfig


@dataclass(frozen=True)
class Count:
    """How many parameters each piece has. Total and active leave out multi-token prediction, as
    DeepSeek's own figures do."""

    embedding: int  # the input embedding; the head is as large again
    attention: int  # of one layer, with the norms of its latents
    dense: int  # one dense FFN
    expert: int  # one routed expert; a shared one is as large
    experts: int  # the whole FFN of one expert layer: routed, shared, router and its bias
    experts_active: int  # the part of it that one token visits
    router_bias: int  # balance biases of all expert layers, part of total; no gradient reaches them
    mtp: int  # all prediction modules, without the embedding and the head they share
    total: int
    active: int  # what one token visits, embedding and head included

    @property
    def active_without_embedding(self) -> int:
        """The usual published figure: the embedding is a look-up, the head a matrix product."""
        return self.active - self.embedding

    @property
    def active_without_both(self) -> int:
        return self.active - 2 * self.embedding


def parameters(model: ModelConfig) -> Count:
    """Count every weight. The router has a balance bias where groups score by their top two, as
    V3's `noaux_tc` has."""
    width, swiglu = model.embed, lambda hidden: 3 * model.embed * hidden
    attention, expert = _attention(model), swiglu(model.expert_hidden)
    bias = model.experts if model.group_score == "top2" else 0
    router = width * model.experts + bias
    experts = router + (model.shared_experts + model.experts) * expert
    experts_active = router + (model.shared_experts + model.experts_per_token) * expert
    layer = attention + 2 * width  # with the norms before attention and before the FFN
    expert_layers = model.layers - model.dense_layers
    ffn = (
        experts if expert_layers else swiglu(model.hidden)
    )  # of a prediction module: as in the last layer
    rest = (
        2 * model.vocab * width
        + model.layers * layer
        + model.dense_layers * swiglu(model.hidden)
        + width
    )
    return Count(
        embedding=model.vocab * width,
        attention=attention,
        dense=swiglu(model.hidden),
        expert=expert,
        experts=experts,
        experts_active=experts_active,
        router_bias=expert_layers * bias,
        mtp=model.mtp_depth
        * (
            layer + ffn + 2 * width * width + 3 * width
        ),  # the join of state and embedding, their norms, the last norm
        total=rest + expert_layers * experts,
        active=rest + expert_layers * experts_active,
    )


def cache_elements(model: ModelConfig) -> int:
    """Numbers kept per token over all layers: the latent and one rotary key, or keys and values of
    every head."""
    per_layer = (
        model.kv_latent + model.rotary
        if model.attention == "mla"
        else model.heads * _key_and_value(model)
    )
    return model.layers * per_layer


def cache_bytes(model: ModelConfig, element: int = 2) -> int:
    """Bytes of cache per token, at so many bytes per number (2: bfloat16)."""
    return cache_elements(model) * element


def flops_per_token(
    model: ModelConfig, sequence: int, training: bool = True, causal: bool = True
) -> int:
    """Average FLOPs of one token in a sequence: two per active weight without the embedding, and
    attention over what stands before it.

    Training costs three times the forward pass. `causal=False` counts the whole square of scores,
    as some published figures do. Keys and values count as expanded. Multi-token prediction is left
    out, as in DeepSeek's figures.
    """
    scores = model.layers * model.heads * sequence * _key_and_value(model)
    forward = 2 * parameters(model).active_without_embedding + scores * (1 if causal else 2)
    return forward * (3 if training else 1)


def _key_and_value(model: ModelConfig) -> int:
    return model.nope + model.rotary + model.value


def _attention(model: ModelConfig) -> int:
    width, heads, key = model.embed, model.heads, model.nope + model.rotary
    out = heads * model.value * width
    if model.attention == "mha":
        return 2 * width * heads * key + width * heads * model.value + out
    q, c = model.q_latent, model.kv_latent
    queries = width * q + q + q * heads * key if q else width * heads * key
    return queries + width * (c + model.rotary) + c + c * heads * (model.nope + model.value) + out
