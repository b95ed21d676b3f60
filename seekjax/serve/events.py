"""What an answer consists of, whichever protocol it leaves by."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from seekjax.generate.engine.request import Token

# stop: a stop id or a stop string; length: max_tokens or the context
Reason = Literal["stop", "length", "tool_calls"]


class Usage(NamedTuple):
    """How many tokens a request took; those of `reasoning` are among those of `completion`."""

    prompt: int
    completion: int
    reasoning: int = 0
    cached: int = 0  # of the prompt, which the prefix cache had


class Start(NamedTuple):
    """The first event of a choice: the prompt has been read."""

    prompt: Sequence[int]
    cached: int = 0  # tokens of it that the prefix cache had
    # the prompt's tokens, where their log probabilities or their experts were wanted
    tokens: tuple[Token, ...] = ()


class Reasoning(NamedTuple):
    """A piece of the thinking before the answer, and the tokens that completed it."""

    text: str
    tokens: tuple[Token, ...] = ()


class Content(NamedTuple):
    """A piece of the answer proper, and the tokens that completed it.

    The text is empty where a token completes none, as inside a character or a tag.
    """

    text: str
    tokens: tuple[Token, ...] = ()


class ToolCall(NamedTuple):
    """A call of a tool begins; ToolArguments with the same index follow."""

    index: int
    id: str
    name: str


class ToolArguments(NamedTuple):
    """A piece of the JSON that a tool is called with."""

    index: int
    text: str


class Finish(NamedTuple):
    """The last event of a choice."""

    reason: Reason
    usage: Usage
    stop: str = ""  # the stop string that ended the text


Event = Start | Reasoning | Content | ToolCall | ToolArguments | Finish
