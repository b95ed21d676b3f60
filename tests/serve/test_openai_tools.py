"""Tools and structured output through OpenAI's own client, over real sockets."""

import json
from typing import Literal

import pytest
from pydantic import BaseModel

ASK = [{"role": "user", "content": "hi"}]
CALLS = (
    "<think>Hm.</think>Let me see.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>"
    'weather\n```json\n{"city": "東京"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function'
    "<｜tool▁sep｜>time\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)


class Weather(BaseModel):
    """The weather of a city."""

    city: Literal["Tokyo", "Paris"]
    days: int | None


WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": Weather.model_json_schema()},
}
TIME = {"type": "function", "function": {"name": "time", "parameters": {"maxProperties": 0}}}


def test_calls(client, engine, tokenizer):
    engine.script = CALLS
    answer = client.chat.completions.create(model="tiny", messages=ASK, tools=[WEATHER, TIME])
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    assert choice.message.reasoning_content == "Hm."
    called = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls]
    assert called == [("weather", '{"city": "東京"}'), ("time", "{}")]
    assert len({call.id for call in choice.message.tool_calls}) == 2
    prompt = tokenizer.decode(engine.requests[-1].prompt)
    assert "- `weather`:" in prompt


def test_calls_stream(client, engine):
    engine.script = CALLS
    tools = [WEATHER, TIME]
    with client.chat.completions.stream(model="tiny", messages=ASK, tools=tools) as stream:
        events = list(stream)
        message = stream.get_final_completion().choices[0].message
    deltas = [e for e in events if e.type == "tool_calls.function.arguments.delta"]
    assert len(deltas) > 10
    assert [call.function.name for call in message.tool_calls] == ["weather", "time"]


def test_an_answer_after_a_tool(client, engine, tokenizer):
    engine.script = "Cold."
    function = {"name": "weather", "arguments": '{"city": "Tokyo"}'}
    calls = [{"id": "call_1", "type": "function", "function": function}]
    messages = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "call_1", "content": "3 <｜tool▁output▁end｜>"},
    ]
    answer = client.chat.completions.create(model="tiny", messages=messages, tools=[WEATHER])
    assert answer.choices[0].message.content == "Cold."
    assert answer.choices[0].finish_reason == "stop"
    prompt = tokenizer.decode(engine.requests[-1].prompt)
    assert 'function<｜tool▁sep｜>weather\n```json\n{"city": "Tokyo"}' in prompt


def test_marks_stay_out_of_an_answer_without_tools(client, engine):
    engine.script = CALLS
    answer = client.chat.completions.create(
        model="tiny", messages=ASK, tools=[WEATHER], tool_choice="none"
    )
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason == "stop"


def test_a_parsed_answer(client):
    for _ in range(3):
        answer = client.chat.completions.parse(
            model="tiny", messages=ASK, response_format=Weather, max_tokens=1000
        )
        assert isinstance(answer.choices[0].message.parsed, Weather)


def test_a_required_call_is_parsed(openai, client):
    strict = openai.pydantic_function_tool(Weather, name="weather")
    answer = client.chat.completions.parse(
        model="tiny",
        messages=ASK,
        tools=[strict],
        tool_choice={"type": "function", "function": {"name": "weather"}},
    )
    [call] = answer.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Weather)
    assert answer.choices[0].finish_reason == "tool_calls"


def test_a_completion_matches_a_pattern(client):
    body = {"structured_outputs": {"regex": "[ab]{3}"}}
    answer = client.completions.create(model="tiny", prompt="x", extra_body=body)
    assert set(answer.choices[0].text) <= {"a", "b"}
    assert len(answer.choices[0].text) == 3


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type", "one of text"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"type": "objec"}},
                }
            },
            "response_format.json_schema.schema",
            "cannot be followed: Invalid type: objec",
        ),
        ({"extra_body": {"structured_outputs": {"grammar": "start: lost"}}}, None, "unknown name"),
    ],
)
def test_a_bad_grammar_is_refused(openai, client, fields, param, words):
    with pytest.raises(openai.BadRequestError, match=words) as refusal:
        client.chat.completions.create(model="tiny", messages=ASK, **fields)
    if param is not None:
        assert refusal.value.body["param"] == param
    assert "Traceback" not in json.dumps(refusal.value.body)


def test_a_budget_of_thinking(client, engine, tokenizer):
    thinking = {"type": "enabled", "budget_tokens": 3}
    answer = client.chat.completions.create(
        model="tiny", messages=ASK, extra_body={"thinking": thinking}, max_tokens=9
    )
    assert answer.usage.completion_tokens_details.reasoning_tokens <= 4
    assert engine.requests[-1].filter is not None
