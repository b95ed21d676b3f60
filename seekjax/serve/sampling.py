"""The fields of sampling that several protocols share, and what they mean here."""

from collections.abc import Mapping
from typing import Any

from seekjax.errors import GenerateError
from seekjax.generate.engine.request import RequestSampling
from seekjax.serve.conversation import Conversation, Returned
from seekjax.serve.errors import RequestError, need_field
from seekjax.serve.fields import Field
from seekjax.serve.grammar import read_grammar

MOST_CHOICES = 8
MOST_STOPS = 16
LEAST_TOP_P = 1e-6  # of which only the most likely token is left, as top_p 0 means

# fields that the engine has under the same name
NUMBERS = (
    "temperature",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
)
SAMPLING_FIELDS = {
    "temperature": Field("number", 0, 100),
    "top_p": Field("number", 0, 1),
    "top_k": Field("integer", -1, 2**31 - 1),  # 0 and -1: all
    "min_p": Field("number", 0, 1),
    "seed": Field("integer", -(2**63), 2**63 - 1),
    "frequency_penalty": Field("number", -2, 2),
    "presence_penalty": Field("number", -2, 2),
    "repetition_penalty": Field("number", 0, 100),
    "logit_bias": Field("object"),
    "stop": Field("string|array"),
    "stop_token_ids": Field("array", 0, 64, items=Field("integer", 0, 2**31 - 1)),
    "ignore_eos": Field("boolean"),
    "n": Field("integer", 1, MOST_CHOICES),
    "cache_salt": Field("string", 0, 256),
    "response_format": Field("object"),
    "structured_outputs": Field("object"),
    "return_token_ids": Field("boolean"),
    "return_routed_experts": Field("boolean"),
    "return_sampling_mask": Field("boolean"),
    "return_drafted": Field("boolean"),
}


def read_sampling(
    values: Mapping[str, Any],
    conversation: Conversation,
    stop_ids: tuple[int, ...],
) -> None:
    """Put what SAMPLING_FIELDS has of a request into its conversation.

    `values` is what `read_fields` returns; `stop_ids` are the model's own. Raises RequestError for
    a value out of its range.
    """
    stops = tuple(values.get("stop_token_ids", ()))
    if not values.get("ignore_eos", False):
        stops += stop_ids
    wanted = {
        "stop_ids": stops,
        "logit_bias": _logit_bias(values.get("logit_bias", {})),
        "top_p": max(values.get("top_p", 1.0), LEAST_TOP_P),
        "top_k": max(values.get("top_k", 0), 0),
        "sampling_mask": values.get("return_sampling_mask", False),
        "routed_experts": values.get("return_routed_experts", False),
    }
    for name in NUMBERS:
        if name in values:
            wanted[name] = float(values[name])
    try:
        conversation.sampling = RequestSampling(**wanted)
    except GenerateError as error:
        raise RequestError(str(error)) from error

    conversation.seed = values.get("seed")
    conversation.n = values.get("n", 1)
    conversation.stop = read_stop(values.get("stop"))
    conversation.grammar = read_grammar(values)
    conversation.salt = values.get("cache_salt", "")
    conversation.returned = Returned(
        token_ids=values.get("return_token_ids", False),
        routed_experts=values.get("return_routed_experts", False),
        sampling_mask=values.get("return_sampling_mask", False),
        drafted=values.get("return_drafted", False),
    )


def read_stop(value: Any, name: str = "stop") -> tuple[str, ...]:
    """Return stop strings, which a request gives as a string or a list of them."""
    strings = [value] if isinstance(value, str) else value or []
    need_field(len(strings) <= MOST_STOPS, name, f"has more than {MOST_STOPS} strings.")
    stops = []
    for string in strings:
        if string is None:
            continue
        need_field(isinstance(string, str), name, "must hold strings.")
        if string:  # an empty one would end every text at once
            stops.append(string)
    return tuple(stops)


def _logit_bias(biases: Mapping[str, Any]) -> tuple[tuple[int, float], ...]:
    """Return the bias of each token; JSON has the ids as strings."""
    pairs = []
    for id, bias in biases.items():
        need_field(
            id.isdecimal() and id.isascii() and len(id) < 10,
            "logit_bias",
            f"has the key {id[:20]!r}: its keys must be token ids.",
        )
        right = isinstance(bias, int | float) and not isinstance(bias, bool) and abs(bias) <= 100
        need_field(right, "logit_bias", f"of token {id} must be a number from -100 to 100.")
        pairs.append((int(id), float(bias)))
    return tuple(pairs)
