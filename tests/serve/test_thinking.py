"""Thinking is free up to its budget, and grammars apply behind it."""

import numpy as np
import pytest

from seekjax.data.tokenizer import THINK_END
from seekjax.serve.choices import token_filter
from seekjax.serve.errors import RequestError
from seekjax.serve.grammar import of_schema
from seekjax.serve.thinking import ThinkingFilter
from tests.serve.fake_engine import served_model

X = of_schema({"enum": ["x"]}, "schema")


@pytest.fixture(scope="module")
def served(tokenizer):
    return served_model(tokenizer)


def allowed(filter):
    mask = filter.mask()
    assert mask.dtype == np.uint32
    assert mask.shape == (10,)  # of 320 ids
    return set(np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist())


def test_a_grammar_applies_behind_the_thinking(served, tokenizer):
    filter = token_filter(served, X, True, None)
    for id in tokenizer.encode("oh {").tolist():
        assert allowed(filter) == set(range(320)) - set(tokenizer.stops)
        filter.accept(id)
    filter.accept(tokenizer.id_of(THINK_END))
    assert allowed(filter) == {ord('"')}
    filter.accept(ord('"'))
    assert allowed(filter) == {ord("x")}


def test_a_budget_ends_the_thinking(served, tokenizer):
    filter = token_filter(served, None, True, 2)
    for id in tokenizer.encode("ab").tolist():
        assert len(allowed(filter)) == 319
        filter.accept(id)
    think_end = tokenizer.id_of(THINK_END)
    assert allowed(filter) == {think_end}
    filter.accept(think_end)
    assert allowed(filter) == set(range(320))


def test_most_answers_have_no_filter(served):
    assert token_filter(served, None, False, None) is None
    assert token_filter(served, None, True, None) is None
    assert token_filter(served, None, False, 5) is None
    assert not isinstance(token_filter(served, X, False, 5), ThinkingFilter)


def test_a_tokenizer_without_an_end_of_thinking(served, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "id_of", lambda name: None)
    with pytest.raises(RequestError, match="thinking ends with </think>, for which"):
        token_filter(served, X, True, None)
