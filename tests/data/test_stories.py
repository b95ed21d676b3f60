"""The entropy of the stories is the truth: probabilities sum to one, no story arises twice, and
samples cost what the formula says."""

import math
import random
from collections import Counter

import pytest

from seekjax.config import DataConfig
from seekjax.data import load_corpus, load_tokenizer, stories
from seekjax.data.sources.grammar import Grammar

SMALL = Grammar(
    acts=(
        ("{who} saw a {colour} cat. ", "A {colour} cat saw {who}. "),
        ("{She} ran.", "The {colour} cat ran.", "{who} sat with {who}."),
    ),
    slots={"who": ("Mia", "Tom"), "colour": ("red", "blue", "pink")},
    agreement={"She": ("who", {"Mia": "She", "Tom": "He"})},
)


def test_a_small_grammar_is_a_distribution():
    texts = list(SMALL.enumerate())
    assert len({text for text, _ in texts}) == len(texts), "two derivations give one text"
    assert math.isclose(sum(p for _, p in texts), 1)
    for text, p in texts:
        assert math.isclose(SMALL.log_prob(text), math.log(p))


def test_entropy_and_length_are_the_enumerated_ones():
    texts = list(SMALL.enumerate())
    assert math.isclose(SMALL.entropy(), -sum(p * math.log(p) for _, p in texts))
    assert math.isclose(SMALL.expected_bytes(), sum(p * len(text) for text, p in texts))


def test_samples_follow_the_probabilities():
    rng, count = random.Random(0), 20_000
    counts = Counter(SMALL.sample(rng) for _ in range(count))
    for text, p in SMALL.enumerate():
        assert abs(counts[text] / count - p) < 5 * math.sqrt(p * (1 - p) / count)


def test_log_prob_refuses_what_the_grammar_cannot_say():
    assert SMALL.log_prob("Mia saw a red cat. He ran.") == -math.inf, "wrong pronoun"
    assert SMALL.log_prob("Mia saw a red cat. The blue cat ran.") == -math.inf, "wrong colour"
    assert SMALL.log_prob("Mia saw a red cat.") == -math.inf


def test_sampled_stories_cost_their_entropy():
    rng, count = random.Random(1), 4000
    samples = [stories.generate(rng) for _ in range(count)]
    nats = [-stories.log_prob(text) for text in samples]
    mean = sum(nats) / count
    error = math.sqrt(sum((x - mean) ** 2 for x in nats)) / count
    assert abs(mean - stories.entropy()) < 4 * error
    assert 12 < stories.entropy() < 20
    assert 60 < stories.expected_bytes() < 150
    assert abs(sum(map(len, samples)) / count - stories.expected_bytes()) < 2


def test_no_story_has_two_derivations():
    """Each template's pattern allows any form of an agreeing word, so one match in all shows that
    one derivation exists."""
    rng = random.Random(2)
    for _ in range(1000):
        text = stories.generate(rng)
        assert (
            sum(pattern.fullmatch(text) is not None for _, _, pattern in stories.GRAMMAR._patterns)
            == 1
        )


@pytest.mark.parametrize(("kind", "vocab"), [("byte", 300), ("bpe", 512)])
def test_entropy_per_token_counts_the_end_of_document(kind, vocab, tmp_path, monkeypatch):
    monkeypatch.setenv("SEEKJAX_CACHE", str(tmp_path))
    monkeypatch.setattr("seekjax.data.tokenizer.TRAINING_BYTES", 100_000)
    monkeypatch.setattr(stories, "SAMPLE", 2000)
    config = DataConfig(sources=("stories",), tokenizer=kind)
    corpus = load_corpus(config)
    tokenizer = load_tokenizer(config, vocab, corpus)
    tokens = [len(tokenizer.encode(corpus.sources[0].train[index])) + 1 for index in range(1000)]
    assert stories.expected_tokens(tokenizer) == pytest.approx(sum(tokens) / len(tokens), rel=0.02)
    assert stories.entropy_per_token(tokenizer) == stories.entropy() / stories.expected_tokens(
        tokenizer
    )
    if kind == "byte":
        assert stories.expected_tokens(tokenizer) == stories.expected_bytes() + 1
