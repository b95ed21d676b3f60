"""The model that is served, as the protocols see it: names, prompts, the texts of its tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from seekjax.data.chat import ChatTemplate, Message
from seekjax.data.tokenizer import THINK, THINK_END, Tokenizer
from seekjax.errors import DataError
from seekjax.post.samples.template import thinking_opened
from seekjax.post.samples.tool_form import ToolForm, find_tool_form
from seekjax.serve.conversation import Conversation
from seekjax.serve.errors import RequestError
from seekjax.serve.grammar import Grammars
from seekjax.serve.token_text import TokenTexts
from seekjax.serve.tools import CallForm, ToolParser, find_call_form


class Prompt(NamedTuple):
    """What a conversation is as tokens."""

    ids: list[int]
    thinking: bool  # the answer begins inside the reasoning
    closed: bool = False  # the reasoning has ended already, so that the answer has none


class Run(NamedTuple):
    """Which weights answer."""

    hash: str  # of the weights
    step: int | None = None  # of a run; None for a published checkpoint
    experts: tuple[int, int, int] = (0, 0, 0)  # layers with experts, experts in each, chosen
    draft: bool = False  # a prediction module guesses tokens ahead


@dataclass(frozen=True)
class ServedModel:
    """A model under its names, with its tokenizer, its template and its limits."""

    name: str
    tokenizer: Tokenizer
    template: ChatTemplate
    context: int  # tokens of a prompt and its answer together
    run: Run
    created: int = 0  # seconds since 1970
    aliases: tuple[str, ...] = ()
    texts: TokenTexts = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "texts", TokenTexts(self.tokenizer))

    @property
    def fingerprint(self) -> str:
        """The answer's system_fingerprint: which weights wrote it."""
        return f"fp_{self.run.hash[:16]}"

    @cached_property
    def tool_form(self) -> ToolForm:
        """The parts of a conversation with tools that the template writes."""
        return find_tool_form(self.template)

    @cached_property
    def call_form(self) -> CallForm | None:
        """The form in which the template writes calls, None if it is not one of DeepSeek's."""
        return find_call_form(self.template)

    @cached_property
    def grammars(self) -> Grammars:
        """The compiler of grammars, made when it is first needed."""
        return Grammars(self.tokenizer)

    @property
    def thinking(self) -> bool:
        """The template can begin an answer with thinking."""
        return THINK in self.template.source

    def tool_parser(self, parallel: bool) -> ToolParser | None:
        """Return a parser of calls in the template's form, None if it has no form for them."""
        return None if self.call_form is None else ToolParser(self.call_form, parallel)

    def check_name(self, name: Any) -> None:
        """Raise RequestError with status 404 unless the model has this name; None is any name."""
        names = (self.name, *self.aliases)
        if name is not None and name not in names:
            raise RequestError(
                f"there is no model {name!r} here: the names are {', '.join(names)}.",
                http=404,
                param="model",
                code="model_not_found",
            )

    def check_length(self, prompt: Sequence[int], param: str = "messages") -> None:
        """Raise RequestError if the context leaves no room for a token after this prompt."""
        if len(prompt) >= self.context:
            raise RequestError(
                f"the prompt has {len(prompt):,} tokens, and this model's context holds "
                f"{self.context:,}, the answer included: shorten it.",
                param=param,
                code="context_length_exceeded",
            )

    def room(self, prompt: Sequence[int], max_tokens: int | None) -> int:
        """Return how many tokens may follow a prompt: as many as wanted, and as there is room."""
        left = self.context - len(prompt)
        return left if max_tokens is None else min(left, max_tokens)

    def prompt(self, conversation: Conversation) -> Prompt:
        """Return the prompt of a conversation.

        Raises RequestError if the template rejects it, or if it leaves no room for an answer.
        """
        prompt = self.encode(conversation)
        self.check_length(prompt.ids)
        return prompt

    def encode(self, conversation: Conversation) -> Prompt:
        """Return a conversation as tokens, as many as it has.

        Raises RequestError if the template rejects it.
        """
        settings = dict(conversation.template_settings)
        if conversation.thinking is not None:  # V3.1's name of it, and that of other models
            settings |= {
                "thinking": conversation.thinking,
                "enable_thinking": conversation.thinking,
            }

        messages, begun = list(conversation.messages), None
        if conversation.continue_final:
            messages, begun = messages[:-1], messages[-1]
        tools = conversation.tools if conversation.tool_choice != "none" else []
        try:
            messages = self.tool_form.fit(messages, tools)
            text = self.template.render(messages, True, tools, **settings)
            ids = self.template.encode(self.tokenizer, messages, tools, **settings)
        except DataError as error:
            raise RequestError(str(error), param="messages") from error
        except ValueError as error:
            sentence = "the arguments of a call are not JSON, as the chat template needs them."
            raise RequestError(sentence, param="messages") from error

        opened = bool(thinking_opened(text))
        closed = text.rstrip().endswith(THINK_END)
        tags, thinking = _thinking_tags(opened, closed, conversation.thinking)
        if begun is not None:
            tags, thinking = _begun(begun, opened)
            closed = not thinking
        plain, mark = self.tokenizer.control.break_names(tags)
        ids += self.tokenizer.encode(plain, special=True, mark=mark).tolist() if tags else []
        return Prompt(ids, thinking, not thinking and (closed or THINK_END in tags))


def _thinking_tags(
    opened: bool,
    closed: bool,
    wanted: bool | None,
) -> tuple[str, bool]:
    """Return what a prompt lacks of the tags of thinking, and whether it is then inside thinking.

    A template without a setting for thinking writes the same prompt either way.
    """
    if wanted is None or wanted == opened:
        return "", opened
    if not wanted:
        return f"\n{THINK_END}\n\n", False
    return "" if closed else f"{THINK}\n", not closed


def _begun(message: Message, opened: bool) -> tuple[str, bool]:
    """Return the text of an answer that has begun, and whether it ends inside thinking."""
    content = message.get("content") or ""
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    if reasoning and not content:
        return ("" if opened else f"{THINK}\n") + reasoning, True
    if reasoning:
        return ("" if opened else f"{THINK}\n") + f"{reasoning}\n{THINK_END}\n\n{content}", False
    return (f"\n{THINK_END}\n\n" if opened else "") + content, False
