"""Small random DeepSeek models of transformers. Imported only where torch and transformers are
installed."""

import numpy as np
import torch
from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    FineGrainedFP8Config,
)
from transformers.modeling_layers import MtpModel

CLASSES = {
    "v2": (DeepseekV2Config, DeepseekV2ForCausalLM),
    "v3": (DeepseekV3Config, DeepseekV3ForCausalLM),
}
# The faster implementations require widths in multiples of 16 bytes.
EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}
torch.set_num_threads(1)


def drawn_config(rng, kind):
    """A config with everything that may vary drawn at random."""

    def pick(*values):
        return values[rng.integers(len(values))]

    # transformers' V2 requires even strides wherever it rotates pairs
    heads, layers = pick(1, 2, 3, 4), pick(1, 2, 3, 4)
    groups = pick(1, 2, 4)
    experts = groups * pick(2, 3, 4)
    open_groups = int(rng.integers(1, groups + 1))
    config = {
        "vocab_size": pick(31, 50, 67),
        "hidden_size": heads * pick(6, 8, 10),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "q_lora_rank": pick(None, 7, 12),
        "kv_lora_rank": pick(6, 8, 14),
        "qk_nope_head_dim": pick(4, 6, 10) - (kind == "v3"),
        "qk_rope_head_dim": pick(2, 4, 8),
        "v_head_dim": pick(3, 5, 9),
        "intermediate_size": pick(17, 40),
        "moe_intermediate_size": pick(6, 11),
        "n_routed_experts": experts,
        "n_shared_experts": pick(1, 2, 3),
        "num_experts_per_tok": int(rng.integers(1, min(6, experts // groups * open_groups) + 1)),
        "n_group": groups,
        "topk_group": open_groups,
        "first_k_dense_replace": int(rng.integers(0, layers + 1)),
        "routed_scaling_factor": pick(1.0, 2.5, 16.0),
        "max_position_embeddings": 64,
        "norm_topk_prob": kind == "v3" and pick(True, False),
        "rope_parameters": {"rope_type": "default", "rope_theta": pick(10000.0, 500.0)},
    }
    if pick(True, False, True):
        scales = pick(
            {"mscale": 0.707, "mscale_all_dim": 0.707},
            {"mscale": 1.0, "mscale_all_dim": 1.0},
            {"mscale": 1.0, "mscale_all_dim": 0.707},
            {},
        )
        config |= {
            "max_position_embeddings": 640,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": pick(40.0, 10.0),
                "original_max_position_embeddings": pick(16, 64),
                "beta_fast": 32.0,
                "beta_slow": 1.0,
            }
            | scales,
        }
    if kind == "v2":
        config["topk_method"] = pick("greedy", "group_limited_greedy")
    elif pick(True, True, False):
        config["rope_interleave"] = True
    else:
        config["rope_interleave"] = False
    return config


def made(kind, config, seed):
    """A model with weights so large that every part affects the logits."""
    Config, Model = CLASSES[kind]
    torch.manual_seed(seed)
    model = Model(Config(**config, **EAGER)).float().eval()
    with torch.no_grad():
        for name, x in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith("e_score_correction_bias"):
                x.normal_(0, 0.2)
            elif "norm" in name:
                x.normal_(1, 0.2)
            elif x.ndim > 1:
                x.normal_(0, 1.0 if "embed" in name else x.shape[-1] ** -0.5)
    return model


def reread(kind, folder, depth=0):
    """The model of a folder in float32, and its prediction modules, by the readers of
    transformers."""
    config = CLASSES[kind][0].from_pretrained(folder)
    # transformers ignores prediction modules of the 61-layer model only.
    patterns = [rf"model\.layers\.{config.num_hidden_layers + k}.*" for k in range(depth)]
    Model = type(
        CLASSES[kind][1].__name__,
        (CLASSES[kind][1],),
        {"_keys_to_ignore_on_load_unexpected": patterns},
    )
    quantised = {}
    if hasattr(config, "quantization_config"):
        quantised["quantization_config"] = FineGrainedFP8Config(dequantize=True)
    model = Model.from_pretrained(folder, dtype=torch.float32, **EAGER, **quantised).eval()
    return model, MtpModel.from_pretrained(model).float().eval() if depth else None


def expected(model, tokens_BX, ahead=None):
    """What `compare.computed` returns, by transformers."""
    depth = len(ahead.layers) if ahead else 0
    tokens = torch.tensor(tokens_BX)
    T = tokens.shape[1] - depth
    with torch.no_grad():
        output = model(tokens[:, :T], output_hidden_states=True)
        computed = {f"hidden_{i}": x for i, x in enumerate(output.hidden_states) if i}
        computed["logits"] = output.logits
        hidden = output.hidden_states[-1]
        for k in range(depth):
            positions = torch.arange(k + 1, T + k + 1)[None]
            hidden = ahead.forward_layer(
                k, hidden, positions, None, input_ids=tokens[:, k + 1 : T + k + 1]
            )
            computed[f"ahead_{k + 1}"] = model.lm_head(hidden)
    return {name: np.asarray(value.float()) for name, value in computed.items()}
