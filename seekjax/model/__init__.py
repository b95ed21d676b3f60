"""The model. Read it in this order, which is that of DeepSeek's own inference/model.py:

    rope         rotary positions and YaRN
    attention/   kinds of attention, a file each: mla (V2 section 2.1), mha
    routing      router scores, choice of experts, balance bias (V3 section 2.1.2)
    experts      SwiGLU, and the mixture of shared and routed experts
    block        one layer: norm, attention, norm, feed-forward
    mtp          multi-token prediction (V3 section 2.2)
    transformer  the whole model

Next to it: module (how weights are declared), init (their first values), cache (of decoding), count
(parameters, FLOPs and cache from the config alone), check (which sizes are possible), abstract
(variables before they exist), lora (adapters).

Shapes are in names: `q_BTHN` has the axes batch, query position, head, head width without position.
One key for the whole project:

    B batch                  T query positions          S key positions (cache)
    D model width            A model width, output side
    H heads                  N head width w/o position  R rotary head width    U value head width
    Q query latent           C key-value latent         E routed experts       G expert groups
    K experts per token      F expert or dense hidden   V vocabulary           L stacked layers
    M dispatched rows        lower case: the per-device part inside shard_map (x_mD)
"""
