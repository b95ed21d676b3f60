"""What a server stands: slow senders, overload, clients that leave, fuzzed requests, a long load.

    python -m tests.benchmarks.serve_stress [--minutes 20] [--fuzzed 10000] [--drawn 10000]

A part with the number 0 is left out; `--fuzzing-only` leaves out all but the fuzzed and the drawn
requests.

It starts `seekjax serve` on a random model of two layers, whose cache and programs are those of a
large one, and prints a row of a table for each part. Every row states what was counted; the last
column is whether it is as it should be.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import httpx
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup

from seekjax.config import Config, DataConfig
from tests.fixtures import PLAIN, TINY, save_run
from tests.serve.test_schemathesis import CHECKS

BATCH, QUEUE = 8, 8
CAPACITY = BATCH + QUEUE
ASK = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 16}
CHAT = "/v1/chat/completions"


def start_server(folder: Path) -> tuple[subprocess.Popen, str, float]:
    """A server on a random model, its address, and the seconds until it was ready."""
    model = replace(TINY, vocab=512, context=512)
    save_run(Config(model=model, kernel=PLAIN, data=DataConfig(tokenizer="byte")), folder)
    words = [sys.executable, "-m", "seekjax.commands.cli", "serve", str(folder), "--port", "0"]
    words += ["--max-batch", str(BATCH), "--queue", str(QUEUE), "--max-connections", "1000"]
    start = time.monotonic()
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)
    line = process.stdout.readline()
    return process, line.split()[0], time.monotonic() - start


def megabytes(process) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


async def metrics_of(client) -> dict[str, float]:
    text = (await client.get("/metrics")).text
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


async def pages_lost(client) -> int:
    """Pages that are neither free nor evictable once the engine is idle."""
    for _ in range(200):
        now = await metrics_of(client)
        if not now["seekjax_requests_queued"] + now["seekjax_requests_running"]:
            break
        await asyncio.sleep(0.05)
    return int(now['seekjax_pages{state="held"}'])


async def slow_senders(client, number=200) -> None:
    """Senders of a byte per second, and requests of others meanwhile."""
    address = (client.base_url.host, client.base_url.port)

    async def send_slowly():
        start = time.monotonic()
        reader, writer = await asyncio.open_connection(*address)
        try:
            for byte in b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n":
                writer.write(bytes([byte]))
                await writer.drain()
                if await asyncio.wait_for(_closed(reader), 1.0):
                    break
        except (TimeoutError, OSError):
            pass
        return time.monotonic() - start

    async def _closed(reader):
        try:
            return not await asyncio.wait_for(reader.read(1000), 0.9)
        except TimeoutError:
            return False

    served, waits = 0, []
    senders = asyncio.gather(*[send_slowly() for _ in range(number)])
    while not senders.done():
        start = time.monotonic()
        served += (await client.post(CHAT, json=ASK)).status_code == 200
        waits.append(time.monotonic() - start)
        await asyncio.sleep(0.2)
    closed = await senders
    row(
        f"{number} slow senders",
        f"the last closed after {max(closed):.1f} s; meanwhile {served} of {len(waits)} requests of "
        f"others served, the slowest in {max(waits):.2f} s",
        max(closed) < 15 and served == len(waits),
    )


async def overload(client) -> None:
    """Ten times the capacity at once."""
    answers = await asyncio.gather(*[client.post(CHAT, json=ASK) for _ in range(10 * CAPACITY)])
    statuses = [answer.status_code for answer in answers]
    waits = [int(answer.headers["retry-after"]) for answer in answers if answer.status_code == 429]
    accepted = statuses.count(200)
    row(
        f"{10 * CAPACITY} requests at once, capacity {CAPACITY}",
        f"{accepted} answered, {statuses.count(429)} refused with 429 (Retry-After {min(waits)} to "
        f"{max(waits)} s), {len(statuses) - accepted - statuses.count(429)} others",
        accepted >= CAPACITY and accepted + statuses.count(429) == len(statuses),
    )


async def disconnects(client, number=500) -> None:
    """Clients that leave within their answers."""
    slots = asyncio.Semaphore(CAPACITY)

    async def leave():
        async with slots:
            body = ASK | {"stream": True, "max_tokens": 400}
            async with client.stream("POST", CHAT, json=body) as answer:
                async for _ in answer.aiter_bytes():
                    await asyncio.sleep(random.random() / 20)
                    return answer.status_code

    statuses = await asyncio.gather(*[leave() for _ in range(number)])
    lost = await pages_lost(client)
    row(
        f"{number} disconnects",
        f"{statuses.count(200)} answers had begun, {lost} pages lost",
        lost == 0,
    )


VALUES = [
    None,
    True,
    -1,
    0,
    1,
    2,
    3.5,
    1e308,
    10**30,
    "",
    "x",
    "\x00",
    "é" * 50,
    [],
    [0],
    {},
    {"a": 1},
]
PATHS = [CHAT, "/v1/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"]
PATHS += ["/tokenize", "/detokenize"]
FIELDS = "model messages prompt input max_tokens temperature top_p top_k min_p n seed stop stream"
FIELDS += (
    " stop_token_ids logprobs top_logprobs logit_bias tools tool_choice response_format thinking"
)
FIELDS += " reasoning_effort chat_template_kwargs continue_final_message echo suffix tokens system"
FIELDS += " structured_outputs cache_salt max_output_tokens instructions text reasoning"
BASES = [
    ASK,
    {"prompt": "a b", "max_tokens": 4},
    {"input": "hi", "max_output_tokens": 4},
    {"tokens": [97, 98]},
]


def fuzzed_body(rng) -> bytes:
    """A right body with some fields replaced, and sometimes with bytes replaced."""
    body = dict(rng.choice(BASES)) | {"max_tokens": 4}
    for _ in range(rng.randrange(5)):
        value = rng.choice(VALUES)
        if rng.random() < 0.2:
            value = [value, rng.choice(VALUES)]
        elif rng.random() < 0.2:
            value = {rng.choice(["type", "role", "content", "name", "function"]): value}
        body[rng.choice(FIELDS.split())] = value
    if rng.random() < 0.2:
        body["messages"] = [
            {"role": rng.choice(["user", "tool", "x"]), "content": rng.choice(VALUES)}
        ]
    raw = bytearray(json.dumps(body).encode())
    if rng.random() < 0.15:
        for _ in range(rng.randrange(1, 8)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
    return bytes(raw)


async def fuzz(client, number) -> None:
    """Requests with wrong fields, wrong types and broken bytes."""
    rng = random.Random(0)
    counts: dict[int, int] = {}
    slots = asyncio.Semaphore(CAPACITY)

    async def send():
        async with slots:
            headers = {"content-type": "application/json"}
            path, body = rng.choice(PATHS), fuzzed_body(rng)
            answer = await client.post(path, content=body, headers=headers)
            counts[answer.status_code] = counts.get(answer.status_code, 0) + 1
            if answer.status_code >= 500:
                print("5xx:", path, body, answer.text, file=sys.stderr)

    for first in range(0, number, 500):
        await asyncio.gather(*[send() for _ in range(first, min(first + 500, number))])
    shown = ", ".join([f"{count} with {status}" for status, count in sorted(counts.items())])
    row(f"{sum(counts.values()):,} fuzzed requests", shown, max(counts) < 500)


def drawn(url, number) -> None:
    """Right and wrong requests that schemathesis draws from the published OpenAPI document.

    Their answers must be as the document says. Those that would fill the context are cut.
    """
    counts: Counter[int] = Counter()
    wrong: set[str] = set()
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    with_body = [operation for operation in operations if operation.body]  # others take none
    checks = schemathesis.checks.CHECKS.get_by_names(CHECKS)
    many = settings(
        max_examples=-(-number // (len(GenerationMode) * len(with_body))),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )

    for operation, mode in itertools.product(with_body, GenerationMode):

        @seed(0)
        @many
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case):
            limit_length(case.body)
            response = case.call(timeout=120)
            counts[response.status_code] += 1
            try:
                case.validate_response(response, checks=checks)
            except FailureGroup as failures:
                wrong.update([f"{case.operation.label}: {error}" for error in failures.exceptions])

        send()

    for sentence in sorted(wrong):
        print(sentence, file=sys.stderr)
    shown = ", ".join([f"{count} with {status}" for status, count in sorted(counts.items())])
    row(
        f"{counts.total():,} requests drawn from the OpenAPI document",
        f"{shown}; {len(wrong)} kinds of answers otherwise than it says",
        max(counts) < 500 and not wrong,
    )


LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


def limit_length(body) -> None:
    """Let an answer have few tokens where a request leaves it open, or wants more."""
    if not isinstance(body, dict):
        return
    for name in LENGTHS:
        wanted = body.get(name)
        if wanted is None or (type(wanted) is int and wanted > 4):
            body[name] = 4


async def mixed(client, process, minutes) -> None:
    """Streams, whole answers, completions, clients that leave, and wrong requests, for long."""
    counts: dict[str, int] = {}
    rng = random.Random(1)

    async def one_client(end):
        while time.monotonic() < end:
            kind = rng.choice(["chat", "stream", "completion", "leave", "wrong"])
            length = rng.choice([4, 16, 64, 200])
            text = "word " * rng.randrange(1, 60)
            body = {"messages": [{"role": "user", "content": text}], "max_tokens": length}
            if kind == "chat":
                status = (await client.post(CHAT, json=body)).status_code
            elif kind == "completion":
                body = {"prompt": [text, text], "echo": True, "logprobs": 1, "max_tokens": length}
                status = (await client.post("/v1/completions", json=body)).status_code
            elif kind == "wrong":
                status = (await client.post(CHAT, json=body | {"n": 99})).status_code
            else:
                async with client.stream("POST", CHAT, json=body | {"stream": True}) as answer:
                    status = answer.status_code
                    async for _ in answer.aiter_bytes():
                        if kind == "leave":
                            break
            counts[f"{kind} {status}"] = counts.get(f"{kind} {status}", 0) + 1

    async def load(seconds):
        end = time.monotonic() + seconds
        await asyncio.gather(*[one_client(end) for _ in range(12)])

    await load(20)  # to a steady state
    counts.clear()
    first = megabytes(process)
    before = await metrics_of(client)
    await load(60 * minutes)
    lost = await pages_lost(client)
    after = await metrics_of(client)
    last = megabytes(process)

    name = "seekjax_generated_tokens_total"
    failed = sum(count for kind, count in counts.items() if int(kind.split()[1]) >= 500)
    row(
        f"{minutes:g} minutes of mixed load",
        f"{sum(counts.values()):,} requests, {after[name] - before[name]:,.0f} tokens, {failed} with "
        f"5xx; memory {first:.0f} MB at the beginning and {last:.0f} MB at the end; {lost} pages lost",
        failed == 0 and lost == 0 and last < 1.05 * first,
    )


def row(what: str, counted: str, right: bool) -> None:
    print(f"| {what} | {counted} | {'yes' if right else 'NO'} |", flush=True)


async def stress(url, process, options) -> None:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        await client.post(CHAT, json=ASK)
        print("| load | counted | as it should be |\n|---|---|---|")
        if not options.fuzzing_only:
            await slow_senders(client)
            await overload(client)
            await disconnects(client)
        if options.fuzzed:
            await fuzz(client, options.fuzzed)
        if options.drawn:
            await asyncio.to_thread(drawn, url, options.drawn)
        lost = await pages_lost(client)
        row("pages after these", f"{lost} lost", lost == 0)
        if not options.fuzzing_only:
            await mixed(client, process, options.minutes)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--fuzzed", type=int, default=10_000)
    parser.add_argument("--drawn", type=int, default=10_000)
    parser.add_argument("--fuzzing-only", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        process, url, seconds = start_server(Path(folder))
        print(f"{url} was ready after {seconds:.0f} s ({os.cpu_count()} cores)\n")
        try:
            asyncio.run(stress(url, process, options))
        finally:
            start = time.monotonic()
            process.terminate()
            status = process.wait(90)
            row(
                "SIGTERM at the end",
                f"status {status} after {time.monotonic() - start:.1f} s",
                status == 0,
            )


if __name__ == "__main__":
    main()
