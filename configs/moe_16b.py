"""DeepSeekMoE-16B (arXiv 2401.06066): the mixture of experts before latent attention, 2T tokens.

    python train.py moe_16b --data.tokenizer tokenizer.json --data.sources corpus/

Hardware: a multiple of 64 accelerators of 80 GB; micro_batch gives each of 64 eight sequences per
forward pass. Expect 16.4B parameters of which 2.8B are active, 74.4 TFLOPs per 4K tokens and
229,376 bytes of bf16 cache per token. Time: 106,449 steps of 18.9M tokens; at 200 TFLOP/s each, 64
accelerators need 31 days.

The config says what differs from V2-Lite, which has the same experts, optimizer and mesh. The
balance loss is the paper's expert-level one with its factor 0.001; nothing moves the routing bias.
The released checkpoint was trained with the rotary halves side by side; this run, like all others
here, interleaves them.
"""

from dataclasses import replace

from configs.v2_lite import config as v2_lite
from seekjax.config import RopeConfig

config = replace(
    v2_lite,
    model=replace(
        v2_lite.model,
        layers=28,
        attention="mha",
        kv_latent=0,
        nope=0,
        rotary=128,
        rope=RopeConfig(),
    ),
    train=replace(v2_lite.train, steps=106_449),
)
