"""A grammar that fails within an answer: an error in the protocol's form, and no other's end."""

import asyncio
import json
import logging

import pytest

from seekjax.serve.writer import DONE
from tests.serve.fake_engine import FakeEngine, served_model
from tests.serve.running import client_of, make_api, server_of

# The beginning can be followed; behind it the automaton has too many states.
GRAMMAR = {"regex": "So (a{1000}){1000}"}
SENTENCE = "structured_outputs.regex cannot be followed further: lexer error: too many"
ASK = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 40}
PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"]


def body_for(path, **fields):
    """A request of the protocol at a path, whose answer cannot be finished."""
    body = {**ASK, "structured_outputs": GRAMMAR, **fields}
    if path == "/v1/responses":
        return body | {"input": "hi"}
    if path == "/v1/messages":
        return body
    return body | {"prompt": "hi", "n": 2}  # choices, each with a matcher


def ask(path, engine, **fields):
    """The response of a request, after which the engine holds nothing and serves the next one."""

    async def post():
        async with client_of(make_api(engine, served_model(engine.tokenizer))) as client:
            response = await client.post(path, json=body_for(path, **fields))
            text = (await client.get("/metrics")).text
            assert 'seekjax_pages{state="held"} 0\n' in text
            following = await client.post("/v1/chat/completions", json=ASK)
            assert following.json()["choices"][0]["message"]["content"] == "Hello."
        return response

    return asyncio.run(post())


def events_of(response):
    """The names and the data of a stream's events, without the end mark."""
    events = []
    for part in response.text.removesuffix(DONE).strip().split("\n\n"):
        *names, data = part.split("\n")
        events.append((names, json.loads(data.removeprefix("data: "))))
    return events


@pytest.mark.parametrize("path", PATHS)
def test_an_answer_that_is_no_stream_is_a_refusal(path, tokenizer):
    response = ask(path, FakeEngine(tokenizer))
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith(SENTENCE)
    if path != "/v1/messages":
        assert error["param"] == "structured_outputs.regex"


@pytest.mark.parametrize("path", PATHS)
def test_a_stream_ends_with_the_error_of_its_protocol(path, tokenizer):
    response = ask(path, FakeEngine(tokenizer), stream=True)
    assert response.status_code == 200
    events = events_of(response)
    names, last = events[-1]
    text = json.dumps([data for _, data in events[:-1]])

    if path == "/v1/responses":
        assert names == ["event: response.failed"]
        assert last["sequence_number"] == len(events) - 1
        assert last["response"]["status"] == "failed"
        error = last["response"]["error"]
        assert error["code"] == "invalid_prompt"
    else:
        error = last["error"]
        assert error["type"] == "invalid_request_error"
        assert names == (["event: error"] if path == "/v1/messages" else [])
        assert response.text.endswith(DONE) == (path != "/v1/messages")
    assert error["message"].startswith(SENTENCE)
    assert '"S"' in text  # what was generated before has been sent


@pytest.mark.slow
def test_the_clients_raise_it(openai, anthropic, tokenizer):
    extra = {"structured_outputs": GRAMMAR}
    with server_of(make_api(FakeEngine(tokenizer))) as url:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            with pytest.raises(openai.BadRequestError, match=SENTENCE):
                client.chat.completions.create(**ASK, extra_body=extra)
            chunks = client.chat.completions.create(**ASK, stream=True, extra_body=extra)
            with pytest.raises(openai.APIError, match=SENTENCE):
                list(chunks)

        with anthropic.Anthropic(base_url=url, api_key="any", max_retries=0) as client:
            with pytest.raises(anthropic.BadRequestError, match=SENTENCE):
                client.messages.create(**ASK, extra_body=extra)
            failing = pytest.raises(anthropic.APIStatusError, match=SENTENCE)
            with failing, client.messages.stream(**ASK, extra_body=extra) as stream:
                list(stream)


@pytest.mark.parametrize("stream", [False, True])
def test_a_defect_of_a_filter_is_logged_and_not_shown(stream, tokenizer, monkeypatch, caplog):
    def broken(self):
        raise RuntimeError("of the filter alone")

    monkeypatch.setattr("seekjax.serve.grammar.GrammarFilter.mask", broken)
    with caplog.at_level(logging.ERROR, "seekjax.serve"):
        response = ask("/v1/chat/completions", FakeEngine(tokenizer), stream=stream)
    assert response.status_code == (200 if stream else 500)
    assert '"message":"the server failed on this request; its log says why."' in response.text
    assert "of the filter alone" not in response.text
    assert "of the filter alone" in caplog.text
