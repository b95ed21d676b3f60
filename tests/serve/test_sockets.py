"""Slow senders, too many connections, clients that leave: over real sockets."""

import json
import socket
import time

import httpx
import pytest

from seekjax.serve.limits import Limits
from tests.serve.fake_engine import served_model
from tests.serve.running import make_api, server_of

BODY = json.dumps({"messages": [{"role": "user", "content": "hi"}]}).encode()
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n" % len(BODY)
)
LIMITS = Limits(send_seconds=0.4, per_address=5, take_seconds=1.0)


@pytest.fixture(scope="module")
def api(engine, tokenizer):
    return make_api(engine, served_model(tokenizer), limits=LIMITS)


@pytest.fixture(scope="module")
def url(api):
    with server_of(api) as url:
        yield url


def connect(url):
    address = httpx.URL(url)
    connection = socket.create_connection((address.host, address.port), timeout=10)
    connection.settimeout(10)
    return connection


def answer_to(connection):
    """All that the server sends until it closes."""
    pieces = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b""),  # a browser that connects early
        (b"POST /v1/ch", b"HTTP/1.1 408"),
        (HEAD, b"HTTP/1.1 408"),
        (HEAD + BODY[:5], b"HTTP/1.1 408"),
    ],
    ids=["nothing", "a part of the head", "no body", "a part of the body"],
)
def test_slow_senders_are_disconnected_while_others_are_served(url, sent, status):
    with connect(url) as slow:
        start = time.monotonic()
        slow.sendall(sent)
        assert httpx.get(f"{url}/health").status_code == 200
        assert answer_to(slow)[:12] == status
        assert time.monotonic() - start < 3


def test_a_request_that_dribbles_has_one_deadline(url):
    start = time.monotonic()
    with connect(url) as slow:
        try:
            for byte in HEAD + BODY:
                slow.sendall(bytes([byte]))
                time.sleep(0.02)
        except OSError:
            pass
        assert time.monotonic() - start < 3


def test_the_second_request_of_a_connection_has_a_deadline_too(url):
    with connect(url) as slow:
        slow.sendall(HEAD + BODY)
        assert slow.recv(65536)
        slow.sendall(HEAD[:9])
        _, status, answer = answer_to(slow).partition(b"HTTP/1.1 408 Request Timeout\r\n")
        assert status
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert (error["type"], error["code"]) == ("timeout_error", "request_too_slow")


def test_an_answer_may_take_longer_than_the_sending(url, engine):
    engine.script, engine.delay = "slow answer", 0.05
    try:
        answer = httpx.post(f"{url}/v1/chat/completions", json=json.loads(BODY))
    finally:
        engine.delay = 0.0
    assert answer.json()["choices"][0]["message"]["content"] == "slow answer"


def test_an_address_has_a_number_of_connections(url):
    connections = [connect(url) for _ in range(LIMITS.per_address)]
    try:
        with connect(url) as refused:
            answer = answer_to(refused)
        assert answer.startswith(b"HTTP/1.1 429")
        assert b"5 connections already" in answer
    finally:
        for connection in connections:
            connection.close()
    time.sleep(0.1)
    assert httpx.get(f"{url}/health").status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_request(url, api, engine, stream):
    engine.script, engine.delay = "endless " * 400, 0.01
    body = json.dumps(json.loads(BODY) | {"stream": stream}).encode()
    head = HEAD.replace(b"length: %d" % len(BODY), b"length: %d" % len(body))
    try:
        with connect(url) as leaving:
            leaving.sendall(head + body)
            while not api.service.in_progress:
                time.sleep(0.01)
        left = time.monotonic()
        while api.service.in_progress and time.monotonic() < left + 5:
            time.sleep(0.01)
    finally:
        engine.delay = 0.0
    assert api.service.in_progress == 0
    # the engine is asked after the cancellation has reached it
    assert 'seekjax_pages{state="held"} 0' in httpx.get(f"{url}/metrics").text
    assert engine.requests[-1] in engine.cancelled


@pytest.mark.slow
def test_a_client_that_takes_nothing_is_disconnected(url, api, engine):
    # eight choices with their alternatives are more than the buffers of both ends hold
    engine.script, engine.speed = "x" * 3500, 50
    settings = {"stream": True, "n": 8, "logprobs": True, "top_logprobs": 2}
    settings |= {"return_sampling_mask": True, "return_routed_experts": True}
    body = json.dumps(json.loads(BODY) | settings).encode()
    head = HEAD.replace(b"length: %d" % len(BODY), b"length: %d" % len(body))
    with connect(url) as idle:
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        idle.sendall(head + body)
        assert refuses_more(idle, time.monotonic() + 8)
    engine.speed = 1


def refuses_more(connection, end):
    """Whether the other end has closed the connection before the time is over."""
    while time.monotonic() < end:
        try:
            connection.sendall(b"x")
        except OSError:
            return True
        time.sleep(0.05)
    return False
