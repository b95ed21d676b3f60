"""What every kind of attention provides, and the functions on arrays that kinds share.

A kind is one file and one class: its weights and forward pass, and on the class what the rest of
the program asks, without arrays: which sizes it allows, what its cache holds, what it costs. A kind
of one's own needs no change in this package: `--model.attention my_module:MyAttention`, with sizes
of its own axes as `--model.sizes kv_heads 2`. tests/scripts/own_attention.py is an example.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from seekjax.config import ModelConfig
from seekjax.kernels import attention as kernels
from seekjax.model.module import Module
from seekjax.placement import declare_axes
from sharding.context import gather, own_positions
from sharding.mesh import platform
from sharding.rules import constrain, local, mesh_axes, split_by

# A layer's cache by the names of its arrays, each [B, S, ...].
Cache = dict[str, Array]

# The logical axes of q_BTHN and q_BTHR.
QUERIES = ("batch sequence heads nope", "batch sequence heads rotary")


class CacheEntry(NamedTuple):
    """What a cache array holds per token and layer."""

    shape: tuple[int, ...]
    dtype: str


class AttentionKind(Module):
    """A kind of attention. Subclasses define `__call__` and the class methods that raise here.

    `__call__(x_BTD, angle, segment_BT, cache, start, attend)` returns the output [B, T, D] and the
    cache with the new tokens in it, or None.

        angle       cos and sin of each position (`rope.angles`)
        segment_BT  documents that a token may look within; None: everything before it
        cache       a layer's arrays as `cache_layout` says; None in training
        start       position of the first new token in the cache: one number, or [B]
        attend      how the cache is read, for kinds that can read it in more than one way; None
                    says that the cache was empty, so that the new tokens see only each other and
                    the kernel of training is right
    """

    # Logical axes that only this kind has, each with the known axis that a mesh splits it like, as
    # {"kv_heads": "heads"}. Their sizes are in model.sizes.
    own_axes: ClassVar[Mapping[str, str]] = {}
    # Whether training may split sequences: attention is computed by `attend_causal` or
    # `attend_gathered`, which know the position of each query.
    splits_sequences: ClassVar[bool] = False
    # Weights that enter other products than `project`: decoding keeps them as float arrays.
    other_products: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **fields: Any) -> None:
        """Declare the axes of a new kind, so that meshes can place them."""
        super().__init_subclass__(**fields)
        declare_axes(cls.own_axes)

    @classmethod
    def check(cls, model: ModelConfig) -> None:
        """Raise ConfigError if this kind cannot have these sizes."""

    @classmethod
    def split_axes(cls, model: ModelConfig) -> tuple[str, ...]:
        """Return the logical axes of this kind's weights that a mesh may split, but for embed."""
        return ("heads", *cls.own_axes)

    @classmethod
    def parameters(cls, model: ModelConfig) -> int:
        """Return the number of weights of one layer."""
        raise NotImplementedError(f"{cls.__name__} does not define parameters(model).")

    @classmethod
    def pair_flops(cls, model: ModelConfig) -> int:
        """Return the FLOPs of one query and one key, over all heads: score and weighted sum."""
        raise NotImplementedError(f"{cls.__name__} does not define pair_flops(model).")

    @classmethod
    def cache_layout(cls, model: ModelConfig, dtype: str) -> dict[str, CacheEntry]:
        """Return what the cache holds; dtype is float32, bfloat16 or fp8 (`cache.cache_dtype`)."""
        raise NotImplementedError(f"{cls.__name__} does not define cache_layout(model, dtype).")

    @classmethod
    def cache_elements(cls, model: ModelConfig) -> int:
        """Return how many numbers the cache holds per token and layer."""
        layout = cls.cache_layout(model, "float32")
        elements = [math.prod(entry.shape) for entry in layout.values()]
        return sum(elements)


def attend_causal(
    kernel: str,
    q_BTHN: Array,
    q_BTHR: Array,
    k_BTHN: Array,
    k_BTR: Array,
    v_BTHU: Array,
    scale: float,
    segment_BT: Array | None,
) -> Array:
    """Attend causally within whole sequences; each device has its own sequences, heads and queries.

    Runs the chosen kernel (seekjax/kernels/attention.py) and returns o_BTHU. A kind whose heads
    share no rotary key passes the whole head as N and an R of width 0. Where sequences are split,
    the keys and values of all heads are gathered.
    """
    attend = find_kernel(kernel)
    axes = mesh_axes("sequence")

    def body(q_bthN, q_bthR, keys, masks):
        keys_S = [gather(key, axes) for key in keys]
        return attend(q_bthN, q_bthR, *keys_S, scale, **masks_of(q_bthN, masks, axes))

    keys = (k_BTHN, k_BTR, v_BTHU)
    key_axes = ("batch sequence heads nope", "batch sequence rotary", "batch sequence heads value")
    masks = {} if segment_BT is None else {"segment_BS": segment_BT}
    inputs = (*QUERIES, key_axes, dict.fromkeys(masks, "batch sequence"))

    # splash has no rule for what differs between devices
    opaque = attend is kernels.attend_splash
    run = local(body, inputs, "batch sequence heads value", opaque)
    return run(q_BTHN, q_BTHR, keys, masks)


def attend_gathered(
    kernel: str,
    q_BTHN: Array,
    q_BTHR: Array,
    c_BTC: Array,
    k_BTR: Array,
    weights: tuple[Array, Array],
    expand: Callable[..., tuple[Array, Array]],
    scale: float,
    segment_BT: Array | None,
) -> Array:
    """Attend as `attend_causal` does where sequences are split, gathering latents alone.

    Per token C + R numbers travel, and as many come back as gradients. `expand(c_BSC, *weights)`
    gives the keys and values of heads, k_BSHN and v_BSHU; `weights` are [C, H, ...]. The heads take
    turns, so that no more of a gathered sequence is expanded at once than if each device expanded
    its own part of it for all heads.
    """
    attend = find_kernel(kernel)
    axes = mesh_axes("sequence")
    C = c_BTC.shape[-1]

    def body(q_bthN, q_bthR, latent_btX, masks, *weights):
        latent_bSX = gather(latent_btX, axes)
        c_bSC, k_bSR = latent_bSX[..., :C], latent_bSX[..., C:]
        of_keys = masks_of(q_bthN, masks, axes)

        @partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names("product"))
        def attend_some(heads):
            q_bthN, q_bthR, *weights = heads
            k_bShN, v_bShU = expand(c_bSC, *weights)
            return attend(q_bthN, q_bthR, k_bShN, k_bSR, v_bShU, scale, **of_keys)

        turns = math.gcd(q_bthN.shape[2], split_by("sequence"))
        queries = [in_turns(q, turns, 2) for q in (q_bthN, q_bthR)]
        o_gbthU = jax.lax.map(attend_some, (*queries, *[in_turns(w, turns, 1) for w in weights]))
        o_bgthU = o_gbthU.swapaxes(0, 1)
        o_btghU = o_bgthU.swapaxes(1, 2)
        return o_btghU.reshape(*q_bthN.shape[:3], -1)

    latent_BTX = jnp.concatenate([c_BTC, k_BTR], -1)
    masks = {} if segment_BT is None else {"segment_BS": segment_BT}
    of_weights = ["- heads -"] * len(weights)
    inputs = (*QUERIES, "batch sequence -", dict.fromkeys(masks, "batch sequence"), *of_weights)
    run = local(body, inputs, "batch sequence heads value")
    return run(q_BTHN, q_BTHR, latent_BTX, masks, *weights)


def find_kernel(name: str) -> Callable[..., Array]:
    """Return the causal kernel of this name; auto is the fastest that the mesh allows."""
    if name != "auto":
        return getattr(kernels, f"attend_{name}")
    fastest = kernels.pick(platform())
    if fastest is kernels.attend_splash and mesh_axes("sequence"):
        return kernels.attend_block
    return fastest


def masks_of(q_bthN: Array, masks: dict[str, Array], axes: tuple[str, ...]) -> dict[str, Array]:
    """Return what a kernel must know of this device's queries and of all keys, inside `local`."""
    of_keys = {name: gather(x_bt, axes) for name, x_bt in masks.items()}
    if axes:
        of_keys["position_T"] = own_positions(q_bthN.shape[1], axes)
    return of_keys


def in_turns(x: Array, turns: int, axis: int) -> Array:
    """Return an array with an axis cut into `turns` parts, the parts in front."""
    parts = x.reshape(*x.shape[:axis], turns, -1, *x.shape[axis + 1 :])
    return jnp.moveaxis(parts, axis, 0)


def masked_softmax(score_BHTS: Array, scale: float, mask_B1TS: Array) -> Array:
    """Return the softmax over S, computed in float32, in the dtype of the scores."""
    score32_BHTS = score_BHTS.astype(jnp.float32) * scale
    score32_BHTS = jnp.where(mask_B1TS, score32_BHTS, -jnp.inf)
    weight_BHTS = jax.nn.softmax(score32_BHTS, -1)
    return weight_BHTS.astype(score_BHTS.dtype)


def visible(length: int, slots: int, start: Any) -> Array:
    """Return which cache slots each query sees: those up to its own position, start + t.

    The mask is [B, 1, T, S], with B = 1 if all rows start at one position.
    """
    start_B111 = jnp.reshape(start, (-1, 1, 1, 1))
    position_B1T1 = start_B111 + jnp.arange(length)[:, None]
    return jnp.arange(slots) <= position_B1T1


def write(cache: Cache, start: Any, axes: str, **new: Array) -> Cache:
    """Return the cache with the new tokens' entries from position `start` on.

    `start` is one position, or [B] for rows that each have their own. `axes` are the logical axes
    of every entry, as "batch sequence -".
    """
    put: Callable = partial(jax.lax.dynamic_update_slice_in_dim, axis=1)
    if jnp.ndim(start):
        put = jax.vmap(partial(jax.lax.dynamic_update_slice_in_dim, axis=0))

    written = {}
    for name, x in new.items():
        old = cache[name]
        updated = put(old, x.astype(old.dtype), start)
        written[name] = constrain(updated, axes)
    return written
