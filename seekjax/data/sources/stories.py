"""Small stories with a known entropy: the lowest loss that any model can reach on them.

For example (one line, wrapped here):

    Mia had a red kite and the fox had a blue boat. They met in the garden. That night she dreamt of
    the red kite.

To come near the entropy a model must attend to earlier words: whom `she` refers to, which of two
colours belongs to which thing, where the two met.
"""

import random
from collections.abc import Sized
from typing import Protocol

from seekjax.config import DataConfig
from seekjax.data.sources.generated import generated_split
from seekjax.data.sources.grammar import Grammar
from seekjax.data.split import Split


class Encoder(Protocol):
    """The part of a tokenizer that is used here."""

    def encode(self, text: str) -> Sized:
        """Return the token ids of a text."""
        ...


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
_POSSESSIVE = {"she": "her", "he": "his"}
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
        "She": ("hero", {name: pronoun.capitalize() for name, pronoun in _HEROES.items()}),
        "her": ("hero", {name: _POSSESSIVE[pronoun] for name, pronoun in _HEROES.items()}),
    },
)
SAMPLE = 20_000  # stories whose tokens are counted, if the number cannot be computed

generate = GRAMMAR.sample
log_prob = GRAMMAR.log_prob
entropy = GRAMMAR.entropy
expected_bytes = GRAMMAR.expected_bytes


def load(config: DataConfig) -> Split:
    """Return stories without end.

    Both sides are drawn from one distribution, without a split by hash: only then is the entropy
    the lowest possible loss on both sides.
    """
    return generated_split("stories", generate)


def expected_tokens(tokenizer: Encoder) -> float:
    """Return the expected tokens per story, its end-of-document token included.

    The result is exact if every token is one byte. Otherwise it is the mean over the same 20,000
    stories each time, with a standard error below 0.1 %.
    """
    rng = random.Random("stories/tokens")
    story = generate(rng)

    if len(tokenizer.encode(story)) == len(story.encode()):
        return expected_bytes() + 1

    tokens = 0
    for _ in range(SAMPLE):
        tokens += len(tokenizer.encode(generate(rng)))
    return 1 + tokens / SAMPLE


def entropy_per_token(tokenizer: Encoder) -> float:
    """Return the nats per token of a long stream of stories: the lowest loss a model can reach.

    The stream is packed across documents, so its end-of-document tokens count in the mean although
    they cost nothing to predict.
    """
    return entropy() / expected_tokens(tokenizer)
