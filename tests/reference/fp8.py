"""A linear layer in DeepSeek-V3's FP8 (section 3.3), element by element, in NumPy.

E4M3 is rounded by its definition here, not by a library's cast.
"""

import math

import numpy as np

TILE = 128


def e4m3(x):
    """The nearest of E4M3's finite values: 4 bits of exponent from 2^-6 up, 3 of mantissa."""
    return minifloat(x, mantissa=3, least_exponent=-6, largest=448.0)


def e5m6(x):
    return minifloat(x, mantissa=6, least_exponent=-14, largest=65024.0)


def minifloat(x, mantissa, least_exponent, largest):
    x = np.clip(np.asarray(x, np.float64), -largest, largest)
    _, exponent = np.frexp(x)  # |x| in [2^(exponent - 1), 2^exponent)
    step = np.exp2(np.maximum(exponent - 1, least_exponent) - mantissa)
    return np.rint(x / step) * step  # rint: halves to even


def scale_of(tile, ue8m0, largest=448.0, floor=1e-4):
    """amax / 448 of one tile in float32, or the power of two at or above it."""
    amax = max(np.float32(np.abs(tile).max()), np.float32(floor))
    scale = np.float32(amax / np.float32(largest))
    return np.float32(2.0 ** math.ceil(math.log2(scale))) if ue8m0 else scale


def rounded(x, down, across, ue8m0=False, cast=e4m3, largest=448.0, floor=1e-4):
    """(values, scale of every entry) of a matrix in tiles; those at the edges may be smaller."""
    values, scales = np.zeros(x.shape), np.zeros(x.shape)
    for i in range(0, x.shape[0], down):
        for j in range(0, x.shape[1], across):
            at = slice(i, i + down), slice(j, j + across)
            scale = scale_of(x[at], ue8m0, largest, floor)
            values[at] = cast(np.float32(x[at]) / scale)
            scales[at] = scale
    return values, scales


def product(a, b):
    """The sum of partial products over 128 terms, each times both scales."""
    (a, a_scale), (b, b_scale) = a, b
    total = np.zeros((a.shape[0], b.shape[1]))
    for k in range(0, a.shape[1], TILE):
        part = a[:, k : k + TILE] @ b[k : k + TILE]
        total += part * a_scale[:, k : k + 1] * b_scale[k : k + 1]
    return total


def transposed(rounded):
    return tuple(part.T for part in rounded)


def linear(x, w, dy, ue8m0=False, keep_e5m6=False, gradient_blocks=False):
    """(y, dx, dw) of one sequence x [T, K], w [K, N], dy [T, N]."""
    x_rows = rounded(x, 1, TILE, ue8m0)
    w_blocks = rounded(w, TILE, TILE, ue8m0)
    y = product(x_rows, w_blocks)

    values, scale = x_rows
    if keep_e5m6:
        values, scale = rounded(x, 1, TILE, True, e5m6, 65024.0)
    x_columns = rounded(np.float32(np.float32(values) * np.float32(scale)), TILE, 1, ue8m0)

    if gradient_blocks:
        dy_rows = dy_columns = rounded(dy, TILE, TILE, ue8m0, floor=1e-30)
    else:
        dy_rows = rounded(dy, 1, TILE, ue8m0, floor=1e-30)
        dy_columns = rounded(dy, TILE, 1, ue8m0, floor=1e-30)
    dx = product(dy_rows, transposed(w_blocks))
    dw = product(transposed(x_columns), dy_columns)
    return y, dx, dw
