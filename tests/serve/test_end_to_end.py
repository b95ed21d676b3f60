"""A random model behind the protocols and the page: whatever it draws, its answers have the form
that was asked for.
"""

import json
import re
from dataclasses import replace

import httpx
import pytest
from playwright.sync_api import expect

from seekjax.serve.served import Run
from tests.serve.browser import answered, browser, choose, page, server, tab
from tests.serve.fake_engine import served_model
from tests.serve.running import make_api, server_of
from tests.serve.tiny_engine import MODEL, tiny_engine

__all__ = ["browser", "page", "server", "tab"]
pytestmark = pytest.mark.long

ASK = [{"role": "user", "content": "hi"}]
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Tokyo", "Paris"]}, "days": {"enum": [1, 2]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def url(tokenizer):
    experts = (MODEL.layers, MODEL.experts, MODEL.experts_per_token)
    run = Run("abc", experts=experts, draft=True)
    served = replace(served_model(tokenizer, context=MODEL.context), run=run)
    with server_of(make_api(tiny_engine(), served)) as url:
        yield url


def test_a_schema_behind_thinking(client):
    answer = client.chat.completions.create(
        model="tiny",
        messages=ASK,
        seed=1,
        response_format={"type": "json_schema", "json_schema": {"name": "c", "schema": CITY}},
        extra_body={"thinking": {"type": "enabled", "budget_tokens": 10}},
    )
    assert json.loads(answer.choices[0].message.content).keys() == {"city", "days"}
    assert answer.usage.completion_tokens_details.reasoning_tokens <= 11


def test_choices_of_a_pattern(client):
    answer = client.completions.create(
        model="tiny",
        prompt="x",
        n=3,
        max_tokens=20,
        seed=5,
        extra_body={"structured_outputs": {"regex": "[ab]{4}[cd]{4}"}},
    )
    texts = {choice.text for choice in answer.choices}
    assert len(texts) > 1
    for text in texts:
        assert set(text[:4]) <= set("ab")
        assert set(text[4:]) <= set("cd")
        assert len(text) == 8


def test_a_grammar_that_fails_ends_its_answer_alone(openai, url, client):
    fields = {"model": "tiny", "messages": ASK, "max_tokens": 40}
    extra = {"structured_outputs": {"regex": "So (a{1000}){1000}"}}
    with pytest.raises(openai.BadRequestError, match="regex cannot be followed further"):
        client.chat.completions.create(**fields, extra_body=extra)
    chunks = client.chat.completions.create(**fields, extra_body=extra, stream=True)
    texts = []
    with pytest.raises(openai.APIError, match="regex cannot be followed further"):
        texts.extend(chunk.choices[0].delta.content for chunk in chunks)
    assert "".join(texts) == "S"

    assert 'seekjax_pages{state="held"} 0\n' in httpx.get(f"{url}/metrics").text
    assert client.chat.completions.create(**fields).usage.completion_tokens


def test_a_forced_call_in_a_stream(client):
    tool = {"type": "function", "name": "weather", "parameters": CITY, "strict": True}
    with client.responses.stream(
        model="tiny", input="hi", tools=[tool], tool_choice="required", parallel_tool_calls=False
    ) as stream:
        assert "response.function_call_arguments.delta" in {event.type for event in stream}
        [call] = stream.get_final_response().output
    assert json.loads(call.arguments)["city"] in ("Tokyo", "Paris")


def test_the_budget_of_anthropics_thinking(anthropic, url):
    with anthropic.Anthropic(base_url=url, api_key="any", max_retries=0) as client:
        message = client.messages.create(
            model="tiny",
            max_tokens=40,
            messages=ASK,
            thinking={"type": "enabled", "budget_tokens": 8},
        )
    assert 8 < message.usage.output_tokens <= 40
    assert message.content[0].type == "thinking"
    assert {block.type for block in message.content} <= {"thinking", "text"}


def test_a_scored_answer_has_the_probabilities_of_its_draws(client):
    fields = {"model": "tiny", "temperature": 0, "logprobs": 2, "seed": 3}
    ids = [257, *b"The quick brown fox"]
    drawn = client.completions.create(
        prompt=[ids],
        max_tokens=8,
        extra_body={"return_token_ids": True, "ignore_eos": True},
        **fields,
    ).choices[0]
    assert len(drawn.token_ids) == 8

    # the first call's prompt is cached, the answer is new
    scored = client.completions.create(
        prompt=[ids + drawn.token_ids], echo=True, max_tokens=1, **fields
    ).choices[0]
    again = scored.logprobs.token_logprobs[len(ids) : len(ids) + 8]
    assert again == pytest.approx(drawn.logprobs.token_logprobs, abs=1e-4)
    for shown, top in zip(again, scored.logprobs.top_logprobs[len(ids) :]):
        assert shown == max(top.values())  # greedy


def test_a_cached_prompt_is_in_the_usage_and_its_salt_keeps_it_apart(client):
    messages = [{"role": "user", "content": "x" * 100}]

    def cached(salt):
        answer = client.chat.completions.create(
            model="tiny", messages=messages, max_tokens=1, extra_body={"cache_salt": salt}
        )
        return answer.usage.prompt_tokens_details.cached_tokens

    assert [cached("a"), cached("a"), cached("b")] == [0, 96, 0]


def test_the_page_colours_the_tokens_that_the_draft_guessed(page, url):
    settings = {"temperature": 2, "max_tokens": 40, "seed": 4}
    page.goto(url)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("2")
    page.get_by_label("Max tokens").fill("40")
    page.get_by_label("Seed").fill("4")
    page.get_by_role("button", name="Done").click()
    answer = answered(page, "hi")
    choose(answer, "Draft")
    marked = answer.locator(".token").evaluate_all(
        "nodes => nodes.map((node) => node.classList.contains('marked'))"
    )

    # The engine's own account of the same answer.
    body = {"messages": ASK, "return_drafted": True, "return_token_ids": True, **settings}
    [choice] = httpx.post(f"{url}/v1/chat/completions", json=body).json()["choices"]
    assert marked == choice["drafted"]
    assert 4 < sum(marked) < len(marked)
    share = round(100 * sum(marked) / len(marked))
    legend = f"{sum(marked)} of {len(marked)} tokens, {share} %"
    expect(answer.locator(".legend")).to_contain_text(legend)
    answer.locator(".token.marked", has_text=re.compile(r"\S")).first.hover()
    expect(page.get_by_role("tooltip")).to_contain_text("The draft guessed it")
