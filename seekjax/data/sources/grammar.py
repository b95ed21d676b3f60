"""A stochastic grammar with exact probabilities, to compare a model's loss with the true entropy.

A text is a sequence of acts, and each act is one of a few templates with slots: `{hero} saw a
{colour} kite. {She} ...`. A slot is drawn at its first mention and repeated at every later one, and
words such as `She` agree with a slot: a model has to carry both over a distance. The n-th template
of an act, and the n-th word of a slot, has weight 1/n.

The choices are independent given the templates, and no text arises from two different sequences of
choices (tests/data/test_stories.py). Hence

    log p(text) = sum of log p(choice)
    H(text) = sum over acts of H(act) + sum over slots of P(slot is mentioned) H(slot)
"""

import math
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from string import Formatter


@dataclass(frozen=True)
class Grammar:
    """Acts, the slots that their templates mention, and the words that agree with a slot."""

    acts: tuple[tuple[str, ...], ...]  # the templates of each act
    slots: Mapping[str, tuple[str, ...]]  # the words of each slot
    # word: (the slot it agrees with, its form for each value of that slot)
    agreement: Mapping[str, tuple[str, Mapping[str, str]]]

    def sample(self, rng: random.Random) -> str:
        """Draw a text from the grammar."""
        template = "".join([_draw(act, rng) for act in self.acts])
        values = {slot: _draw(self.slots[slot], rng) for slot in self._mentioned[template]}
        return self._render(template, values)

    def log_prob(self, text: str) -> float:
        """Return the exact log probability of a text in nats: -inf if it is not in the grammar."""
        total = 0.0

        for template, probability, pattern in self._patterns:
            match = pattern.fullmatch(text)
            if not match:
                continue

            # The pattern allows any form of an agreeing word; rendering requires the right one.
            values = match.groupdict()
            if self._render(template, values) == text:
                word_probabilities = [
                    _zipf(self.slots[slot])[value] for slot, value in values.items()
                ]
                total += probability * math.prod(word_probabilities)

        return math.log(total) if total else -math.inf

    def entropy(self) -> float:
        """Return the exact expected nats per text."""
        of_acts = sum(map(_entropy, self.acts))

        of_slots = 0.0
        for template, probability in self._templates():
            for slot in self._slots_in(template):
                of_slots += probability * _entropy(self.slots[slot])

        return of_acts + of_slots

    def expected_bytes(self) -> float:
        """Return the exact expected UTF-8 bytes per text."""
        total = 0.0
        for template, probability in self._templates():
            for literal, field in _parts(template):
                total += probability * (len(literal.encode()) + self._field_bytes(field))
        return total

    def enumerate(self) -> Iterator[tuple[str, float]]:
        """Yield the text and the probability of every sequence of choices: for small grammars."""
        for template, probability in self._templates():
            slots = self._slots_in(template)
            options = [_zipf(self.slots[slot]).items() for slot in slots]

            for choices in product(*options):
                words = [word for word, _ in choices]
                text = self._render(template, dict(zip(slots, words)))
                yield text, probability * math.prod(p for _, p in choices)

    def _templates(self) -> Iterator[tuple[str, float]]:
        """Yield every way to choose one template for each act, joined, with its probability."""
        options = [_zipf(act).items() for act in self.acts]
        for choices in product(*options):
            template = "".join([template for template, _ in choices])
            yield template, math.prod(p for _, p in choices)

    @cached_property
    def _mentioned(self) -> dict[str, list[str]]:
        """The slots of each joined template."""
        return {template: self._slots_in(template) for template, _ in self._templates()}

    @cached_property
    def _patterns(self) -> list[tuple[str, float, re.Pattern]]:
        """The templates, each with its probability and a pattern for its texts."""
        return [
            (template, p, re.compile(self._pattern(template))) for template, p in self._templates()
        ]

    def _pattern(self, template: str) -> str:
        """Return a regular expression for the texts of a template.

        The first mention of a slot is a group, and every later one refers back to it.
        """
        pattern = ""
        mentioned = set()

        for literal, field in _parts(template):
            pattern += re.escape(literal)
            if not field:
                continue

            if field in self.agreement:
                _, forms = self.agreement[field]
                pattern += f"(?:{_any_of(set(forms.values()))})"
            elif field in mentioned:
                pattern += f"(?P={field})"
            else:
                pattern += f"(?P<{field}>{_any_of(self.slots[field])})"
                mentioned.add(field)

        return pattern

    def _render(self, template: str, values: Mapping[str, str]) -> str:
        """Return the text of a template whose slots have these values."""
        agreeing = {}
        for word, (slot, forms) in self.agreement.items():
            if slot in values:
                agreeing[word] = forms[values[slot]]
        return template.format(**values, **agreeing)

    def _slots_in(self, template: str) -> list[str]:
        """Return the slots of a template by first mention; an agreeing word mentions its slot."""
        slots = {}  # used as an ordered set
        for _, field in _parts(template):
            if field:
                slot, _ = self.agreement.get(field, (field, {}))
                slots[slot] = None
        return list(slots)

    def _field_bytes(self, field: str | None) -> float:
        """Return the expected bytes of a field: of a slot's word, or of a word that agrees."""
        if not field:
            return 0.0

        slot, forms = self.agreement.get(field, (field, {}))
        total = 0.0
        for value, p in _zipf(self.slots[slot]).items():
            word = forms.get(value, value)
            total += p * len(word.encode())
        return total


def _parts(template: str) -> Iterator[tuple[str, str | None]]:
    """Yield the template as pairs of literal text and the field that follows it."""
    for literal, field, _, _ in Formatter().parse(template):
        yield literal, field


def _any_of(words) -> str:
    """Return a regular expression for any of the words."""
    return "|".join(map(re.escape, words))


@cache
def _zipf(options: tuple[str, ...]) -> dict[str, float]:
    """Return the options with their probabilities: the n-th has weight 1/n."""
    total = sum(1 / n for n in range(1, len(options) + 1))
    return {option: 1 / n / total for n, option in enumerate(options, 1)}


def _entropy(options: tuple[str, ...]) -> float:
    """Return the entropy of a choice among options, in nats."""
    return -sum(p * math.log(p) for p in _zipf(options).values())


def _draw(options: tuple[str, ...], rng: random.Random) -> str:
    point = rng.random()
    for option, p in _zipf(options).items():
        point -= p
        if point < 0:
            return option
    return options[-1]  # after rounding, the probabilities may sum to a little less than one
