"""Small stories with a known entropy: the floor that a model's loss can reach and never pass.

    Mia had a red kite and the fox had a blue boat. They met in the garden. She was happy to see the fox. That night the fox dreamt of the blue boat.

To come near the floor a model must look back: who is `She`, which of two colours goes with which
thing, where they met.
"""

import random

from seekjax.data.sources.grammar import Grammar

_HEROES = {
    "Mia": "she",
    "Tom": "he",
    "Ada": "she",
    "Ben": "he",
    "Zoe": "she",
    "Max": "he",
    "Ivy": "she",
    "Sam": "he",
}
_COLOURS = ("red", "blue", "green", "white", "black", "yellow")
_THINGS = ("kite", "boat", "ball", "drum", "book", "hat", "bell", "lamp")

GRAMMAR = Grammar(
    acts=(
        (
            "{hero} had a {colour} {thing} and the {friend} had a {shade} {toy}. ",
            "The {friend} found a {shade} {toy} for {hero}, who had lost a {colour} {thing}. ",
            "There was a {colour} {thing} that {hero} liked and a {shade} {toy} that the "
            "{friend} liked. ",
        ),
        (
            "They met in the {place}. ",
            "{She} ran to the {place}. ",
            "The {friend} hid the {toy} in the {place}. ",
            "{She} took the {thing} to the {place}. ",
        ),
        (
            "{hero} was {mood} to be in the {place}.\n",
            "That night the {friend} dreamt of the {shade} {toy}.\n",
            "That night {she} dreamt of the {colour} {thing}.\n",
            "{She} was {mood} and gave {her} {colour} {thing} to the {friend}.\n",
        ),
    ),
    slots={
        "hero": tuple(_HEROES),
        "friend": ("fox", "bear", "owl", "frog", "mouse", "goose"),
        "colour": _COLOURS,
        "thing": _THINGS,
        "shade": _COLOURS,
        "toy": _THINGS,
        "place": ("garden", "forest", "barn", "river", "market", "school"),
        "mood": ("happy", "glad", "proud", "afraid"),
    },
    agreement={
        "she": ("hero", _HEROES),
        "She": ("hero", {name: word.capitalize() for name, word in _HEROES.items()}),
        "her": (
            "hero",
            {name: {"she": "her", "he": "his"}[word] for name, word in _HEROES.items()},
        ),
    },
)
SAMPLE = 20_000  # stories over which tokens are counted where they cannot be counted exactly

generate = GRAMMAR.sample
log_prob = GRAMMAR.log_prob
entropy = GRAMMAR.entropy
expected_bytes = GRAMMAR.expected_bytes


def entropy_per_byte() -> float:
    """Exact nats per byte of a long stream of stories."""
    return entropy() / expected_bytes()


def expected_tokens(tokenizer) -> float:
    """Expected tokens per story, its end-of-document token included.

    Exact where every token is one byte; otherwise the mean over the same 20,000 stories each time
    (its standard error is below 0.1%).
    """
    rng = random.Random("stories/tokens")
    story = generate(rng)
    if len(tokenizer.encode(story)) == len(story.encode()):
        return expected_bytes() + 1
    return 1 + sum(len(tokenizer.encode(generate(rng))) for _ in range(SAMPLE)) / SAMPLE


def entropy_per_token(tokenizer) -> float:
    """Nats per token of a long stream of stories: the least loss any model can reach on it.

    The stream is packed across documents, so its end-of-document tokens count in the mean although
    they cost nothing to predict.
    """
    return entropy() / expected_tokens(tokenizer)
