"""The model, in the order of DeepSeek's own inference/model.py: rope, attention (MLA), routing,
experts (MoE), block, transformer.

Shapes are in names: `q_BTHN` has the axes batch, query position, head, head width without position.
One key for the whole project:

    # T query positions       S key positions (cache)    D model width        A model width, output
    # side
    B batch
    H heads               N head width w/o position   R rotary head width    U value head width
    Q query latent        C key-value latent      E routed experts           G expert groups
    K experts per token   F expert or dense hidden    V vocabulary           L stacked layers
    M dispatched rows     lower case: the per-device part inside shard_map (x_mD)
"""
