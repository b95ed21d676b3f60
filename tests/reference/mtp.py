"""Multi-token prediction (V3 section 2.2, equations 21 to 25): who is fed, who is predicted, and
how the losses add up."""

import numpy as np


def tasks(length, depth):
    """(position, token fed, token predicted) at a depth, for `length` positions that read tokens 0
    .. length - 1 and know token `length`.

    At depth k position i holds the state that read tokens up to i + k - 1, is fed token i + k and
    predicts token i + k + 1; depth 0 is the main model, which is fed token i. The last k positions
    of the sequence have nothing left to predict.
    """
    return [(i, i + depth, i + depth + 1) for i in range(length - depth)]


def depth_loss(logits, tokens, depth):
    """Equation 24: minus the sum of log-probabilities of the predicted tokens, over all T
    positions. logits [T, V], tokens [T + 1]."""
    length, total = len(tokens) - 1, 0.0
    for position, _, predicted in tasks(length, depth):
        row = np.asarray(logits[position], np.float64)
        total -= row[tokens[predicted]] - row.max() - np.log(np.exp(row - row.max()).sum())
    return total / length


def loss(main_logits, mtp_logits, tokens, weight):
    """The main loss plus weight / D times the sum over the D depths (equation 25). mtp_logits is a
    list of D arrays [T, V]."""
    extra = [depth_loss(logits, tokens, depth) for depth, logits in enumerate(mtp_logits, start=1)]
    return depth_loss(main_logits, tokens, 0) + weight * sum(extra) / max(len(extra), 1)
