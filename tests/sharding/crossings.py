"""What an exchange sends between nodes, counted: rows as the routes of the running program carry
them, and bytes of buffers from the program's text.
"""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.placement import use_mesh
from sharding.axes import NODE
from sharding.exchange.peers import peer_count, peer_index
from sharding.mesh import MeshConfig
from sharding.rules import local, mesh_axes

BITS = {"f8E4M3FN": 8, "bf16": 16, "f32": 32, "i32": 32, "ui8": 8}
ALL_TO_ALL = re.compile(
    r'"stablehlo\.all_to_all"\(.*replica_groups = dense<(.*?)> : tensor<(\d+)x(\d+)xi64>.*'
    r": \(tensor<([\dx]+)x(\w+)>\)"
)


class Crossing(NamedTuple):
    """What crosses between nodes for one token, there."""

    rows: float  # copies of it, without padding
    buffers: dict[tuple[str, int], float]  # bytes of buffers, there and back, by type and width


def count(exchange, mesh: MeshConfig, x_BTD, choice_BTK, make_route, experts: int, **options):
    """Run an exchange (those with `make_route`) whose experts do nothing, and count its crossings.

    Its gates are 1 / K, so that the result is x: raises AssertionError if it is not, to the
    precision of x.
    """
    crossing = []
    devices = mesh.node * mesh.expert

    def counted(count_PE, room, rows, axes):
        if NODE in axes:
            away_P = jnp.arange(peer_count(axes)) // (peer_count(axes) // mesh.node)
            away_P = away_P != jax.lax.axis_index(NODE)
            sent = jnp.where(away_P, count_PE[peer_index(axes)].sum(-1), 0).sum()
            jax.debug.callback(lambda sent: crossing.append(int(sent)), sent)
        return make_route(count_PE, room, rows, axes)

    def do_nothing(x_RD, mix_R, w_EDF, size_E):
        own_R = jnp.arange(mix_R.size) < size_E.sum()
        return (x_RD * jnp.where(own_R, mix_R, 0)[:, None]).astype(x_RD.dtype)

    with use_mesh(mesh):
        axes = mesh_axes("experts")

        def body(x_btD, choice_btK, w_EDF):
            x_mD = x_btD.reshape(-1, x_btD.shape[-1])
            choice_mK = choice_btK.reshape(-1, choice_btK.shape[-1])
            gate_mK = jnp.full(choice_mK.shape, 1 / choice_mK.shape[1])
            weights = (w_EDF,)
            y_mD, _ = exchange(
                x_mD, choice_mK, gate_mK, weights, do_nothing, axes, 0.0, counted, **options
            )
            return y_mD.reshape(x_btD.shape)

        token = "batch sequence -"
        run = jax.jit(local(body, (token, token, "experts - -"), token))
        arguments = (x_BTD, choice_BTK, np.zeros((experts, 1, 1), np.float32))
        lowered = run.lower(*arguments)
        y_BTD = lowered.compile()(*arguments)
        jax.effects_barrier()

    assert len(crossing) == devices
    got, expected = (np.asarray(a, np.float32) for a in (y_BTD, x_BTD))
    largest = np.abs(got - expected).max(), np.abs(expected).max()
    assert largest[0] <= 2**-4 * largest[1]
    tokens = choice_BTK.shape[0] * choice_BTK.shape[1]
    buffers = {}
    for key, size in buffer_bytes(lowered.as_text(), mesh.expert).items():
        buffers[key] = size * devices / tokens
    return Crossing(sum(crossing) / tokens, buffers)


def buffer_bytes(program: str, node_devices: int) -> dict[tuple[str, int], float]:
    """Return the bytes that device 0 sends to other nodes in all-to-all instructions, by the type
    and width of their rows.

    `program` is StableHLO, before a CPU compiler widens bfloat16 to float32.
    """
    total: dict[tuple[str, int], float] = {}
    for groups, rows, columns, shape, dtype in ALL_TO_ALL.findall(program):
        numbers = np.array(re.findall(r"\d+", groups), int).reshape(int(rows), int(columns))
        peers = numbers[(numbers == 0).any(1)][0]
        away = (peers // node_devices != 0).mean()

        sizes = [int(size) for size in shape.split("x")]
        key = dtype, sizes[-1]
        total[key] = total.get(key, 0.0) + away * np.prod(sizes) * BITS[dtype] / 8
    return total
