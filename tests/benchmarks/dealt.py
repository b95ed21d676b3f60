"""The control of reinforcement: rewards that are dealt out regardless of the answer, to as many
samples as are right at the start."""

import hashlib

SHARE = 0.2


def reward(problem, text: str, tokens: int) -> float:
    """1 for a fifth of all texts, by their hash: nothing can be learnt from it, and a run that was
    stopped meets the same rewards again."""
    digest = hashlib.blake2b(f"{problem.key}/{text}".encode(), digest_size=8).digest()
    return float(int.from_bytes(digest, "big") / 2**64 < SHARE)
