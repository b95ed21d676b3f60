"""Whether a request can be served, said at once."""

import numpy as np

from seekjax.config import ModelConfig
from seekjax.errors import GenerateError, need
from seekjax.generate.engine.request import Request


class QueueFullError(GenerateError):
    """As many requests wait as may wait."""


def check_request(
    request: Request,
    model: ModelConfig,
    context: int,
    room: int,
) -> None:
    """Raise GenerateError unless the request is of known ids and fits.

    context: tokens that a prompt and its answer may have; room: tokens that all pages hold.
    """
    length = len(request.prompt)
    need(
        length,
        "the prompt is empty: begin it with the token that begins or ends a document.",
        GenerateError,
    )
    ids = np.asarray(request.prompt, np.int64)
    unknown = ids.min() if ids.min() < 0 else ids.max()
    _check_id(unknown, model, "the prompt")
    need(
        length < context,
        f"the prompt has {length} tokens and leaves no room in the context of {context}: shorten "
        "it.",
        GenerateError,
    )
    longest = min(length + request.sampling.max_new, context)
    need(
        longest <= room,
        f"the prompt and {longest - length} more tokens are {longest}, and all pages of the cache "
        f"hold {room}: shorten the prompt, lower max_new, or give the engine more pages.",
        GenerateError,
    )
    for id, _ in request.sampling.logit_bias:
        _check_id(id, model, "logit_bias")


def _check_id(
    id: int,
    model: ModelConfig,
    where: str,
) -> None:
    need(
        0 <= id < model.vocab,
        f"{where} has id {id}: the model has ids from 0 to {model.vocab - 1}.",
        GenerateError,
    )
