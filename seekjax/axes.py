"""What a string of logical axes says about a weight, as in "layers heads value embed".

This is the one place that reads such strings: initialisation, weight decay, Muon, LoRA, ESFT and
quantisation ask here.
"""

from typing import NamedTuple

STACKED = ("layers", "experts")


class Matrix(NamedTuple):
    """Which axes of a weight stack matrices, and which are the inputs and outputs of each.

    All are positions from the front.
    """

    stack: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def matrix(axes: str) -> Matrix | None:
    """Return the axes of a matrix; None for a norm's scale or another vector, stacked or not.

    A matrix multiplies from its first axis to the rest, or from all but the last if that is the
    model width. In the router, "embed experts", the experts are the outputs.
    """
    names = axes.split()
    inner = [i for i, name in enumerate(names) if name not in STACKED]
    if len(inner) == 1 and "experts" in names:
        inner.append(names.index("experts"))
    if len(inner) < 2:
        return None

    stack = [i for i in range(len(names)) if i not in inner]
    ends_in_width = names[inner[-1]] == "embed"
    cut = len(inner) - 1 if ends_in_width else 1
    inputs, outputs = inner[:cut], inner[cut:]
    return Matrix(tuple(stack), tuple(inputs), tuple(outputs))


def inner_matrix(axes: str) -> Matrix | None:
    """Return the axes of a matrix between hidden states; None for embedding, head and vectors."""
    return None if "vocab" in axes.split() else matrix(axes)


def contracted(axes: str) -> tuple[int, ...]:
    """Return the axes of a matrix that its products sum over, counted from the end."""
    parts = matrix(axes)
    if parts is None:
        raise ValueError(f"{axes!r} are the axes of a vector, which has no inputs to sum over.")
    rank = len(axes.split())
    from_end = [i - rank for i in parts.inputs]
    return tuple(from_end)


def decays(axes: str) -> bool:
    """Return whether weight decay applies: to matrices, stacked or not, and to no norm's scale."""
    return matrix(axes) is not None


def has_experts(axes: str) -> bool:
    """Return whether a weight is one of routed experts, or the router."""
    return "experts" in axes.split()


def stacks_experts(axes: str) -> bool:
    """Return whether a weight holds one matrix per layer and routed expert."""
    return axes.split()[:2] == ["layers", "experts"]
