"""A server for the page's tests: the page itself, and answers that are written here beforehand.

The first word of a question names its script below; any other question is answered by WELCOME. The
chunks are those of `/v1/chat/completions`, one for each token.
"""

import asyncio
import contextlib
import json
import math
import re
import socket
import threading

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from seekjax.serve.page import routes as page_routes

RUN = {
    "name": "mini",
    "step": 2000,
    "hash": "3f9a61c04b7e",
    "context": 4096,
    "experts": [6, 16, 4],
    "draft": True,
    "thinking": True,
}

WELCOME = """Latent attention keeps **one vector per token** instead of a key and a value per head.

The cache of a token therefore has 576 numbers per layer: 512 for the latent, and 64 for the \
rotary key that all heads share.

| attention | numbers per token and layer |
|---|---:|
| multi-head, 128 heads | 32,768 |
| grouped, 8 groups | 2,048 |
| latent | 576 |

In code, the two projections are:

```python
c_BTC = rms_norm(x_BTD @ w_dkv_DC)   # kept in the cache
k_BTHN = einsum("btc,chn->bthn", c_BTC, w_uk_CHN)
```

- **Expanded**, keys and values are made again from the latent: best for training.
- **Absorbed**, `w_uk` moves to the query's side: best for decoding.
"""

THOUGHT = """The question is about what is kept for each token. A head has a key and a value of \
128 numbers, so 128 heads keep 2 x 128 x 128 = 32,768.

The latent has 512, and the rotary key 64. So 576, which is 57 times less."""

HOSTILE = """<script>window.ran = 1</script> <img src=x onerror="window.ran = 2">

[link](javascript:window.ran=3) [data](data:text/html,<script>window.ran=4</script>) \
[good](https://example.org/a_(b)) ![picture](http://127.0.0.1:1/beacon.png)

```html
</code></pre><script>window.ran = 5</script>
```

| <b>cell</b> | `<i>code</i>` |
|---|---|
| <iframe src="javascript:window.ran=6"></iframe> | &lt;u&gt; |

<style>body { display: none }</style> <a href="javascript:window.ran=7" onclick="window.ran=8">x</a>
"""

SENTENCE = "The prompt has 9,000 tokens, but the context of this run is 4,096: shorten it."

# The answer of "gated" waits: before its first word, and before its last.
GATED = ("First a thought.", "Then an answer.")

# name -> (thinking, answer, seconds between tokens)
SCRIPTS = {
    "slow": (" ".join(["thinking"] * 40), " ".join(["word"] * 400), 0.02),
    "brief": ("", "Yes.", 0.0),
    "gated": (*GATED, 0.0),
    "hostile": ("<img src=x onerror='window.ran=9'> **bold**", HOSTILE, 0.0),
    "bytes": ("", "🙂 日本 ok", 0.0),
}


def app(scripts=None) -> Starlette:
    """The page's server; its `requests` keeps the bodies that came."""
    server = Starlette(routes=[*page_routes(), *api_routes()])
    server.state.requests = []
    server.state.stopped = []
    server.state.scripts = scripts or SCRIPTS
    server.state.gates = 0  # how many of the two waits of "gated" are over
    return server


def api_routes():
    return [
        Route("/v1/models", models),
        Route("/v1/chat/completions", chat, methods=["POST"]),
    ]


def models(request):
    return JSONResponse({"object": "list", "data": [{"id": RUN["name"], "run": RUN}]})


async def chat(request: Request):
    body = await request.json()
    request.app.state.requests.append(body)
    question = body["messages"][-1]["content"]
    if question == "fail":
        error = {"message": SENTENCE, "type": "invalid_request_error", "code": None}
        return JSONResponse({"error": error}, status_code=400)
    if question == "busy":
        error = {"message": "8 requests are waiting already.", "type": "rate_limit_error"}
        return JSONResponse({"error": error}, status_code=429, headers={"retry-after": "7"})
    if question == "key" and request.headers.get("authorization") != "Bearer s3cret":
        error = {"message": "The API key is not right.", "type": "authentication_error"}
        return JSONResponse({"error": error}, status_code=401)
    return StreamingResponse(stream(request, body, question), media_type="text/event-stream")


async def stream(request, body, question):
    """The chunks of an answer, as server-sent events."""
    scripts = request.app.state.scripts
    thinking, answer, pace = scripts.get(question.partition(" ")[0], (THOUGHT, WELCOME, 0.0))
    if body.get("thinking") == {"type": "disabled"}:
        thinking = ""
    texts = [("reasoning_content", part) for part in pieces(thinking)]
    texts += [("content", part) for part in pieces(answer)]

    number = 0
    rest = b""  # of a character that is not complete
    try:
        for number, (field, part) in enumerate(texts):
            if question == "breaks" and number == 30:
                yield event({"error": {"message": "The device was lost.", "type": "server_error"}})
                return
            if question == "gated":
                await gate(request.app.state, number, texts)
            text, rest = decoded(rest + part)
            yield event({"choices": [choice(body, number, {field: text}, part)]})
            await asyncio.sleep(pace)
    except asyncio.CancelledError:
        request.app.state.stopped.append(number)
        raise

    reasoning = len(pieces(thinking))
    usage = {
        "prompt_tokens": 12,
        "completion_tokens": len(texts),
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    yield event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    yield event({"choices": [], "usage": usage})
    yield "data: [DONE]\n\n"


async def gate(state, number, texts):
    """Wait at the first token of the answer, and at the last, until the test opens the gate."""
    first = next(at for at, (field, _) in enumerate(texts) if field == "content")
    needed = {first: 1, len(texts) - 1: 2}.get(number, 0)
    while state.gates < needed:
        await asyncio.sleep(0.005)


def event(chunk):
    return f"data: {json.dumps({**chunk, 'system_fingerprint': 'fp_' + RUN['hash']})}\n\n"


def pieces(text):
    """Bytes of the tokens of a text: a word with the space before it, or part of a character."""
    parts = []
    for part in re.findall(r"\s?\w{1,7}|\s?[^\w\s]|\s", text):
        whole = part.encode()
        middle = len(whole) - 2 if len(whole) > 2 and not part.isascii() else len(whole)
        parts += [whole[:middle], whole[middle:]] if middle < len(whole) else [whole]
    return parts


def decoded(part):
    """The text of some bytes, and what is left: all of them if they end within a character."""
    try:
        return part.decode(), b""
    except UnicodeDecodeError:
        return "", part


def choice(body, number, delta, part):
    """One chunk's choice, with what the request asks for with its token."""
    one = {"index": 0, "delta": delta, "finish_reason": None}
    if body.get("logprobs"):
        one["logprobs"] = {"content": [log_probs(number, part)]}
    if body.get("return_drafted"):
        one["drafted"] = [number % 3 == 1]
    if body.get("return_routed_experts"):
        one["routed_experts"] = [experts(number, part)]
    return one


def log_probs(number, part):
    """Probabilities that look like a model's: certain within words, less so at their beginning."""
    certain = 0.97 if number % 3 else 0.35 + 0.6 * ((number * 37) % 10) / 10
    others = [" the", " a", " one"]
    rest = [math.log((1 - certain) * share) for share in (0.6, 0.3, 0.1)]
    top = [entry(part, math.log(certain))]
    top += [entry(other.encode(), rest[at]) for at, other in enumerate(others)]
    return {**top[0], "top_logprobs": top}


def entry(part, log_prob):
    return {"token": part.decode(errors="replace"), "bytes": list(part), "logprob": log_prob}


def experts(number, part):
    """Experts of a token, layer by layer: those of its last letter and of its place."""
    layers, count, chosen = RUN["experts"]
    seed = part[-1] if part else 0
    return [
        [(seed * (layer + 1) // 3 + step * 5) % count for step in range(chosen)]
        for layer in range(layers)
    ]


@contextlib.contextmanager
def serving(server, port=0):
    """Serve in a thread; yields the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", port))
        port = free.getsockname()[1]
        config = uvicorn.Config(server, log_level="error", timeout_graceful_shutdown=1)
        web = uvicorn.Server(config)
        free.listen(16)
        thread = threading.Thread(target=web.run, kwargs={"sockets": [free]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}/"
        finally:
            web.should_exit = True
            thread.join(5)
