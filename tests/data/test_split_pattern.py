"""Patterns of published tokenizers are accepted, and not those whose work has no bound."""

import pytest

from seekjax.data import DataError
from seekjax.data.split_pattern import check_pattern

WORD = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{M}&&[^\p{Han}]]+"
PUBLISHED = {
    "gpt-2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "deepseek-v3": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?"
    r"[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "deepseek-v2": "[一-龥\u0800-一가-\ud7ff]+",
    "the end of a text": r"\s+$",
    "llama-3": r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*",
    "kimi-k2": rf"[\p{{Han}}]+|{WORD}(?i:'s|'t|'re)?|\p{{N}}{{1,3}}",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_patterns_are_accepted(name):
    check_pattern(PUBLISHED[name])


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(a+)+b", "repeats a group"),
        ("(?:a|a)*b", "repeats a group"),
        ("a*a*a*b", "more than 2 repetitions"),
        ("(a*(b*))c*d", "more than 2 repetitions"),
        ("a**", "repeats a repetition"),
        (r"(a)\1", "an escape of an unknown kind"),
        ("(?<x>a)", "a group of an unknown kind"),
        ("(?=a*)b", "looks ahead or behind"),
        ("a{1000}", "more than 64 times"),
        ("a{2,}{2,}", "repeats nothing"),
        ("(a", "a group is not closed"),
        ("a)", "that it did not open"),
        ("[a", "is not closed"),
        ("(" * 20 + ")" * 20, "nested too deeply"),
        ("a" * 5000, "5000 characters, more than"),
    ],
)
def test_a_pattern_without_a_bound_is_refused(pattern, reason):
    with pytest.raises(DataError, match=reason):
        check_pattern(pattern)
