"""Load balance: the sequence-wise loss (V3 equations 17 to 20) and the bias update without a loss
(arXiv 2408.15664, algorithm 1)."""

import numpy as np


def sequence_balance(score, choice):
    """Sum over experts of f_i P_i for one sequence, before alpha; 1 when balanced. score [T, E] as
    the router's, choice [T, K].

    f_i = E / (K T) x the tokens that chose i;  P_i = the mean over tokens of s_i / sum_j s_j.
    """
    score = np.asarray(score, np.float64)
    (tokens, experts), per_token = score.shape, len(choice[0])
    total = 0.0
    for i in range(experts):
        f = (
            experts
            / (per_token * tokens)
            * sum(i in chosen for chosen in np.asarray(choice).tolist())
        )
        p = sum(token[i] / token.sum() for token in score) / tokens
        total += f * p
    return total


def device_balance(score, choice, devices):
    """V2 equations 26-28: sum over devices of the mean f_j of its experts times the sum of P_j."""
    score = np.asarray(score, np.float64)
    (tokens, experts), per_token = score.shape, len(choice[0])
    chosen = np.asarray(choice).tolist()
    size, total = experts // devices, 0.0
    for device in range(devices):
        own = range(device * size, (device + 1) * size)
        f = [experts / (per_token * tokens) * sum(j in row for row in chosen) for j in own]
        p = [sum(token[j] / token.sum() for token in score) / tokens for j in own]
        total += sum(f) / size * sum(p)
    return total


def communication_balance(score, choice, devices, limit):
    """V2 equations 29-31: sum over devices of D / (M T) x the tokens sent there times the sum of
    P_j, M being how many devices a token may visit."""
    score = np.asarray(score, np.float64)
    tokens, experts = score.shape
    size, total = experts // devices, 0.0
    for device in range(devices):
        own = range(device * size, (device + 1) * size)
        sent = sum(any(j in own for j in row) for row in np.asarray(choice).tolist())
        p = sum(token[j] / token.sum() for token in score for j in own) / tokens
        total += devices / (limit * tokens) * sent * p
    return total


def loads(choice, experts):
    """How many tokens chose each expert."""
    return [
        sum(row.count(i) for row in np.asarray(choice).reshape(-1, np.shape(choice)[-1]).tolist())
        for i in range(experts)
    ]


def updated_bias(bias, load, rate):
    """b_i + rate x sign(mean load - load_i): the overloaded become less attractive, each by the
    same amount."""
    mean = sum(load) / len(load)
    return [b + rate * ((x < mean) - (x > mean)) for b, x in zip(bias, load, strict=True)]


def max_violation(load):
    """How far the fullest expert lies above the mean, as a share of the mean."""
    mean = sum(load) / len(load)
    return (max(load) - mean) / mean
