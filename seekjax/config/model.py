"""The transformer's settings. Every difference between published models is a field here.

DeepSeek's own names stand in brackets. `Vn` is the paper of DeepSeek-Vn (V2: 2405.04434,
V3: 2412.19437).
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from seekjax.config.ranges import (
    AboveOne,
    AtLeastOne,
    Depth,
    Layers,
    LayersOrZero,
    NotNegative,
    Positive,
    Size,
    SizeOrZero,
)
from seekjax.errors import ConfigError


class Named:
    """Marks a field that names a choice, so that one function finds all of them."""


# A name in one of the registries (seekjax/registry.py), or `module:name` from outside the package.
Name = Annotated[str, Named()]


@dataclass(frozen=True)
class RopeConfig:
    """Rotary positions and their YaRN extension (V2 section 2.1.3 and 3.1.4, V3 section 4.3)."""

    # [rope_theta] wavelengths grow geometrically up to 2 pi times this
    base: AboveOne = 10000.0
    # [factor] YaRN's s; used only if model.context exceeds original_context
    factor: AtLeastOne = 1.0
    # [original_max_position_embeddings] positions seen before the extension
    original_context: Size = 4096
    # rotations over the original context above which a frequency stays
    beta_fast: Positive = 32.0
    # rotations below which a frequency is divided by the factor
    beta_slow: Positive = 1.0
    # [mscale] attention temperature, over mscale_all in cos and sin
    mscale: NotNegative = 1.0
    # [mscale_all_dim] attention temperature, squared into the softmax scale
    mscale_all: NotNegative = 1.0


@dataclass(frozen=True)
class ModelConfig:
    """The transformer. Every difference between published models is one of these fields."""

    # [vocab_size] rows of the embedding and of the head
    vocab: Size = 2048
    # [hidden_size] model width
    embed: Size = 128
    # [num_hidden_layers] blocks of attention and a feed-forward layer
    layers: Layers = 4
    # [first_k_dense_replace] first layers with a dense FFN instead of experts
    dense_layers: LayersOrZero = 1
    # [max_seq_len] positions the model must serve; YaRN is on if this exceeds rope.original_context
    context: Size = 4096

    # Attention (V2 section 2.1)

    # mla; mha: the DeepSeekMoE-16B baseline without latents; or module:name
    attention: Name = "mla"
    # [num_attention_heads] per layer
    heads: Size = 4
    # [q_lora_rank] 0 = queries straight from the model width, as in V2-Lite
    q_latent: SizeOrZero = 64
    # [kv_lora_rank] what the cache keeps per token, next to one rotary key
    kv_latent: SizeOrZero = 32
    # [qk_nope_head_dim] head width without position
    nope: SizeOrZero = 32
    # [qk_rope_head_dim] head width with decoupled, interleaved RoPE
    rotary: SizeOrZero = 16
    # [v_head_dim] head width of values
    value: Size = 32
    # rotary positions
    rope: RopeConfig = field(default_factory=RopeConfig)
    # sizes of axes that only an attention kind from outside has, as (name, size) pairs
    sizes: tuple[tuple[str, Size], ...] = ()

    # Feed-forward layers and experts (V2 section 2.2, V3 section 2.1.2)

    # [intermediate_size] width of the dense FFN
    hidden: Size = 512
    # [moe_intermediate_size] width of one expert
    expert_hidden: Size = 128
    # [n_routed_experts] experts that a token may choose
    experts: Size = 16
    # [n_shared_experts] experts that every token visits, fused into one FFN
    shared_experts: SizeOrZero = 1
    # [num_experts_per_tok] routed experts that each token visits
    experts_per_token: Size = 4
    # [n_group] 1 = ungrouped routing
    expert_groups: Size = 4
    # [topk_group] groups that a token may choose from
    groups_per_token: Size = 2
    # [scoring_func] affinity of tokens to experts, by sigmoid, softmax, or module:name
    scoring: Name = "sigmoid"
    # [topk_method] top2: noaux_tc (V3); max: group_limited_greedy (V2)
    group_score: Literal["top2", "max"] = "top2"
    # [norm_topk_prob] the gates of a token sum to route_scale
    renormalise: bool = True
    # [routed_scaling_factor]
    route_scale: Positive = 2.5
    # how the balance bias moves after a step: sign: by gamma, against the imbalance (V3 section
    # 2.1.2); quantile: to where each expert gets its share of the step's tokens
    bias_update: Literal["sign", "quantile"] = "sign"
    # the experts that the balance loss counts: bare: the top K of the scores, with neither bias nor
    # groups (V3 equation 18); routed: those that a token visits (V2 equation 24)
    balance_choice: Literal["bare", "routed"] = "bare"
    # alpha2 / alpha1 of V2: balance of the load of groups, relative to that of experts (V2
    # equations 26-28; its groups are devices)
    group_balance: NotNegative = 0.0
    # alpha3 / alpha1 of V2: balance of the tokens sent to groups (V2 equations 29-31)
    send_balance: NotNegative = 0.0

    # Multi-token prediction (V3 section 2.2) and the rest

    # [num_nextn_predict_layers] extra tokens predicted ahead; 0 = off
    mtp_depth: Depth = 1
    # [rms_norm_eps] added to the mean square before its root
    norm_eps: Positive = 1e-6
    # the same in the norms of the latents; 0 = norm_eps. Published models have 1e-6 there whatever
    # rms_norm_eps is (Moonlight: 1e-5)
    latent_norm_eps: NotNegative = 0.0
    # standard deviation of new weights: the papers' 0.006, not the 0.02 of the published
    # config.json
    init_std: Positive = 0.006

    @property
    def latent_eps(self) -> float:
        """The epsilon of the latents' norms."""
        return self.latent_norm_eps or self.norm_eps

    @property
    def stacks(self) -> dict[str, int]:
        """The stacks of equal layers in order, by name, with the number of layers of each."""
        stacks = {}
        if self.dense_layers:
            stacks["dense_layers"] = self.dense_layers
        if self.layers > self.dense_layers:
            stacks["expert_layers"] = self.layers - self.dense_layers
        return stacks

    def size(self, axis: str) -> int:
        """Return the size of a logical axis: of `sizes`, or the field of this name.

        Raises ConfigError if there is neither.
        """
        own = dict(self.sizes)
        if axis in own:
            return own[axis]
        size = getattr(self, axis, None)
        if type(size) is not int:
            raise ConfigError(f"model.sizes does not have {axis}: add --model.sizes {axis} NUMBER.")
        return size
