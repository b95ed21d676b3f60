"""What goes into the engine and what comes out: requests, tokens, updates. No text, no JAX."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from seekjax.config.generation import Sampling, check_rules

MOST_TOP = 20  # tokens that are listed next to each one
MOST_BIASES = 512  # tokens with a logit bias


class TokenFilter(Protocol):
    """The tokens that a grammar allows next."""

    def mask(self) -> np.ndarray:
        """Return the allowed tokens, uint32 [ceil(V / 32)]: bit i of word w is token 32 w + i.

        What it raises ends the answer with "error", and no other's.
        """
        ...

    def accept(self, id: int) -> None:
        """Advance by one token; afterwards `mask` may allow only stop ids."""
        ...


@dataclass(frozen=True)
class RequestSampling(Sampling):
    """The settings of one request, and what is returned with its tokens.

    Logits are changed in this order before temperature and truncation: repetition penalty,
    frequency and presence penalty, bias, allowed tokens.
    """

    # logits of tokens in prompt and answer are divided by it if positive, multiplied otherwise
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0  # subtracted for each time that the answer has the token
    presence_penalty: float = 0.0  # subtracted if the answer has the token
    logit_bias: tuple[tuple[int, float], ...] = ()  # (id, number added)
    top_logprobs: int = 0  # the most likely tokens of each position
    prompt_logprobs: bool = False  # log_prob and `top` of the prompt's tokens, all but the first
    sampling_mask: bool = False  # the tokens that top-k, top-p and min-p kept, as packed bits
    # a token comes only when the model has read it, one step later, with the experts it visited
    routed_experts: bool = False

    def __post_init__(self):
        super().__post_init__()
        biases = [bias for _, bias in self.logit_bias]
        finite = all(map(math.isfinite, biases))
        rules = (
            (
                "repetition_penalty",
                self.repetition_penalty > 0 and math.isfinite(self.repetition_penalty),
                "a number above 0",
            ),
            ("frequency_penalty", -2 <= self.frequency_penalty <= 2, "from -2 to 2"),
            ("presence_penalty", -2 <= self.presence_penalty <= 2, "from -2 to 2"),
            (
                "logit_bias",
                len(biases) <= MOST_BIASES and finite,
                f"at most {MOST_BIASES} pairs of a token id and a finite number",
            ),
            ("top_logprobs", 0 <= self.top_logprobs <= MOST_TOP, f"from 0 to {MOST_TOP}"),
        )
        check_rules(self, rules)


@dataclass(eq=False)
class Request:
    """One answer to generate. Each Request object is a request of its own."""

    prompt: Sequence[int] = field(repr=False)
    sampling: RequestSampling = RequestSampling()  # `stop` is left to the caller, who has the text
    salt: str = ""  # only requests of the same salt share cached pages
    filter: TokenFilter | None = None


class Token(NamedTuple):
    """One token of a prompt or of an answer."""

    id: int
    # under the model itself, before sampling settings; NaN in a prompt without prompt_logprobs, and
    # for its first token
    log_prob: float
    top: tuple[tuple[int, float], ...] = ()  # the most likely tokens here, with their log_prob
    drafted: bool = False  # the draft module predicted it
    # [expert layers, K]: those that the token visited when the model read it; None if that is still
    # to come, as for the last token
    experts: np.ndarray | None = None
    kept: np.ndarray | None = None  # with sampling_mask: uint8 [ceil(V / 8)], first bit first


class Update(NamedTuple):
    """What one engine step has added to a request."""

    request: Request
    tokens: list[Token]
    finish_reason: str = ""  # "" while unfinished, "stop" (an id), "length", "cancelled", "error"
    error: Exception | None = None  # what went wrong, for "error"
    cached_tokens: int = 0  # prompt tokens that the prefix cache had; in the first update
    # with prompt_logprobs or routed_experts: the prompt's tokens; in the first update
    prompt: list[Token] | None = None
