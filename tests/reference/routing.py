"""Which experts a token visits and with what gate: V2 section 2.2.2, V3 section 2.1.2, token by
token."""

import math


def top(scores, count):
    """Indices of the largest scores, largest first; the lowest index wins a tie."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count]


def softmax(logits):
    powers = [math.exp(x - max(logits)) for x in logits]
    return [x / sum(powers) for x in powers]


def sigmoid(logits):
    return [1 / (1 + math.exp(-x)) for x in logits]


def within_groups(scores, groups, groups_kept, count, group_score):
    """The best experts among those of the best groups; groups are runs of neighbours."""
    size = len(scores) // groups
    kept = top([group_score(scores[g * size : (g + 1) * size]) for g in range(groups)], groups_kept)
    return top([score if i // size in kept else -math.inf for i, score in enumerate(scores)], count)


def route_v2(logits, groups, groups_kept, count, scale):
    """Softmax scores, a group is as good as its best expert, gates are the scores times scale.
    logits [T][E] -> choice, gate [T][K]."""
    choices, gates = [], []
    for token in logits:
        score = softmax([float(x) for x in token])
        choices.append(within_groups(score, groups, groups_kept, count, max))
        gates.append([score[i] * scale for i in choices[-1]])
    return choices, gates


def route_v3(logits, bias, groups, groups_kept, count, scale):
    """Sigmoid scores; score + bias decides who, a group being as good as its two best; the bare
    scores, made to sum to scale, decide how much."""
    choices, gates = [], []
    for token in logits:
        score = sigmoid([float(x) for x in token])
        biased = [s + float(b) for s, b in zip(score, bias, strict=True)]
        choices.append(
            within_groups(biased, groups, groups_kept, count, lambda group: sum(sorted(group)[-2:]))
        )
        total = sum(score[i] for i in choices[-1]) + 1e-20
        gates.append([score[i] / total * scale for i in choices[-1]])
    return choices, gates
