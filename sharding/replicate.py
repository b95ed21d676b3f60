"""Where the experts of a layer live if some have copies: expert placement with redundant experts
(EPLB, V3 section 3.4).

Popular experts get copies, and all copies are packed on devices so that each has about the same
load. A *physical* expert is a place on a device that holds the weights of one *logical* expert.
NumPy alone: a placement is made once, from loads that were measured.
"""

from typing import NamedTuple

import numpy as np


class Placement(NamedTuple):
    """Physical experts of one layer; device d of D has those from d P / D on."""

    logical_P: np.ndarray  # the logical expert of each physical one
    physical_EC: np.ndarray  # the physical experts of each logical one, -1 where there are fewer
    copies_E: np.ndarray  # how many

    def device_load(self, load_E: np.ndarray, devices: int) -> np.ndarray:
        """Return the load of each device if the copies of an expert share its load equally."""
        share_E = load_E / self.copies_E
        return share_E[self.logical_P].reshape(devices, -1).sum(-1)


def place_experts(
    load_E: np.ndarray,
    physical: int,
    devices: int,
    nodes: int = 1,
    groups: int = 1,
) -> Placement:
    """Return the placement of a layer's experts that balances this load.

    Hierarchical if the expert groups divide by the nodes: groups are packed on nodes, so that a
    group stays within one; experts are copied within each node, and packed on its devices. Else
    global: the same as if all were one group in one node.

    Raises ValueError if the numbers do not divide, or if there are fewer places than experts.
    """
    experts = load_E.size
    if physical < experts:
        raise ValueError(
            f"{experts} experts do not fit into {physical} places: give at least one to each."
        )
    if groups % nodes:
        groups = nodes = 1
    for name, number, parts in (
        ("places of experts", physical, devices),
        ("devices", devices, nodes),
        ("experts", experts, groups),
    ):
        if number % parts:
            raise ValueError(f"{number} {name} cannot be split into {parts} equal parts.")

    # Groups on nodes: experts in the order of their nodes
    load_E = np.asarray(load_E, np.float64)
    group_load_G = load_E.reshape(groups, -1).sum(-1)
    expert_GX = np.arange(experts).reshape(groups, -1)
    groups_NX = balanced_packing(group_load_G, nodes)
    experts_NX = expert_GX[groups_NX].reshape(nodes, -1)

    logical_P = []
    for expert_X in experts_NX:
        # Copies within the node
        copied_x, copies_X = replicate(load_E[expert_X], physical // nodes)

        # Physical experts on the node's devices
        share_x = (load_E[expert_X] / copies_X)[copied_x]
        packs_Dx = balanced_packing(share_x, devices // nodes)
        logical_P.append(expert_X[copied_x[packs_Dx.reshape(-1)]])
    return _placement(np.concatenate(logical_P), experts)


def balanced_packing(load_X: np.ndarray, packs: int) -> np.ndarray:
    """Return the items of each pack, [packs, items]: equally many, with about equal loads.

    The heaviest item first, each goes to the lightest pack with room.
    """
    room = load_X.size // packs
    if room == 1:
        return np.arange(packs)[:, None]

    items: list[list[int]] = [[] for _ in range(packs)]
    total_P = np.zeros(packs)
    for item in np.argsort(-load_X, kind="stable"):
        is_full_P = np.array([len(pack) == room for pack in items])
        lightest = np.where(is_full_P, np.inf, total_P).argmin()
        items[lightest].append(item)
        total_P[lightest] += load_X[item]
    return np.array(items)


def replicate(load_X: np.ndarray, physical: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the item of each physical one, and the copies of each item.

    Each item once, then again and again the one whose copies have the most load each.
    """
    copies_X = np.ones(load_X.size, int)
    items = list(range(load_X.size))
    while len(items) < physical:
        heaviest = int((load_X / copies_X).argmax())
        items.append(heaviest)
        copies_X[heaviest] += 1
    return np.array(items), copies_X


def _placement(logical_P: np.ndarray, experts: int) -> Placement:
    """Return a placement by its physical experts."""
    copies_E = np.bincount(logical_P, minlength=experts)
    physical_EC = np.full((experts, copies_E.max()), -1)
    for expert in range(experts):
        places = np.flatnonzero(logical_P == expert)
        physical_EC[expert, : places.size] = places
    return Placement(logical_P, physical_EC, copies_E)
