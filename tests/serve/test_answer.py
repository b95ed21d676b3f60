"""An answer's events do not depend on how its text is cut into tokens and updates."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekjax.generate.engine.request import Request, Token, Update
from seekjax.serve.answer import Answer, merged
from seekjax.serve.errors import RequestError
from seekjax.serve.events import Content, Finish, Reasoning, Start
from seekjax.serve.text import ReasoningSplitter, StopStrings
from tests.serve.fake_engine import byte_tokenizer

TOKENIZER = byte_tokenizer()
PROMPT = [257, 104, 105]

# texts of what matters to the parsers, with multi-byte characters between
PARTS = ["<think>", "</think>", "<th", "ink>", "</", "\n", "é", "🌍", "ab", "STOP", "ST", "<", " "]
TEXTS = st.lists(st.sampled_from(PARTS), max_size=10).map("".join)


def joined(pieces):
    """Neighbouring pieces of one kind together."""
    result = []
    for kind, text in pieces:
        if result and result[-1][0] == kind:
            result[-1] = (kind, result[-1][1] + text)
        else:
            result.append((kind, text))
    return result


def cut(text, places):
    """The text in pieces that end at these places."""
    ends = sorted({min(place, len(text)) for place in places})
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)])]


@given(TEXTS, st.lists(st.integers(0, 60)), st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_reasoning_is_split_the_same_however_the_text_is_cut(text, places, thinking, closed):
    def split(pieces):
        splitter = ReasoningSplitter(thinking, closed)
        found = []
        for index, piece in enumerate(pieces):
            found += splitter.feed(piece, last=index == len(pieces) - 1)
        return joined(found)

    assert split(cut(text, places)) == split([text])


@pytest.mark.parametrize(
    ("text", "thinking", "expected"),
    [
        ("<think>\nwhy\n</think>\n\nyes", False, [(True, "why"), (False, "yes")]),
        ("why</think>yes", True, [(True, "why"), (False, "yes")]),
        ("why", True, [(True, "why")]),
        (" \n<think>why</think>", False, [(True, "why")]),
        ("see <think>x</think>", False, [(False, "see <think>x</think>")]),
        ("a</think>b<think>c</think>", True, [(True, "a"), (False, "b<think>c</think>")]),
        ("  \n", False, [(False, "  \n")]),
    ],
)
def test_reasoning_is_at_the_beginning_alone(text, thinking, expected):
    assert ReasoningSplitter(thinking).feed(text, last=True) == expected


@given(TEXTS, st.lists(st.integers(0, 60)), st.lists(st.sampled_from(["STOP", "ST", "OPab", "é"])))
@settings(max_examples=150, deadline=None)
def test_stop_strings_end_the_text_the_same_however_it_is_cut(text, places, stop):
    def stopped(pieces):
        stops = StopStrings(stop)
        certain = ""
        for index, piece in enumerate(pieces):
            certain += stops.feed(piece, last=index == len(pieces) - 1)
        return certain, stops.matched

    whole = stopped([text])
    assert stopped(cut(text, places)) == whole
    assert not any(string in whole[0] for string in stop)


def events_of(ids, speed, stop=(), thinking=False, reason="stop"):
    """The events of an answer of these ids, `speed` of them in an update."""
    request = Request(PROMPT)
    answer = Answer(TOKENIZER, PROMPT, ReasoningSplitter(thinking), stop)
    events = []
    for start in range(0, len(ids), speed):
        tokens = [Token(id, -0.5) for id in ids[start : start + speed]]
        last = start + speed >= len(ids)
        events += answer.feed(Update(request, tokens, reason if last else ""))
    assert answer.finished
    return merged(events)


@given(TEXTS, st.integers(1, 40), st.sampled_from([(), ("STOP",), ("🌍", "ab")]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_updates_of_any_size_give_the_same_events(text, speed, stop, thinking):
    # the end of a turn makes one token even of an empty text
    ids = [*TOKENIZER.encode(text).tolist(), TOKENIZER.eos]
    assert events_of(ids, speed, stop, thinking) == events_of(ids, len(ids), stop, thinking)


@given(TEXTS, st.booleans())
@settings(max_examples=100, deadline=None)
def test_every_token_is_in_one_event_in_order(text, thinking):
    ids = [*TOKENIZER.encode(text, special=True).tolist(), TOKENIZER.eos]
    given_ids = []
    for event in events_of(ids, 3, (), thinking):
        if isinstance(event, Reasoning | Content):
            given_ids += [token.id for token in event.tokens]
    assert given_ids == ids


def test_tags_belong_to_the_reasoning():
    ids = TOKENIZER.encode("<think>a</think>b", special=True).tolist()
    start, reasoning, content, finish = events_of([*ids, TOKENIZER.eos], 1)
    assert start == Start(PROMPT)
    assert (reasoning.text, len(reasoning.tokens)) == ("a", 3)
    assert (content.text, len(content.tokens)) == ("b", 2)
    assert finish.usage == (3, 5, 3, 0)
    assert finish.reason == "stop"


def test_a_stop_string_ends_the_answer_and_not_the_thinking():
    ids = TOKENIZER.encode("<think>a.b</think>c.d", special=True).tolist()
    _, reasoning, content, finish = events_of(ids, 4, (".",), reason="length")
    assert (reasoning.text, content.text) == ("a.b", "c")
    assert finish == Finish("stop", finish.usage, ".")
    assert finish.usage.completion == 7  # the last token is not counted: it was not needed


def test_an_answer_that_reaches_its_length_says_so():
    assert events_of([97], 1, reason="length")[-1].reason == "length"


def test_an_answer_that_the_engine_has_cancelled_is_an_error():
    answer = Answer(TOKENIZER, PROMPT, ReasoningSplitter())
    with pytest.raises(RequestError, match="has cancelled this request"):
        answer.feed(Update(Request(PROMPT), [], "cancelled"))


def test_an_error_comes_behind_the_tokens_before_it():
    answer = Answer(TOKENIZER, PROMPT, ReasoningSplitter(closed=True))
    update = Update(Request(PROMPT), [Token(97, 0.0)], "error", RuntimeError())
    assert [type(event) for event in answer.feed(update)] == [Start, Content]
    assert not answer.finished
