"""The form in which rows travel to their experts: as they are, or packed into fewer bytes.

What the bytes mean is not known here: a `Wire` has the functions that pack and unpack rows. Only
dispatch is packed, and the dispatch of gradients, which is the gradient of combine. Combine and its
counterpart, the gradient of dispatch, carry sums and stay as they are (V3 section 3.3.3).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import jax
from flax import struct
from jax.typing import DTypeLike

Packed = tuple[jax.Array, ...]


class Wire(NamedTuple):
    """How to pack rows. Zeros must unpack to zeros: they are the padding of buffers."""

    pack: Callable[[jax.Array], Packed]  # [rows, D] -> arrays of one row for each
    unpack: Callable[[Packed, DTypeLike], jax.Array]  # the inverse, in this type


class Route(Protocol):
    """How the rows of one exchange travel between the peers; a tree of arrays."""

    expert_R: jax.Array  # the local expert of each row that arrives; past the end for padding

    def send(self, x_nD: jax.Array) -> jax.Array:
        """Return the rows that arrive here, by sender, padded; x_nD is sorted by expert."""
        ...

    def give_back(self, y_RD: jax.Array) -> jax.Array:
        """Return each row to where it came from: the inverse of `send`."""
        ...


class Stay(struct.PyTreeNode):
    """The route of rows that stay where they are: they are rounded as on any other."""

    expert_R: jax.Array

    def send(self, x_nD: jax.Array) -> jax.Array:
        """Return the rows."""
        return x_nD

    def give_back(self, y_RD: jax.Array) -> jax.Array:
        """Return the rows."""
        return y_RD


def dispatch(x_nD: jax.Array, route: Route, wire: Wire | None) -> jax.Array:
    """Return what arrives if x is sent along the route, packed on the way."""
    return route.send(x_nD) if wire is None else _dispatch(wire, x_nD, route)


def combine(y_RD: jax.Array, route: Route, wire: Wire | None) -> jax.Array:
    """Return the rows of y where they came from; their gradients will be packed on the way."""
    return route.give_back(y_RD) if wire is None else _combine(wire, y_RD, route)


def _packed_send(wire: Wire, x_nD: jax.Array, route: Route) -> jax.Array:
    arrays = [route.send(array) for array in wire.pack(x_nD)]
    return wire.unpack(tuple(arrays), x_nD.dtype)


def _plain_give_back(wire: Wire, y_RD: jax.Array, route: Route) -> jax.Array:
    return route.give_back(y_RD)


# Each is the gradient of the other.
_dispatch = partial(jax.custom_vjp, nondiff_argnums=(0,))(_packed_send)
_combine = partial(jax.custom_vjp, nondiff_argnums=(0,))(_plain_give_back)


def _dispatch_forward(wire, x_nD, route):
    return _packed_send(wire, x_nD, route), route


def _dispatch_backward(wire, route, dx_RD):
    return _plain_give_back(wire, dx_RD, route), None


def _combine_forward(wire, y_RD, route):
    return _plain_give_back(wire, y_RD, route), route


def _combine_backward(wire, route, dy_nD):
    return _packed_send(wire, dy_nD, route), None


_dispatch.defvjp(_dispatch_forward, _dispatch_backward)
_combine.defvjp(_combine_forward, _combine_backward)
