"""Chat and completions through OpenAI's own client, over real sockets."""

import asyncio
import json

import pytest

from tests.serve.fake_engine import EXPERTS, served_model
from tests.serve.running import make_api, server_of

ASK = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def url(engine, tokenizer):
    with server_of(make_api(engine, served_model(tokenizer, aliases=("deepseek",)))) as url:
        yield url


def test_chat(client, engine):
    engine.script = "<think>Hm.</think>\n\nHéllo 🌍!"
    answer = client.chat.completions.create(model="tiny", messages=ASK)
    message = answer.choices[0].message
    assert message.content == "Héllo 🌍!"
    assert message.reasoning_content == "Hm."
    assert message.reasoning == "Hm."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.system_fingerprint == "fp_0123456789abcdef"
    assert answer.usage.completion_tokens_details.reasoning_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat_streams(client, engine):
    engine.script = "<think>Hm.</think>\n\nHéllo 🌍!"
    stream = client.chat.completions.create(
        model="deepseek", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 5

    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert "".join([delta.content or "" for delta in deltas]) == "Héllo 🌍!"
    assert "".join([getattr(delta, "reasoning_content", "") for delta in deltas]) == "Hm."


def test_choices_have_seeds_of_their_own(client, engine):
    engine.script = lambda request: f"seed {request.sampling.seed}"
    answer = client.chat.completions.create(model="tiny", messages=ASK, n=3, seed=40)
    texts = [choice.message.content for choice in answer.choices]
    assert texts == ["seed 40", "seed 41", "seed 42"]


def test_log_probabilities_and_what_researchers_want(client, engine):
    engine.script = "é!"
    answer = client.chat.completions.create(
        model="tiny",
        messages=ASK,
        logprobs=True,
        top_logprobs=2,
        extra_body={
            "return_token_ids": True,
            "return_routed_experts": True,
            "return_drafted": True,
            "return_sampling_mask": True,
        },
    )
    [choice] = answer.choices
    shown = choice.logprobs.content
    assert [token.bytes for token in shown][:3] == [[0xC3], [0xA9], [0x21]]
    assert [other.logprob for other in shown[0].top_logprobs] == [-0.25, -2.0]
    assert choice.token_ids[:3] == [0xC3, 0xA9, 0x21]
    assert choice.prompt_token_ids == engine.requests[-1].prompt
    assert choice.routed_experts[0] == [[0xC3 % EXPERTS, 0xC4 % EXPERTS]] * 2
    assert choice.drafted[:3] == [True, True, True]
    assert len(choice.sampling_mask) == len(choice.token_ids)


def test_settings_reach_the_engine(client, engine):
    engine.script = "ok"
    client.chat.completions.create(
        model="tiny",
        messages=ASK,
        temperature=0.5,
        top_p=0.9,
        max_completion_tokens=7,
        frequency_penalty=0.1,
        presence_penalty=0.2,
        logit_bias={"65": -100},
        stop=["x"],
        seed=-1,
        extra_body={"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2, "cache_salt": "me"},
    )
    request = engine.requests[-1]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_new) == (0.5, 0.9, 7)
    assert (sampling.top_k, sampling.min_p, sampling.repetition_penalty) == (5, 0.1, 1.2)
    assert (sampling.frequency_penalty, sampling.presence_penalty) == (0.1, 0.2)
    assert sampling.logit_bias == ((65, -100.0),)
    assert sampling.seed == 2**63 - 1
    assert request.salt == "me"


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({"thinking": {"type": "enabled"}}, "<｜Assistant｜><think>\n"),
        ({"thinking": {"type": "disabled"}}, "<｜Assistant｜>"),
        ({"reasoning_effort": "high"}, "<｜Assistant｜><think>\n"),
        ({"chat_template_kwargs": {"thinking": True}}, "<｜Assistant｜><think>\n"),
    ],
)
def test_thinking_is_turned_on_and_off(client, engine, tokenizer, fields, end):
    engine.script = "x"
    client.chat.completions.create(model="tiny", messages=ASK, extra_body=fields)
    assert tokenizer.decode(engine.requests[-1].prompt, special=True).endswith(f"hi{end}")


def test_the_last_message_goes_on(client, engine, tokenizer):
    engine.script = " world"
    messages = [*ASK, {"role": "assistant", "content": "Hello"}]
    body = {"continue_final_message": True, "add_generation_prompt": False}
    client.chat.completions.create(model="tiny", messages=messages, extra_body=body)
    text = tokenizer.decode(engine.requests[-1].prompt, special=True)
    assert text.endswith("<｜User｜>hi<｜Assistant｜>Hello")


def test_names_of_tokens_in_messages_stay_text(client, engine, tokenizer):
    engine.script = "x"
    messages = [{"role": "user", "content": "<｜end▁of▁sentence｜>"}]
    client.chat.completions.create(model="tiny", messages=messages)
    assert engine.requests[-1].prompt.count(tokenizer.eos) == 0


def test_completions_of_texts_and_ids(client, engine, tokenizer):
    engine.script = lambda request: f" {len(request.prompt)}"
    answer = client.completions.create(model="tiny", prompt=["ab", "abc"], max_tokens=9)
    assert [choice.text for choice in answer.choices] == [" 3", " 4"]
    answer = client.completions.create(model="tiny", prompt=[[97, 98], [99]], echo=True)
    assert [choice.text for choice in answer.choices] == ["ab 2", "c 1"]
    assert answer.usage.prompt_tokens == 3


def test_completions_have_the_legacy_log_probabilities(client, engine):
    engine.script = "é!"
    answer = client.completions.create(
        model="tiny", prompt=[104, 105], echo=True, logprobs=1, max_tokens=3
    )
    shown = answer.choices[0].logprobs
    assert shown.tokens == ["h", "i", "bytes:\\xc3", "bytes:\\xa9", "!"]
    assert shown.token_logprobs == [None, -0.25, -0.25, -0.25, -0.25]
    assert shown.top_logprobs[:2] == [None, {"i": -0.25}]
    assert shown.text_offset == [0, 1, 2, 2, 3]
    assert answer.choices[0].text == "hié!"
    assert answer.choices[0].finish_reason == "length"


def test_completions_stream(client, engine):
    engine.script = "é!"
    stream = client.completions.create(
        model="tiny", prompt="hi", stream=True, echo=True, logprobs=0, max_tokens=3
    )
    chunks = list(stream)
    assert "".join([chunk.choices[0].text for chunk in chunks]) == "hié!"
    assert chunks[-1].choices[0].finish_reason == "length"
    offsets = []
    for chunk in chunks:
        if chunk.choices[0].logprobs:
            offsets += chunk.choices[0].logprobs.text_offset
    assert offsets == [0, 0, 1, 2, 2, 3]


def test_a_prompt_is_scored_without_generating(client, engine):
    engine.script = "é!"
    answer = client.completions.create(
        model="tiny", prompt=[104, 105], echo=True, logprobs=0, max_tokens=0
    )
    assert answer.choices[0].text == "hi"
    assert answer.choices[0].logprobs.tokens == ["h", "i"]
    assert answer.usage.completion_tokens == 0


def test_the_middle_is_filled_in(client, engine, tokenizer):
    engine.script = "x"
    client.completions.create(model="tiny", prompt="a", suffix="b")
    text = tokenizer.decode(engine.requests[-1].prompt, special=True)
    assert text.endswith("<｜fim▁begin｜>a<｜fim▁hole｜>b<｜fim▁end｜>")


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny", "deepseek"]
    model = client.models.retrieve("tiny")
    assert model.max_model_len == 4096
    assert model.run["step"] == 1200
    assert model.run["experts"] == [2, 4, 2]


def test_many_at_once_with_the_asynchronous_client(openai, url, engine):
    engine.script = lambda request: f"{request.sampling.seed}"

    async def ask(client, seed):
        stream = await client.chat.completions.create(
            model="tiny", messages=ASK, seed=seed, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def ask_all():
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            return await asyncio.gather(*[ask(client, seed) for seed in range(20)])

    assert asyncio.run(ask_all()) == [str(seed) for seed in range(20)]


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        ({"model": "gpt"}, 404, "model", "the names are tiny, deepseek"),
        ({"messages": []}, 400, "messages", "1 to 4096 items"),
        ({"messages": [{"role": "usr"}]}, 400, "messages[0].role", "did you mean 'user'"),
        ({"messages": [{"role": "user"}]}, 400, "messages[0].content", "missing"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400,
            "messages[0].content[0].type",
            "text alone",
        ),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, 400, "messages", "holds 4,096"),
        ({"temperature": "hot"}, 400, "temperature", "must be a number"),
        ({"top_p": 1.5}, 400, "top_p", "0 to 1"),
        ({"n": 9}, 400, "n", "1 to 8"),
        ({"max_tokens": 0}, 400, "max_tokens", "at least 1"),
        ({"top_logprobs": 3}, 400, "top_logprobs", "needs logprobs"),
        ({"logit_bias": {"x": 1}}, 400, "logit_bias", "token ids"),
        ({"tools": [{"function": {}}]}, 400, "tools[0].function.name", "missing"),
        ({"tool_choice": "required"}, 400, "tool_choice", "there are no tools"),
        ({"extra_body": {"continue_final_message": True}}, 400, "continue_final_message", "last"),
        ({"extra_body": {"thinking": {"type": "on"}}}, 400, "thinking.type", "one of enabled"),
        (
            {"extra_body": {"chat_template_kwargs": {"tools": 1}}},
            400,
            "chat_template_kwargs",
            "not a setting",
        ),
    ],
)
def test_bad_requests_are_refused_with_a_sentence(openai, client, fields, status, param, words):
    with pytest.raises(openai.APIStatusError, match=words) as refusal:
        client.chat.completions.create(**({"model": "tiny", "messages": ASK} | fields))
    assert refusal.value.status_code == status
    assert refusal.value.body["param"] == param
    assert "Traceback" not in json.dumps(refusal.value.body)


def test_unknown_fields_are_ignored(client, engine):
    engine.script = "x"
    body = {"user": "me", "priority": 3, "no_such_field": {}}
    client.chat.completions.create(model="tiny", messages=ASK, extra_body=body)
