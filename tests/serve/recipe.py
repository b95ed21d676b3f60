"""The event streams that DeepSeek's own package makes, as an oracle for those of the server.

It covers V4, which writes calls in another form; its events of the protocols are the same.
"""

import json

import deepseek_recipe as recipe

MODEL = "DeepSeek-V4-Pro"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
INVOKE = (
    '<｜DSML｜invoke name="weather">\n<｜DSML｜parameter name="city" string="true">Tokyo'
    "</｜DSML｜parameter>\n</｜DSML｜invoke>\n"
)
# What differs from call to call, and what says more than the server does.
VARYING = {
    "id",
    "signature",
    "encrypted_content",
    "usage",
    "item_id",
    "call_id",
    "created_at",
    "completed_at",
    "sequence_number",
}


def responses(text, calls):
    """The events of a response whose thinking is open, with calls behind the text."""
    thinking = "</think>" in text
    body = {
        "model": MODEL,
        "input": "hi",
        "stream": True,
        "tools": [{"type": "function", "name": "weather", "parameters": SCHEMA}],
        "reasoning": {"effort": "high" if thinking else "none"},
    }
    request = recipe.ResponsesRequest(body).convert(recipe.ConversionOptions())
    generator = recipe.ResponsesRequest.chunk_generator(request, "resp_1", "tiny")
    return _events(generator, request, text, calls)


def messages(text, calls):
    """The events of a message."""
    thinking = "</think>" in text
    body = {
        "model": MODEL,
        "max_tokens": 2000,
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "tools": [{"name": "weather", "input_schema": SCHEMA}],
        "thinking": {"type": "enabled", "budget_tokens": 1024}
        if thinking
        else {"type": "disabled"},
    }
    request = recipe.MessagesRequest(body).convert(recipe.ConversionOptions())
    generator = recipe.MessagesRequest.chunk_generator(request, "msg_1", "tiny")
    return _events(generator, request, text, calls)


def _events(generator, request, text, calls):
    if calls:
        text += f"\n\n<｜DSML｜tool_calls>\n{calls * INVOKE}</｜DSML｜tool_calls>"
    processor = recipe.StreamProcessor(generator, request.parsing_options)
    chunk = recipe.InferenceChunk
    events = processor.push(chunk.ready(prompt_usage=recipe.PromptUsage(prompt_tokens=5)))
    for character in text:
        events += processor.push(chunk.text(character, 1))
    events += processor.push(chunk.finish(recipe.InferenceFinishReason.Stop))
    return [json.loads(event.to_json()) for event in events + processor.finish()]


def read_stream(text):
    """The events of a stream; the name of each is its type."""
    events = []
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith(":")]
        if lines:
            name, data = lines
            events.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {events[-1]['type']}"
    return events


def joined(events):
    """Events with the deltas of one part as one, and without what varies."""
    kept = []
    for event in map(_without_varying, events):
        before = kept[-1] if kept else {}
        part = [event.get(name) for name in ("type", "output_index", "index")]
        same = part == [before.get(name) for name in ("type", "output_index", "index")]
        if event["type"] == "ping":
            continue
        if same and isinstance(event.get("delta"), str):
            before["delta"] += event["delta"]
        elif same and event["delta"]["type"] == before["delta"]["type"]:
            _, name = event["delta"]
            before["delta"][name] += event["delta"][name]
        else:
            kept.append(event)
    return kept


def shared(ours, theirs):
    """Both values, of objects only the fields that both have."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        pairs = {name: shared(ours[name], theirs[name]) for name in ours if name in theirs}
        return (
            {name: pair[0] for name, pair in pairs.items()},
            {name: pair[1] for name, pair in pairs.items()},
        )
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = [shared(our, their) for our, their in zip(ours, theirs, strict=True)]
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return ours, theirs


def names(value, path=""):
    """The paths of all fields in a value."""
    if isinstance(value, dict):
        inner = [names(part, f"{path}.{name}") | {f"{path}.{name}"} for name, part in value.items()]
        return set().union(*inner)
    if isinstance(value, list):
        return set().union(*[names(part, path) for part in value])
    return set()


def _without_varying(value):
    if isinstance(value, dict):
        return {name: _without_varying(part) for name, part in value.items() if name not in VARYING}
    if isinstance(value, list):
        return [_without_varying(part) for part in value]
    return value
