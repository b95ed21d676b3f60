"""Expert dispatch and combine: the one communication that is written out instead of left to the
compiler.

Every exchange has one signature and runs inside `local`, on each device's m tokens:

    exchange(x_mD, choice_mK, gate_mK, weights, experts, axes, capacity) -> (y_mD, dropped)

Those that sort rows also take `wire`, functions that pack rows on the way to the experts
(sharding/exchange/wire.py).

A row (token, choice) whose choice is past the last expert is left out. `weights` are the local
experts' matrices. `experts(x_RD, mix_R, *weights, size_E) -> y_RD` applies them to rows
sorted by expert and scales each row by its gate. `axes` are the mesh axes that split the experts;
with () nothing is exchanged. `dropped` counts the rows that this device's tokens lost.

    dense        every token visits every expert: the reference
    static       sort, all-to-all in buffers of a fixed size, sort, experts, and back; dropless if
                 capacity is 0
    ragged       the same rows in an all-to-all of their true number, where the backend has one
                 (TPU)
    two_hop      between nodes each token once, then as `static` within each node; and
                 two_hop_ragged, as `ragged`
    small_batch  every token to every device, for the few tokens of a decoding step; its `experts`
                 is another, see sharding/exchange/small_batch.py
"""

import inspect
from functools import partial

from sharding.exchange.dense import exchange_dense
from sharding.exchange.ragged import exchange_ragged
from sharding.exchange.small_batch import exchange_small_batch
from sharding.exchange.sorted_rows import Exchange
from sharding.exchange.static import exchange_static
from sharding.exchange.two_hop import exchange_two_hop, exchange_two_hop_ragged
from sharding.exchange.wire import Wire

__all__ = ["EXCHANGES", "Exchange", "exchange_small_batch", "fastest", "packing"]

EXCHANGES: dict[str, Exchange] = {
    "dense": exchange_dense,
    "static": exchange_static,
    "ragged": exchange_ragged,
    "two_hop": exchange_two_hop,
    "two_hop_ragged": exchange_two_hop_ragged,
    "small_batch": exchange_small_batch,
}


def packing(exchange: Exchange, wire: Wire) -> Exchange:
    """Return the exchange with rows packed by this wire. Raises ValueError if it does not pack."""
    if "wire" not in inspect.signature(exchange).parameters:
        raise ValueError("this exchange sends rows only as they are: choose one that packs them.")
    return partial(exchange, wire=wire)  # pyright: ignore[reportCallIssue]


def fastest(platform: str, peers: int, nodes: int = 1) -> str:
    """Return the name of the fastest exchange between this many devices of a platform, which are
    in this many nodes.

    It is "ragged" if the backend has a native ragged all-to-all and there are peers to send to.
    Between nodes it is that of two hops. They cost a longer sort and at most as many rows within a
    node; in return a device sends `tokens` rows to each other node, where the flat exchange has one
    buffer of `tokens` x min(K, local experts) for each device there.
    """
    if nodes > 1:
        return "two_hop_ragged" if platform == "tpu" else "two_hop"
    return "ragged" if platform == "tpu" and peers > 1 else "static"
