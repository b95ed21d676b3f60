"""The mixture of experts, token by token (V3 equation 12): y = shared(x) + sum of gate_i
expert_i(x)."""

import numpy as np


def swiglu(x, w_gate, w_up, w_down):
    """(silu(x w_gate) * x w_up) w_down; silu(z) = z / (1 + exp(-z)). w_gate, w_up [D, F], w_down
    [F, D]."""
    z = x @ w_gate
    return (z / (1 + np.exp(-z)) * (x @ w_up)) @ w_down


def mixture(x, choice, gate, routed, shared):
    """x [T, D], choice and gate [T, K]; routed is (w_gate [E, D, F], w_up [E, D, F], w_down [E, F,
    D]), shared the same without E."""
    x, gate = np.asarray(x, np.float64), np.asarray(gate, np.float64)
    routed, shared = ([np.asarray(w, np.float64) for w in weights] for weights in (routed, shared))
    out = np.zeros_like(x)
    for t, token in enumerate(x):
        out[t] = swiglu(token, *shared)
        for expert, share in zip(choice[t], gate[t], strict=True):
            out[t] += share * swiglu(token, *(w[expert] for w in routed))
    return out
