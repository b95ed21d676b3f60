"""AdamW as DeepSeek trains with it (1711.05101; V3 section 4.2), in float64, weight by weight."""

import numpy as np


def norm(grads):
    """The root of the sum of squares over all weights."""
    return np.sqrt(sum((np.asarray(g, np.float64) ** 2).sum() for g in grads.values()))


def train(params, gradients, rates, decayed, beta1, beta2, eps, decay, clip):
    """The weights after one step per gradient. decayed: the names that weight decay applies to.

    g is scaled down to norm clip; m and v are means of g and g^2 without the bias of their zero
    start; w loses rate x (m / (sqrt(v) + eps) + decay w).
    """
    w = {name: np.asarray(x, np.float64) for name, x in params.items()}
    m = {name: np.zeros_like(x) for name, x in w.items()}
    v = {name: np.zeros_like(x) for name, x in w.items()}
    for t, (grads, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        scale = min(1.0, clip / norm(grads)) if clip else 1.0
        for name in w:
            g = np.asarray(grads[name], np.float64) * scale
            m[name] = beta1 * m[name] + (1 - beta1) * g
            v[name] = beta2 * v[name] + (1 - beta2) * g**2
            step = m[name] / (1 - beta1**t) / (np.sqrt(v[name] / (1 - beta2**t)) + eps)
            if name in decayed:
                step = step + decay * w[name]
            w[name] = w[name] - rate * step
    return w
