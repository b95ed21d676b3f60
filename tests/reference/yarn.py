"""YaRN (arXiv 2309.00071, as DeepSeek-V2 section 3.1.4 and V3 section 4.3 set it)."""

import math

import numpy as np


def corrections(width, base, original, beta_fast=32, beta_slow=1):
    """The pairs between which frequencies move from kept to divided: where `beta` rotations fit in
    the original context."""

    def pair(beta):
        return width * math.log(original / (2 * math.pi * beta)) / (2 * math.log(base))

    return max(math.floor(pair(beta_fast)), 0), min(math.ceil(pair(beta_slow)), width - 1)


def frequencies(width, base=10000.0, factor=40.0, original=4096, beta_fast=32, beta_slow=1):
    """The angle per position of each of the width / 2 pairs."""
    low, high = corrections(width, base, original, beta_fast, beta_slow)
    result = []
    for i in range(width // 2):
        plain = base ** (-2 * i / width)
        ramp = min(max((i - low) / (high - low), 0), 1)
        result.append(plain * (1 - ramp) + plain / factor * ramp)
    return np.array(result)


def temperature(factor, mscale):
    """0.1 mscale ln s + 1: V2 writes it as 0.0707 ln s + 1, V3 as 0.1 ln s + 1."""
    return 0.1 * mscale * math.log(factor) + 1


def softmax_scale(key_width, factor, mscale_all):
    """What multiplies q . k before the softmax."""
    return key_width**-0.5 * temperature(factor, mscale_all) ** 2
