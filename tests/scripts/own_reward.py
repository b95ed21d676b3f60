"""Rewards of a user's own, by dotted path."""


def vowels(problem, text, tokens):
    """The share of vowels: something that a random model's samples differ in."""
    return sum(text.count(vowel) for vowel in "aeiou") / max(len(text), 1)


def picky(problem, text, tokens):
    """Fails on some samples."""
    if "a" in text:
        raise ZeroDivisionError("an a")
    return len(text) / 100


def broken(problem, text, tokens):
    return float("nan")


TEXTS: list[str] = []  # that were rewarded so far


def fails_on_the_second_rollout(problem, text, tokens):
    TEXTS.append(text)
    return vowels(problem, text, tokens) if len(TEXTS) <= 16 else float("nan")
