"""The one request that chat, responses and messages are translated to."""

from dataclasses import dataclass, field, replace
from typing import Any

from seekjax.data.chat import Message
from seekjax.generate.engine.request import RequestSampling
from seekjax.serve.grammar import Grammar


@dataclass(frozen=True)
class Returned:
    """What an answer tells of its tokens beyond their text."""

    token_ids: bool = False
    routed_experts: bool = False
    sampling_mask: bool = False
    drafted: bool = False
    log_probs: bool = False


@dataclass
class Conversation:
    """A conversation to continue, in the terms of no particular protocol."""

    messages: list[Message]  # in OpenAI's form, as ChatTemplate.render takes them
    tools: list[dict[str, Any]] = field(default_factory=list)
    # none, auto or required; any other word is the name of the tool that must be called
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    thinking: bool | None = None  # None: as the template does by itself
    thinking_budget: int | None = None  # tokens of thinking at most; None: any number
    template_settings: dict[str, Any] = field(default_factory=dict)
    continue_final: bool = False  # go on with the last message, which is the assistant's

    sampling: RequestSampling = field(default_factory=RequestSampling)  # of its max_new see below
    max_tokens: int | None = None  # generated at most; None: as many as the context holds
    seed: int | None = None  # choice i draws with seed + i; None: a random one
    n: int = 1  # choices
    stop: tuple[str, ...] = ()  # strings that end the text, without being part of it
    grammar: Grammar | None = None  # of the answer proper; None for any text
    salt: str = ""  # only requests with the same salt share a cached prefix
    returned: Returned = field(default_factory=Returned)

    def want_log_probs(self, wanted: bool, top: int = 0) -> None:
        """Return log probabilities with the tokens, and `top` alternatives of each, if wanted."""
        if wanted:
            self.returned = replace(self.returned, log_probs=True)
            self.sampling = replace(self.sampling, top_logprobs=top)
