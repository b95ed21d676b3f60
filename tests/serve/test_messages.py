"""/v1/messages through Anthropic's own client, and its stream next to DeepSeek's own package."""

import asyncio
import json

import httpx
import pytest

from seekjax.serve.tools import CALLS_BEGIN, CALLS_END
from tests.serve import recipe
from tests.serve.fake_engine import served_model
from tests.serve.running import make_api, server_of
from tests.serve.test_responses import CALL

WEATHER = {"name": "weather", "input_schema": recipe.SCHEMA}
STRICT = {**WEATHER, "strict": True}
QUESTION = {"role": "user", "content": "hi"}
ASK = {"model": "tiny", "max_tokens": 2000, "messages": [QUESTION]}
THINK = {"type": "enabled", "budget_tokens": 1024}


@pytest.fixture(scope="module")
def url(engine, tokenizer):
    with server_of(make_api(engine, served_model(tokenizer)), keys=("secret",)) as url:
        yield url


@pytest.fixture
def client(anthropic, url):
    with anthropic.Anthropic(base_url=url, api_key="secret", max_retries=0) as client:
        yield client


def prompt_of(engine, tokenizer):
    return tokenizer.decode(engine.requests[-1].prompt, special=True)


def test_a_message(client, engine, tokenizer):
    engine.script = "<think>Hm.</think>\n\nHéllo!"
    message = client.messages.create(**ASK, system="Be brief.")
    thinking, text = message.content
    assert (thinking.type, thinking.thinking) == ("thinking", "Hm.")
    assert (text.type, text.text) == ("text", "Héllo!")
    assert message.stop_reason == "end_turn"
    assert message.usage.input_tokens == len(engine.requests[-1].prompt)
    assert message.usage.output_tokens > 10
    assert "Be brief.<｜User｜>hi<｜Assistant｜>" in prompt_of(engine, tokenizer)


def test_a_stream_with_a_call(client, engine):
    engine.script = "<think>Hm.</think>Let me see." + CALL
    with client.messages.stream(**ASK, tools=[WEATHER]) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    thinking, text, call = message.content
    assert thinking.thinking == "Hm."
    assert thinking.signature == message.id
    assert text.text == "Let me see."
    assert (call.name, call.input) == ("weather", {"city": "Tokyo"})
    assert message.stop_reason == "tool_use"


def test_the_asynchronous_client(anthropic, url, engine):
    engine.script = "Hello"

    async def ask():
        client = anthropic.AsyncAnthropic(base_url=url, api_key="secret", max_retries=0)
        async with client, client.messages.stream(**ASK) as stream:
            return "".join([text async for text in stream.text_stream])

    assert asyncio.run(ask()) == "Hello"


def test_a_conversation_with_a_tool_is_sent_back(client, engine, tokenizer):
    engine.script = "<think>Hm.</think>Let me see." + CALL
    first = client.messages.create(**ASK, tools=[WEATHER])
    result = {"type": "tool_result", "tool_use_id": first.content[-1].id, "content": "3 degrees"}
    blocks = [result, {"type": "text", "text": "So?"}]
    messages = [QUESTION, {"role": "assistant", "content": first.content}]
    messages.append({"role": "user", "content": blocks})
    engine.script = "Cold."
    message = client.messages.create(**ASK | {"messages": messages}, tools=[WEATHER])
    assert message.content[0].text == "Cold."
    prompt = prompt_of(engine, tokenizer)
    assert f"Let me see.{CALL}" in prompt
    assert "<｜tool▁output▁begin｜>3 degrees<｜tool▁output▁end｜>" in prompt
    assert prompt.endswith("<｜User｜>So?<｜Assistant｜>")


def test_stop_sequences(client, engine):
    engine.script = "one two three"
    message = client.messages.create(**ASK, stop_sequences=["three", "two"])
    assert message.content[0].text == "one "
    assert message.stop_reason == "stop_sequence"
    assert message.stop_sequence == "two"


def test_an_answer_that_is_too_long(client, engine):
    engine.script = "Hello"
    message = client.messages.create(**ASK | {"max_tokens": 3})
    assert message.stop_reason == "max_tokens"
    assert message.content[0].text == "Hel"


def test_the_last_message_goes_on(client, engine, tokenizer):
    engine.script = " world"
    messages = [QUESTION, {"role": "assistant", "content": "Hello"}]
    client.messages.create(**ASK | {"messages": messages})
    assert prompt_of(engine, tokenizer).endswith("<｜User｜>hi<｜Assistant｜>Hello")


def test_thinking_and_its_budget(client, engine, tokenizer):
    message = client.messages.create(
        **ASK | {"max_tokens": 60}, thinking={"type": "enabled", "budget_tokens": 20}
    )
    assert prompt_of(engine, tokenizer).endswith("<think>\n")
    filter = engine.requests[-1].filter
    assert filter is not None
    assert message.content[0].type == "thinking"
    assert message.usage.output_tokens <= 60
    engine.script = "x"
    client.messages.create(**ASK, thinking={"type": "disabled"})
    assert prompt_of(engine, tokenizer).endswith("<｜Assistant｜>")


def test_a_forced_call(client):
    choice = {"type": "tool", "name": "weather"}
    message = client.messages.create(**ASK, tools=[STRICT], tool_choice=choice)
    assert [block.type for block in message.content] == ["tool_use"]
    assert message.content[0].input.keys() <= {"city"}
    message = client.messages.create(
        **ASK, tools=[STRICT], tool_choice={"type": "any", "disable_parallel_tool_use": True}
    )
    assert len(message.content) == 1


def test_an_answer_in_a_schema(client):
    format = {"type": "json_schema", "schema": {"enum": [1, "a"]}}
    message = client.messages.create(**ASK, output_config={"format": format})
    assert message.content[0].text in ("1", '"a"')


def test_the_input_of_a_call_that_is_not_json(client, engine):
    engine.script = CALL.replace('"Tokyo"}', "")
    message = client.messages.create(**ASK, tools=[WEATHER])
    assert message.content[0].input == {"unreadable_json": '{"city":'}


def test_tokens_are_counted(client, engine):
    engine.script = "x"
    fields = {"messages": ASK["messages"], "tools": [WEATHER], "system": "Be brief."}
    counted = client.messages.count_tokens(model="tiny", **fields)
    message = client.messages.create(**ASK | fields)
    assert counted.input_tokens == message.usage.input_tokens
    long = [{"role": "user", "content": 5000 * "x"}]
    assert client.messages.count_tokens(model="tiny", messages=long).input_tokens > 5000


def test_names_of_tokens_stay_text(client, engine, tokenizer):
    engine.script = "x"
    name = "<｜end▁of▁sentence｜>"
    blocks = [{"type": "text", "text": name}]
    client.messages.create(
        **ASK | {"messages": [{"role": "user", "content": blocks}]}, system=blocks
    )
    assert engine.requests[-1].prompt.count(tokenizer.eos) == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": [{"role": "usr", "content": "a"}]}, r"messages\[0\].role is .*one of user"),
        ({"messages": [{"role": "user", "content": 3}]}, r"messages\[0\].content is 3"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            r"content\[0\].type is 'image': this model reads text alone",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}
                ]
            },
            "no tool_use before it",
        ),
        ({"tools": [{"name": "f"}]}, r"tools\[0\].input_schema is missing"),
        ({"tools": [{"type": "web_search_20260318", "name": "f"}]}, "must be custom"),
        ({"tool_choice": {"type": "any"}}, "there are no tools"),
        ({"tool_choice": {"type": "tool", "name": "lost"}, "tools": [WEATHER]}, "not one of the"),
        ({"thinking": {"type": "on"}}, "thinking.type is"),
        ({"thinking": {"type": "enabled", "budget_tokens": 3000}}, "budget_tokens is 3000, and"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"type": "o"}}}},
            "output_config.format.schema cannot be followed",
        ),
        ({"max_tokens": 0}, "max_tokens is 0"),
    ],
)
def test_bad_requests_are_refused_in_anthropics_form(anthropic, client, fields, words):
    with pytest.raises(anthropic.BadRequestError, match=words) as refusal:
        client.messages.create(**ASK | fields)
    body = refusal.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"


def test_unknown_models_and_wrong_keys(anthropic, client, url):
    with pytest.raises(anthropic.NotFoundError, match="the names are tiny") as refusal:
        client.messages.create(**ASK | {"model": "opus"})
    assert refusal.value.body["error"]["type"] == "not_found_error"
    stranger = anthropic.Anthropic(base_url=url, api_key="wrong", max_retries=0)
    with stranger, pytest.raises(anthropic.AuthenticationError):
        stranger.messages.create(**ASK)
    with anthropic.Anthropic(base_url=url, auth_token="secret", max_retries=0) as bearer:
        assert bearer.messages.count_tokens(model="tiny", messages=[QUESTION]).input_tokens == 5


def test_an_engine_that_fails_in_a_stream(anthropic, client, engine):
    def fail_after_a_token(request):
        engine.failing = 1
        return "Hello"

    engine.script = fail_after_a_token
    failing = pytest.raises(anthropic.APIStatusError, match="the engine has failed")
    with failing, client.messages.stream(**ASK) as stream:
        list(stream)


@pytest.mark.parametrize(
    ("text", "calls"),
    [("Let me see.", 0), ("Hm.</think>Let me see.", 0), ("Hm.</think>", 1), ("Hm.</think>So", 2)],
)
def test_the_stream_is_that_of_deepseek_recipe(url, engine, text, calls):
    engine.script = ("<think>" if "</think>" in text else "") + text + calls * CALL
    engine.script = engine.script.replace(CALLS_END + CALLS_BEGIN, "")
    body = {**ASK, "stream": True, "tools": [WEATHER]}
    stream = httpx.post(f"{url}/v1/messages", json=body, headers={"x-api-key": "secret"}).text
    ours = recipe.joined(recipe.read_stream(stream))
    theirs = recipe.joined(recipe.messages(text, calls))

    assert [event["type"] for event in ours] == [event["type"] for event in theirs]
    assert ours == theirs
    assert json.loads(stream.splitlines()[1].removeprefix("data: "))["message"]["usage"]
