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
