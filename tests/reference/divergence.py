"""Kullback-Leibler divergences of a student and its teacher in NumPy, row by row."""

import numpy as np


def numpy_kl(p, q, kind, top_k):
    """KL and its gradient with respect to the student's logits, row by row, from probabilities in
    double precision."""
    if kind == "reverse":

        def term(a, b):
            return b * np.log(b / a)

        def slope(a, b):
            return np.log(b / a) + 1
    else:

        def term(a, b):
            return a * np.log(a / b)

        def slope(a, b):
            return -a / b

    found, gradient = [], []
    for p_row, q_row in zip(p, q):
        top = np.argsort(-p_row, kind="stable")[:top_k] if top_k else np.arange(len(p_row))
        groups = [[v] for v in top] + ([np.setdiff1d(np.arange(len(p_row)), top)] if top_k else [])
        a, b = (np.array([row[group].sum() for group in groups]) for row in (p_row, q_row))
        found.append(term(a, b).sum())
        of_group = np.zeros((len(groups), len(p_row)))
        for number, group in enumerate(groups):
            of_group[number, group] = 1
        by_q = slope(a, b) @ of_group  # d KL / d q_v
        gradient.append(q_row * (by_q - (by_q * q_row).sum()))  # through the softmax
    return np.array(found), np.array(gradient)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
