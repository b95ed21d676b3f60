"""What the logical axes of a weight say about it."""

from optax.contrib import MuonDimensionNumbers


def decays(axes: str) -> bool:
    """Weight decay is for matrices, stacked or not; a norm's scale has one axis beside the
    layers."""
    return len([name for name in axes.split() if name != "layers"]) > 1


def matrix(axes: str) -> MuonDimensionNumbers | None:
    """Which axes Muon multiplies from and to; None for embedding, head and norms, which stay with
    Adam.

    The axes after layers and experts go from the first to the rest, or from all but the last to the
    width they return to.
    """
    names = axes.split()
    if "vocab" in names or not decays(axes):
        return None
    inner = [i for i, name in enumerate(names) if name not in ("layers", "experts")]
    if "experts" in names and len(inner) == 1:  # the router: embed to experts
        inner.append(names.index("experts"))
    split = -1 if names[inner[-1]] == "embed" else 1
    return MuonDimensionNumbers(tuple(inner[:split]), tuple(inner[split:]))
