"""Calls of tools are found however their text arrives, and what is not a call stays text."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekjax.data.chat import BUILT_IN, compile_chat
from seekjax.serve.answer import merged
from seekjax.serve.events import Content, ToolArguments, ToolCall
from seekjax.serve.tools import (
    CALL_BEGIN,
    CALL_END,
    CALLS_BEGIN,
    CALLS_END,
    LONGEST_HEADER,
    MARKS,
    SEPARATOR,
    V3,
    V3_1,
    ToolParser,
    find_call_form,
)
from tests.post.test_tools import ANSWER, PUBLISHED, QUESTION, call

# The core of the template of V3.1.
PUBLISHED_V3_1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
    "{% elif m.tool_calls %}<｜Assistant｜></think>{{ m.content or '' }}<｜tool▁calls▁begin｜>"
    "{% for t in m.tool_calls %}<｜tool▁call▁begin｜>{{ t.function.name }}<｜tool▁sep｜>"
    "{{ t.function.arguments }}<｜tool▁call▁end｜>{% endfor %}<｜tool▁calls▁end｜>{{ eos_token }}"
    "{% elif m.role == 'tool' %}<｜tool▁output▁begin｜>{{ m.content }}<｜tool▁output▁end｜>"
    "{% else %}<｜Assistant｜></think>{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
FORMS = {"v3": V3, "v3.1": V3_1}


def written(form, *calls, text=""):
    """The answer in which a template of this form writes calls, each a name and its arguments."""
    parts = [
        CALL_BEGIN + form.before + name + form.between + arguments + form.after + CALL_END
        for name, arguments in calls
    ]
    return text + CALLS_BEGIN + form.separator.join(parts) + CALLS_END


def parse(form, pieces, parallel=True):
    """The joined events of a text that arrives in pieces."""
    ids = map(str, itertools.count())
    parser = ToolParser(form, parallel, new_id=lambda: next(ids))
    events = [event for piece in pieces for event in parser.feed(piece)]
    return merged([*events, *parser.feed("", last=True)])


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_text_and_two_calls(form):
    tokyo, nested = '{"city": "Tokyo"}', '{"a": {"b": ["```", "}\\n"]},\n "c": "東京" }'
    text = written(form, ("get_weather", tokyo), ("a-b.c", nested), text="Let me see.\n")
    assert parse(form, [text]) == [
        Content("Let me see.\n"),
        ToolCall(0, "0", "get_weather"),
        ToolArguments(0, tokyo),
        ToolCall(1, "1", "a-b.c"),
        ToolArguments(1, nested),
    ]


@pytest.mark.parametrize(
    ("source", "form"),
    [(BUILT_IN["v3"], V3), (BUILT_IN["r1"], V3), (PUBLISHED, V3), (PUBLISHED_V3_1, V3_1)],
    ids=["v3", "r1", "published", "v3.1"],
)
def test_what_a_template_writes_is_parsed_back(source, form):
    chat = compile_chat(source)
    assert find_call_form(chat) == form
    talk = [QUESTION, call("Tokyo", "Paris", content="So.")]
    begin = chat.render([QUESTION, ANSWER], False).index(ANSWER["content"])
    answer = chat.render(talk, False)[begin:].removesuffix(chat.eos)

    events = ToolParser(find_call_form(chat)).feed(answer, last=True)
    texts = [e.name if isinstance(e, ToolCall) else e.text for e in events]
    assert texts == ["So.", "get_weather", '{"city": "Tokyo"}', "get_weather", '{"city": "Paris"}']


def test_a_template_without_calls_has_no_form():
    assert find_call_form(compile_chat(BUILT_IN["v2"])) is None


@pytest.mark.parametrize(
    "text",
    [
        f"{CALLS_BEGIN}and no call{CALLS_END}",
        f"{CALLS_BEGIN}{CALL_BEGIN}function{SEPARATOR}no fence{CALL_END}{CALLS_END}",
        f"{CALLS_BEGIN} {CALL_BEGIN}function{SEPARATOR}f\n```json\n[1]\n```{CALL_END}{CALLS_END}",
        f"{CALLS_BEGIN}{CALL_BEGIN}function{SEPARATOR}\n```json\n{{}}\n```{CALL_END}{CALLS_END}",
        f"{CALLS_BEGIN}{CALL_BEGIN}function{SEPARATOR}{'f' * LONGEST_HEADER}\n```json\n{{}}",
        f"{CALLS_BEGIN}{CALL_BEGIN}function{SEPARATOR}f",
        f"{CALLS_BEGIN[:-3]}",
        f"a{CALL_BEGIN}function{SEPARATOR}f\n```json\n{{}}\n```{CALL_END}",
    ],
)
def test_what_is_not_a_call_is_content(text):
    assert parse(V3, [text]) == [Content(text)]


def test_a_call_behind_a_broken_one_is_found():
    broken = f"{CALLS_BEGIN}{CALL_BEGIN}oh "
    assert parse(V3, [broken + written(V3, ("f", "{}"))]) == [
        Content(broken),
        ToolCall(0, "0", "f"),
        ToolArguments(0, "{}"),
    ]


def test_an_answer_that_ends_within_arguments():
    text = written(V3, ("f", '{"a": "b')).partition(CALL_END)[0]
    assert parse(V3, [text]) == [ToolCall(0, "0", "f"), ToolArguments(0, '{"a": "b')]


def test_only_one_call_without_parallel_calls():
    text = written(V3_1, ("f", "{}"), ("g", "{}")) + "so"
    assert parse(V3_1, [text], parallel=False) == [ToolCall(0, "0", "f"), ToolArguments(0, "{}")]
    assert len(parse(V3_1, [text])) == 5


def test_arguments_are_streamed():
    parser = ToolParser(V3)
    [begun] = parser.feed(f"{CALLS_BEGIN}{CALL_BEGIN}function{SEPARATOR}f\n```json\n{{")[:1]
    assert begun.name == "f"
    assert parser.feed('"city": "To') == [ToolArguments(0, '"city": "To')]
    assert parser.feed('kyo"}\n``') == [ToolArguments(0, 'kyo"}')]
    assert parser.feed(f"`{CALL_END}") == []


arguments = st.sampled_from(["{}", '{"a": 1}', '{"t": "`` \\" } ```"}', "{`", '{"a":\n"你好"} '])
names = st.sampled_from(["f", "get_weather", "", "two words"])
whole = st.builds(
    lambda form, calls, text: written(FORMS[form], *calls, text=text),
    st.sampled_from(list(FORMS)),
    st.lists(st.tuples(names, arguments), max_size=3),
    st.text("a<｜ \n", max_size=4),
)
fragments = st.sampled_from([*MARKS, "function", "f", "\n```json\n", "\n```", "{", "}", " ", "a"])
texts = st.lists(whole | fragments | fragments, max_size=8).map("".join)


@settings(max_examples=100, deadline=None)
@given(texts, st.sampled_from(list(FORMS)), st.booleans(), st.data())
def test_every_chunking_gives_the_same_events(text, form, parallel, data):
    expected = parse(FORMS[form], [text], parallel)
    assert parse(FORMS[form], list(text), parallel) == expected
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
    assert parse(FORMS[form], pieces, parallel) == expected


@settings(max_examples=100, deadline=None)
@given(texts, st.sampled_from(list(FORMS)))
def test_nothing_is_lost_but_marks_blanks_and_fences(text, form):
    events = parse(FORMS[form], [text])
    kept = "".join([event.name if isinstance(event, ToolCall) else event.text for event in events])
    rest = iter(text)
    assert all(character in rest for character in kept)
