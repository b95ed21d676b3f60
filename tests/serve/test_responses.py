"""/v1/responses through OpenAI's own client, and its stream next to DeepSeek's own package."""

import json

import httpx
import pytest
from pydantic import BaseModel

from seekjax.serve.tools import CALLS_BEGIN, CALLS_END
from tests.serve import recipe

WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
    '{"city": "Tokyo"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
)
# Fields of the response that DeepSeek's package writes and that mean nothing here.
UNWRITTEN = {
    f".response.{name}"
    for name in (
        "content_filters",
        "frequency_penalty",
        "max_tool_calls",
        "moderation",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
    )
}
ASK = {"model": "tiny", "input": "hi"}


def prompt_of(engine, tokenizer):
    return tokenizer.decode(engine.requests[-1].prompt, special=True)


def test_a_response(client, engine):
    engine.script = "<think>Hm.</think>\n\nHéllo!"
    response = client.responses.create(**ASK, max_output_tokens=100)
    assert response.output_text == "Héllo!"
    reasoning, message = response.output
    assert reasoning.content[0].text == "Hm."
    assert (message.role, message.status) == ("assistant", "completed")
    assert response.status == "completed"
    assert response.max_output_tokens == 100
    assert response.usage.output_tokens_details.reasoning_tokens == 5
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_a_stream(client, engine):
    engine.script = "<think>Hm.</think>\n\nLet me see." + CALL
    with client.responses.stream(**ASK, tools=[WEATHER]) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert json.loads(final.output[2].arguments) == {"city": "Tokyo"}
    assert final.output_text == "Let me see."
    assert events[-1].type == "response.completed"


def test_an_answer_that_is_too_long_is_incomplete(client, engine):
    engine.script = "Hello"
    response = client.responses.create(**ASK, max_output_tokens=3)
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].status == "incomplete"
    with client.responses.stream(**ASK, max_output_tokens=3) as stream:
        assert list(stream)[-1].type == "response.incomplete"


def test_log_probabilities(client, engine):
    engine.script = "é"
    response = client.responses.create(
        **ASK, include=["message.output_text.logprobs"], top_logprobs=1
    )
    shown = response.output[0].content[0].logprobs
    assert [token.bytes for token in shown][:2] == [[0xC3], [0xA9]]
    assert shown[0].top_logprobs[0].logprob == -0.25


def test_a_parsed_response(client):
    class Weather(BaseModel):
        city: str
        days: int | None

    response = client.responses.parse(**ASK, text_format=Weather, max_output_tokens=4000)
    assert isinstance(response.output_parsed, Weather)


def test_a_required_call(client):
    response = client.responses.create(
        **ASK, tools=[{**WEATHER, "strict": True}], tool_choice="required"
    )
    assert {item.type for item in response.output} == {"function_call"}
    assert json.loads(response.output[0].arguments).keys() <= {"city"}


def test_items_are_a_conversation(client, engine, tokenizer):
    engine.script = "Cold."
    items = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "Tokyo?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"text": "Hm."}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Let me see."}],
        },
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "3"},
    ]
    response = client.responses.create(
        model="tiny", input=items, instructions="Be brief.", tools=[WEATHER]
    )
    assert response.output_text == "Cold."
    prompt = prompt_of(engine, tokenizer)
    assert "Be brief." in prompt
    assert "Be kind." in prompt
    assert "<｜User｜>Tokyo?<｜Assistant｜>Let me see.<｜tool▁calls▁begin｜>" in prompt
    assert "<｜tool▁output▁begin｜>3<｜tool▁output▁end｜>" in prompt


def test_what_was_answered_may_be_sent_back(client, engine, tokenizer):
    engine.script = "<think>Hm.</think>Let me see." + CALL
    first = client.responses.create(**ASK, tools=[WEATHER])
    called = {"type": "function_call_output", "call_id": first.output[-1].call_id, "output": "3"}
    client.responses.create(
        model="tiny", input=[{"role": "user", "content": "hi"}, *first.output, called]
    )
    assert f"Let me see.{CALL}" in prompt_of(engine, tokenizer)


def test_names_of_tokens_stay_text(client, engine, tokenizer):
    engine.script = "x"
    name = "<｜end▁of▁sentence｜>"
    items = [{"role": "user", "content": [{"type": "input_text", "text": name}]}]
    client.responses.create(model="tiny", input=items, instructions=name)
    assert engine.requests[-1].prompt.count(tokenizer.eos) == 0


@pytest.mark.parametrize(("effort", "end"), [("high", "<think>\n"), ("none", "<｜Assistant｜>")])
def test_the_effort_of_reasoning(client, engine, tokenizer, effort, end):
    engine.script = "x"
    client.responses.create(**ASK, reasoning={"effort": effort})
    assert prompt_of(engine, tokenizer).endswith(end)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "stores no responses"),
        ({"background": True}, "background", "read it as a stream"),
        ({"input": []}, "input", "at least 1"),
        ({"input": [3]}, "input[0]", "must be an object"),
        ({"input": [{"role": "usr", "content": "a"}]}, "input[0].role", "did you mean 'user'"),
        ({"input": [{"role": "user"}]}, "input[0].content", "is missing"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].type",
            "reads text alone",
        ),
        ({"input": [{"type": "item_reference", "id": "a"}]}, "input[0].type", "one of message"),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": ""}]},
            "input[0].call_id",
            "no function_call before it",
        ),
        ({"input": [{"type": "function_call"}]}, "input[0].call_id", "is missing"),
        ({"tools": [{"type": "mcp"}]}, "tools[0].type", "must be function"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "is missing"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "one of text"),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "o"}}}},
            "text.format.schema",
            "cannot be followed",
        ),
        ({"reasoning": {"effort": "vast"}}, "reasoning.effort", "one of none"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"model": "gpt"}, "model", "the names are tiny"),
    ],
)
def test_bad_requests_are_refused_with_a_sentence(openai, client, fields, param, words):
    with pytest.raises(openai.APIStatusError, match=words) as refusal:
        client.responses.create(**(ASK | fields))
    assert refusal.value.status_code == (404 if param == "model" else 400)
    assert refusal.value.body["param"] == param


def test_tools_that_run_at_openai_are_left_out(client, engine, tokenizer):
    engine.script = "x"
    response = client.responses.create(**ASK, tools=[{"type": "web_search"}])
    assert response.tools == []


def test_an_engine_that_fails_in_a_stream(client, engine):
    def fail_after_a_token(request):
        engine.failing = 1
        return "Hello"

    engine.script = fail_after_a_token
    *_, last = client.responses.create(**ASK, stream=True)
    assert last.type == "response.failed"
    assert last.response.error.message.startswith("the engine has failed")


@pytest.mark.parametrize(
    ("text", "calls"),
    [("Let me see.", 0), ("Hm.</think>Let me see.", 0), ("Hm.</think>", 1), ("Hm.</think>So", 2)],
)
def test_the_stream_is_that_of_deepseek_recipe(url, engine, text, calls):
    engine.script = (text + calls * CALL).replace(CALLS_END + CALLS_BEGIN, "")
    body = {**ASK, "stream": True, "tools": [WEATHER]}
    body["reasoning"] = {"effort": "high" if "</think>" in text else "none"}
    ours = recipe.joined(recipe.read_stream(httpx.post(f"{url}/v1/responses", json=body).text))
    theirs = recipe.joined(recipe.responses(text, calls))

    assert [event["type"] for event in ours] == [event["type"] for event in theirs]
    for our, their in zip(ours, theirs, strict=True):
        ours_shared, theirs_shared = recipe.shared(our, their)
        assert ours_shared == theirs_shared
        assert recipe.names(their) - recipe.names(our) <= UNWRITTEN
