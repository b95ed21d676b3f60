"""What holds for every request: keys, hosts, errors, metrics. Without sockets."""

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from seekjax.serve.limits import Keys, Limits, is_loopback
from tests.serve.fake_engine import FakeEngine
from tests.serve.running import client_of, make_api

CHAT = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "hi"}]}


def ask(method, path, api=None, options=None, **request):
    """The response of a fresh server to one request."""

    async def send():
        async with client_of(api or make_api(), **(options or {})) as client:
            return await client.request(method, path, **request)

    return asyncio.run(send())


@pytest.mark.parametrize(
    ("method", "path", "request_", "status", "words"),
    [
        ("GET", "/nothing", {}, 404, "nothing at this path"),
        ("GET", CHAT, {}, 405, "another method"),
        ("POST", CHAT, {"content": b"{}"}, 415, "application/json"),
        ("POST", CHAT, {"json": [1]}, 400, "must be a JSON object"),
        ("POST", CHAT, {"json": {}}, 400, "messages is missing"),
        ("POST", "/v1/completions", {"json": {"prompt": []}}, 400, "0 prompts"),
        ("POST", "/v1/completions", {"json": {"prompt": [1, 999]}}, 400, "prompt has 999"),
        ("POST", "/v1/completions", {"json": {"prompt": [True]}}, 400, "prompt has True"),
        ("POST", "/tokenize", {"json": {}}, 400, "prompt is missing"),
        ("POST", "/detokenize", {"json": {"tokens": [-1]}}, 400, "tokens has -1"),
        ("GET", "/v1/models/other", {}, 404, "no model 'other'"),
    ],
)
def test_errors_have_openai_s_shape(method, path, request_, status, words):
    answer = ask(method, path, **request_)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert words in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b'{"prompt": NaN}',
        b'{"prompt": "\\ud800"}',
        b"[" * 100_000,
        b'{"prompt": ' + b"9" * 5000 + b"}",
    ],
    ids=["empty", "cut", "no UTF-8", "NaN", "half a pair", "deep", "long number"],
)
def test_what_is_not_json_is_refused(body):
    answer = ask("POST", "/tokenize", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_a_long_body_is_refused():
    api = make_api(limits=Limits(body=1000))
    answer = ask("POST", "/tokenize", api, json={"prompt": "x" * 1000})
    assert answer.status_code == 413
    assert "1,000 bytes" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Basic secret"}, 401),
        ({"authorization": "Bearer secret"}, 200),
        ({"x-api-key": "secret"}, 200),
        ({"authorization": "Bearer sécret"}, 401),
    ],
)
def test_a_key_is_needed(headers, status):
    headers = {name: value.encode() for name, value in headers.items()}
    answer = ask("GET", "/v1/models", options={"keys": ["secret"]}, headers=headers)
    assert answer.status_code == status


@pytest.mark.parametrize("path", ["/health", "/", "/page/app.js"])
def test_health_and_the_page_need_no_key(path):
    assert ask("GET", path, options={"keys": ["secret"]}).status_code == 200


def test_every_key_is_compared_as_a_digest():
    keys = Keys(["one", "two"])
    assert keys.accept("one")
    assert keys.accept("two")
    assert not keys.accept("")
    assert not Keys([])


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:8000", 200), ("evil.example:8000", 403)],
)
def test_a_foreign_name_for_this_machine_is_refused(host, status):
    options = {"hosts": ("localhost", "127.0.0.1", "::1")}
    assert ask("GET", "/health", options=options, headers={"host": host}).status_code == status


def test_loopback_addresses():
    assert is_loopback("127.0.0.1")
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")


def test_a_defect_is_an_error_without_a_traceback(tokenizer, caplog):
    def break_(request):
        raise RuntimeError("secret detail")

    engine = FakeEngine(tokenizer, break_)
    answer = ask("POST", CHAT, make_api(engine), json=ASK)
    assert answer.status_code == 500
    assert "secret detail" not in answer.text
    assert "secret detail" in caplog.text


def test_tokens_and_back():
    async def turn():
        async with client_of(make_api()) as client:
            body = {"prompt": "é<｜User｜>", "return_token_strs": True}
            tokens = (await client.post("/tokenize", json=body)).json()
            text = (await client.post("/detokenize", json={"tokens": tokens["tokens"]})).json()
            chat = (await client.post("/tokenize", json=ASK)).json()
            return tokens, text, chat

    tokens, text, chat = asyncio.run(turn())
    assert tokens["count"] == 4
    assert tokens["token_strs"][-1] == "<｜User｜>"
    assert text["prompt"] == "<｜end▁of▁sentence｜>é<｜User｜>"
    assert chat["count"] == 5


def test_metrics_are_what_prometheus_reads(tokenizer):
    async def serve():
        async with client_of(make_api(FakeEngine(tokenizer, "four"))) as client:
            await client.post(CHAT, json=ASK)
            await client.get("/nothing")
            return (await client.get("/metrics")).text

    kinds, values = {}, {}
    for family in text_string_to_metric_families(asyncio.run(serve())):
        kinds[family.name] = family.type
        for sample in family.samples:
            values[sample.name, tuple(sample.labels.values())] = sample.value

    assert values["seekjax_generated_tokens_total", ()] == 5
    assert values["seekjax_prompt_tokens_total", ()] == 5
    assert values["seekjax_responses_total", (CHAT, "200")] == 1
    assert values["seekjax_responses_total", ("other", "404")] == 1
    assert values["seekjax_requests_finished_total", ("stop",)] == 1
    assert values["seekjax_time_to_first_token_seconds_count", ()] == 1
    assert values["seekjax_time_to_first_token_seconds_bucket", ("+Inf",)] == 1
    assert values["seekjax_pages", ("free",)] == 64
    assert values["seekjax_tokens_per_second", ()] > 0
    assert values["seekjax_expert_tokens_total", ("1", "3")] == 5
    assert kinds["seekjax_requests_queued"] == "gauge"


def test_a_client_writes_no_lines_into_the_log(caplog):
    caplog.set_level("INFO", "seekjax.serve")
    ask("GET", "/a%0Ab%1B[2J")
    assert "GET /a\\nb\\x1b[2J 404" in caplog.text
