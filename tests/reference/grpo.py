"""The objectives of seven papers in plain loops over groups, outputs and tokens: what is maximised,
with the minus sign of a loss.

A group is a list of outputs, an output a dict of a reward and the log-probabilities, per token, of
the policy ("new"), of the trainer at the rollout ("old"), of the sampler ("sampler") and of the
reference ("ref"). "at" is where the policy stood: what a stop-gradient reads.
"""

import math
import statistics


def standardised(group):
    """DeepSeekMath section 4.1.2: (r - mean) / std."""
    rewards = [output["reward"] for output in group]
    mean, std = statistics.mean(rewards), statistics.stdev(rewards)
    return [(reward - mean) / std if std > 0 else 0.0 for reward in rewards]


def centred(group):
    mean = statistics.mean(output["reward"] for output in group)
    return [output["reward"] - mean for output in group]


def clip(x, low, high):
    return min(max(x, low), high)


def pessimistic(ratio, advantage, low, high):
    return min(ratio * advantage, clip(ratio, 1 - low, 1 + high) * advantage)


def k3(new, ref):
    return math.exp(ref - new) - (ref - new) - 1


def per_sequence(groups, how, low, high, beta):
    """DeepSeekMath equation 3."""
    total = 0.0
    for group in groups:
        for output, advantage in zip(group, how(group)):
            new, old, ref = output["new"], output["old"], output["ref"]
            inner = 0.0
            for t in range(len(new)):
                inner += pessimistic(math.exp(new[t] - old[t]), advantage, low, high) - beta * k3(
                    new[t], ref[t]
                )
            total += inner / len(new)
    return -total / sum(len(group) for group in groups)


def grpo(groups, length):
    return per_sequence(groups, standardised, 0.2, 0.2, 0.04)


def r1(groups, length):
    return per_sequence(groups, standardised, 10, 10, 0.001)


def v3_2(groups, length, delta=0.5):
    """DeepSeek-V3.2 section 3.1: unbiased KL, off-policy sequence masking against the sampler's
    probabilities."""
    total, count = 0.0, 0
    for group in groups:
        for output, advantage in zip(group, centred(group)):
            new, old, ref = output["new"], output["old"], output["ref"]
            drift = sum(output["sampler"][t] - output["at"][t] for t in range(len(new))) / len(new)
            kept = 0 if advantage < 0 and drift > delta else 1
            inner = 0.0
            for t in range(len(new)):
                ratio = math.exp(new[t] - old[t])
                inner += pessimistic(ratio, advantage, 0.2, 0.2) * kept - 0.001 * ratio * k3(
                    new[t], ref[t]
                )
            total += inner / len(new)
            count += 1
    return -total / count


def dr_grpo(groups, length):
    """Dr. GRPO: a constant in place of |o_i|."""
    total = 0.0
    for group in groups:
        for output, advantage in zip(group, centred(group)):
            for new, old in zip(output["new"], output["old"]):
                total += pessimistic(math.exp(new - old), advantage, 0.2, 0.2) / length
    return -total / sum(len(group) for group in groups)


def dapo(groups, length):
    """DAPO equation 8, over all tokens of the minibatch."""
    total, tokens = 0.0, 0
    for group in groups:
        for output, advantage in zip(group, standardised(group)):
            for new, old in zip(output["new"], output["old"]):
                total += pessimistic(math.exp(new - old), advantage, 0.2, 0.28)
                tokens += 1
    return -total / tokens


def gspo(groups, length):
    """GSPO equations 5 and 7."""
    total, count = 0.0, 0
    for group in groups:
        for output, advantage in zip(group, standardised(group)):
            likelihood = math.exp(sum(output["new"])) / math.exp(sum(output["old"]))
            total += pessimistic(likelihood ** (1 / len(output["new"])), advantage, 3e-4, 4e-4)
            count += 1
    return -total / count


def cispo(groups, length):
    """MiniMax-M1 equations 4 and 5: the clipped weight is a constant."""
    total, tokens = 0.0, 0
    for group in groups:
        for output, advantage in zip(group, standardised(group)):
            for new, old, at in zip(output["new"], output["old"], output["at"]):
                total += clip(math.exp(at - old), 0, 5) * advantage * new
                tokens += 1
    return -total / tokens


LOSS = {
    "grpo": grpo,
    "r1": r1,
    "v3_2": v3_2,
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "gspo": gspo,
    "cispo": cispo,
}


def gradient(loss, groups, length, step=1e-6):
    """Central differences with respect to every "new", [group][output][token]; "at" stays where it
    is."""
    slopes = []
    for group in groups:
        slopes.append([])
        for output in group:
            slopes[-1].append([])
            for t, here in enumerate(output["new"]):
                ends = []
                for shift in (step, -step):
                    output["new"][t] = here + shift
                    ends.append(loss(groups, length))
                output["new"][t] = here
                slopes[-1][-1].append((ends[0] - ends[1]) / (2 * step))
    return slopes
