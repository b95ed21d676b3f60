"""Tokens as the protocols show them: log probabilities, bytes, ids, experts."""

import base64
import math
from collections.abc import Sequence
from typing import Any

from seekjax.generate.engine.request import Token
from seekjax.serve.conversation import Returned
from seekjax.serve.token_text import TokenTexts

LEAST = -9999.0  # stands for minus infinity, which JSON cannot write


def finite(log_prob: float) -> float:
    """Return a log probability that JSON can write."""
    return float(log_prob) if math.isfinite(log_prob) else LEAST


def chat_log_probs(tokens: Sequence[Token], texts: TokenTexts) -> dict[str, Any]:
    """Return `logprobs` of chat completions: for each token its text, bytes and alternatives."""
    content = []
    for token in tokens:
        alternatives = []
        for id, log_prob in token.top:
            alternatives.append(_token(id, log_prob, texts))
        content.append(_token(token.id, token.log_prob, texts) | {"top_logprobs": alternatives})
    return {"content": content, "refusal": None}


def _token(
    id: int,
    log_prob: float,
    texts: TokenTexts,
) -> dict[str, Any]:
    return {
        "token": texts.text(id),
        "logprob": finite(log_prob),
        "bytes": list(texts.bytes(id)),
    }


def token_extras(tokens: Sequence[Token], returned: Returned) -> dict[str, Any]:
    """Return the fields beyond OpenAI's that a request asks for with its tokens."""
    extras: dict[str, Any] = {}
    if returned.token_ids:
        extras["token_ids"] = [token.id for token in tokens]
    if returned.drafted:
        extras["drafted"] = [token.drafted for token in tokens]
    if returned.routed_experts:
        extras["routed_experts"] = list(map(_experts, tokens))
    if returned.sampling_mask:
        extras["sampling_mask"] = list(map(_mask, tokens))
    return extras


def _experts(token: Token) -> list[list[int]] | None:
    """Return the experts that a token visited in each layer; None if it was not read."""
    return None if token.experts is None else token.experts.tolist()


def _mask(token: Token) -> str | None:
    """Return in base64 the bits of the tokens that sampling kept, the first bit first."""
    return None if token.kept is None else base64.b64encode(token.kept.tobytes()).decode()
