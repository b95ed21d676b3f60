"""The kinds of attention, one file each: `kind` says what a kind provides."""

from seekjax.model.attention.kind import AttentionKind
from seekjax.model.attention.mha import MultiHeadAttention
from seekjax.model.attention.mla import (
    LatentAttention,
    attend_absorbed,
    attend_expanded,
    attend_visible,
)
from seekjax.registry import Registry

__all__ = ["ATTENTION", "LatentAttention", "MultiHeadAttention"]
__all__ += ["attend_absorbed", "attend_expanded", "attend_visible"]

ATTENTION: Registry[type[AttentionKind]] = Registry(
    "attention kind", {"mla": LatentAttention, "mha": MultiHeadAttention}
)
