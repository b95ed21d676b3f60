"""The control of reinforcement: rewards that are dealt out regardless of the answer, to as many
samples as are right at the start."""

from seekjax.data.split import hash_fraction

SHARE = 0.2


def reward(problem, text: str, tokens: int) -> float:
    """1 for a fifth of all texts, by their hash: nothing can be learnt from it, and a run that was
    stopped meets the same rewards again."""
    return float(hash_fraction(f"{problem.key}/{text}") < SHARE)
