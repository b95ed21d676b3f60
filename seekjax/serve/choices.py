"""The engine's requests for a conversation or a text, each with the Answer of its tokens."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace

from seekjax.generate.engine.request import Request, TokenFilter
from seekjax.serve.answer import Answer, Tools
from seekjax.serve.conversation import Conversation
from seekjax.serve.grammar import Grammar
from seekjax.serve.served import Prompt, ServedModel
from seekjax.serve.text import ReasoningSplitter
from seekjax.serve.thinking import ThinkingFilter
from seekjax.serve.tool_grammar import answer_grammar

Choices = dict[Request, Answer]
MOST_SEEDS = 2**63


def conversation_choices(conversation: Conversation, served: ServedModel) -> Choices:
    """Return the n choices of a conversation.

    Raises RequestError as ServedModel.prompt, and for a grammar that cannot be followed.
    """
    prompt = served.prompt(conversation)
    grammar = answer_grammar(conversation, served.call_form, served.tokenizer)

    def answer() -> Answer:
        splitter = ReasoningSplitter(prompt.thinking, prompt.closed)
        tools: Tools | None = None
        if conversation.tools and conversation.tool_choice != "none":
            tools = served.tool_parser(conversation.parallel_tool_calls)
        return Answer(served.tokenizer, prompt.ids, splitter, conversation.stop, tools)

    return _choices(conversation, served, prompt, grammar, answer)


def text_choices(
    conversation: Conversation,
    served: ServedModel,
    prompts: Sequence[Sequence[int]],
) -> Choices:
    """Return n choices of each text to continue; those of one prompt follow each other.

    The messages of the conversation are not read. Raises RequestError for a prompt that leaves no
    room in the context, and for a grammar that cannot be followed.
    """
    choices: Choices = {}
    for ids in prompts:
        served.check_length(ids, "prompt")

        def answer(ids: Sequence[int] = ids) -> Answer:
            return Answer(served.tokenizer, ids, ReasoningSplitter(closed=True), conversation.stop)

        prompt = Prompt(list(ids), False, True)
        choices |= _choices(conversation, served, prompt, conversation.grammar, answer)
    return choices


def _choices(
    conversation: Conversation,
    served: ServedModel,
    prompt: Prompt,
    grammar: Grammar | None,
    answer: Callable[[], Answer],
) -> Choices:
    """Return the n choices of one prompt, which differ in their seeds."""
    seed = conversation.seed
    if seed is None:
        seed = secrets.randbits(62)
    room = served.room(prompt.ids, conversation.max_tokens)

    choices: Choices = {}
    for index in range(conversation.n):
        sampling = replace(conversation.sampling, max_new=room, seed=(seed + index) % MOST_SEEDS)
        filter = token_filter(served, grammar, prompt.thinking, conversation.thinking_budget)
        request = Request(prompt.ids, sampling, conversation.salt, filter)
        choices[request] = answer()
    return choices


def token_filter(
    served: ServedModel,
    grammar: Grammar | None,
    thinking: bool,
    budget: int | None,
) -> TokenFilter | None:
    """Return the filter of one choice; None if every token may come.

    thinking: the answer begins inside the reasoning, of `budget` tokens at most.
    """
    filter = None if grammar is None else served.grammars.filter(grammar)
    if thinking and (grammar is not None or budget is not None):
        return ThinkingFilter(served.tokenizer, filter, budget)
    return filter
