"""A stochastic grammar whose texts have a known probability, so that a model's loss can be held
against the truth.

A text is a sequence of acts; each act is one of a few templates; a template mentions slots: `{hero}
saw a {colour} kite. {She} ...`. A slot is drawn at its first mention and *repeated* at every later
one, and words such as `She` agree with a slot: this is what a model must carry over a distance. The
n-th template of an act, and the n-th word of a slot, has weight 1/n.

The choices are independent given the templates, and (tests/data/test_stories.py) no text arises
from two different sequences of choices. Hence
    # H(text) = sum over acts of H(act) + sum over slots of P(slot is mentioned) H(slot).
    log p(text) = sum of log p(choice)
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
    """`agreement` maps a word to the slot it agrees with and to its form for each value of that
    slot."""

    acts: tuple[tuple[str, ...], ...]
    slots: Mapping[str, tuple[str, ...]]
    agreement: Mapping[str, tuple[str, Mapping[str, str]]]

    def sample(self, rng: random.Random) -> str:
        """A text drawn from the grammar."""
        template = "".join(_draw(act, rng) for act in self.acts)
        return self._render(
            template, {slot: _draw(self.slots[slot], rng) for slot in self._slots_in(template)}
        )

    def log_prob(self, text: str) -> float:
        """The exact log probability of a text in nats; -inf where the grammar cannot produce it."""
        total = 0.0
        for template, probability, pattern in self._patterns:
            match = pattern.fullmatch(text)
            # The pattern allows any form of an agreeing word; rendering again demands the right
            # one.
            if match and self._render(template, match.groupdict()) == text:
                total += probability * math.prod(
                    _zipf(self.slots[slot])[value] for slot, value in match.groupdict().items()
                )
        return math.log(total) if total else -math.inf

    def entropy(self) -> float:
        """Exact expected nats per text."""
        return sum(_entropy(act) for act in self.acts) + sum(
            probability * _entropy(self.slots[slot])
            for template, probability in self._templates()
            for slot in self._slots_in(template)
        )

    def expected_bytes(self) -> float:
        """Exact expected UTF-8 bytes per text."""
        return sum(
            probability * (len(literal.encode()) + self._field_bytes(field))
            for template, probability in self._templates()
            for literal, field in _parts(template)
        )

    def enumerate(self) -> Iterator[tuple[str, float]]:
        """Every sequence of choices, as its text and probability: for small grammars."""
        for template, probability in self._templates():
            slots = self._slots_in(template)
            for values in product(*(_zipf(self.slots[slot]).items() for slot in slots)):
                chosen = dict(zip(slots, (value for value, _ in values)))
                yield self._render(template, chosen), probability * math.prod(p for _, p in values)

    def _templates(self) -> Iterator[tuple[str, float]]:
        """Every way to choose one template for each act, joined, with its probability."""
        for chosen in product(*(_zipf(act).items() for act in self.acts)):
            yield "".join(template for template, _ in chosen), math.prod(p for _, p in chosen)

    @cached_property
    def _patterns(self) -> list[tuple[str, float, re.Pattern]]:
        return [
            (template, p, re.compile(self._pattern(template))) for template, p in self._templates()
        ]

    def _pattern(self, template: str) -> str:
        """A regular expression for the texts of a template: a slot's first mention is a group,
        every later one refers back to it."""
        pattern, seen = "", set()
        for literal, field in _parts(template):
            pattern += re.escape(literal)
            if field in self.agreement:
                pattern += f"(?:{'|'.join(map(re.escape, set(self.agreement[field][1].values())))})"
            elif field in seen:
                pattern += f"(?P={field})"
            elif field:
                pattern += f"(?P<{field}>{'|'.join(map(re.escape, self.slots[field]))})"
                seen.add(field)
        return pattern

    def _render(self, template: str, values: Mapping[str, str]) -> str:
        agreeing = {
            word: forms[values[slot]]
            for word, (slot, forms) in self.agreement.items()
            if slot in values
        }
        return template.format(**values, **agreeing)

    def _slots_in(self, template: str) -> list[str]:
        """The slots a template mentions, in order; an agreeing word mentions the slot it agrees
        with."""
        return list(
            dict.fromkeys(
                self.agreement[field][0] if field in self.agreement else field
                for _, field in _parts(template)
                if field
            )
        )

    def _field_bytes(self, field: str | None) -> float:
        if not field:
            return 0.0
        slot, forms = self.agreement.get(field, (field, {}))
        return sum(
            p * len(forms.get(value, value).encode())
            for value, p in _zipf(self.slots[slot]).items()
        )


def _parts(template: str) -> Iterator[tuple[str, str | None]]:
    """The template as pairs of literal text and the field that follows it."""
    return ((literal, field) for literal, field, _, _ in Formatter().parse(template))


@cache
def _zipf(options: tuple[str, ...]) -> dict[str, float]:
    """The options with their probabilities: the n-th weighs 1/n."""
    total = sum(1 / n for n in range(1, len(options) + 1))
    return {option: 1 / n / total for n, option in enumerate(options, 1)}


def _entropy(options: tuple[str, ...]) -> float:
    return -sum(p * math.log(p) for p in _zipf(options).values())


def _draw(options: tuple[str, ...], rng: random.Random) -> str:
    point = rng.random()
    for option, p in _zipf(options).items():
        point -= p
        if point < 0:
            return option
    return options[-1]  # rounding: the probabilities summed to a little less than one
