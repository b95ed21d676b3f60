"""Multi-head latent attention (V2 section 2.1, equations 9 to 19; V3 equations 1 to 11), head by
head."""

import numpy as np


def rms_norm(x, scale, eps=1e-6):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * scale


def rotate(x, positions, frequencies):
    """RoPE on interleaved pairs: the pair (2i, 2i + 1) is a complex number that turns by position x
    frequency i. x [T, R]."""
    turned = (x[:, 0::2] + 1j * x[:, 1::2]) * np.exp(1j * np.outer(positions, frequencies))
    return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


def attend(query, key, value, scale):
    """Causal softmax attention of one head, one query after the other. query, key [T, N + R], value
    [T, U]."""
    out = []
    for t in range(len(query)):
        score = key[: t + 1] @ query[t] * scale
        weight = np.exp(score - score.max())
        out.append(weight / weight.sum() @ value[: t + 1])
    return np.array(out)


def mla(x, weights, frequencies, scale, eps=1e-6):
    """Latent attention over one sequence. x [T, D] -> [T, D].

    weights: w_dq [D, Q], q_norm [Q], w_uq [Q, H, N], w_qr [Q, H, R], w_dkv [D, C], kv_norm [C],
    w_kr [D, R], w_uk [C, H, N], w_uv [C, H, U], w_o [H, U, D]. Without w_dq the queries come
    straight from x and Q is D (V2-Lite).
    """
    w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    x, positions = np.asarray(x, np.float64), np.arange(len(x))
    c_q = rms_norm(x @ w["w_dq"], w["q_norm"], eps) if "w_dq" in w else x
    c_kv = rms_norm(x @ w["w_dkv"], w["kv_norm"], eps)
    k_rotary = rotate(x @ w["w_kr"], positions, frequencies)  # one for all heads
    out = np.zeros_like(x)
    for head in range(w["w_o"].shape[0]):
        q_rotary = rotate(c_q @ w["w_qr"][:, head], positions, frequencies)
        query = np.concatenate([c_q @ w["w_uq"][:, head], q_rotary], axis=-1)
        key = np.concatenate([c_kv @ w["w_uk"][:, head], k_rotary], axis=-1)
        out += attend(query, key, c_kv @ w["w_uv"][:, head], scale) @ w["w_o"][head]
    return out
