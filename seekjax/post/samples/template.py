"""How a chat template writes conversations: which tokens it makes, and which are the assistant's.

A sample is what the model meets when it is used: the prompt exactly as `seekjax chat` and the
rollouts render it, the answer, and the end of the turn.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from seekjax.data import DataError, Tokenizer
from seekjax.data.chat import ChatTemplate, Message
from seekjax.data.tokenizer import THINK, THINK_END
from seekjax.errors import need
from seekjax.post.samples.tool_form import ToolForm, find_tool_form, has_tools
from seekjax.post.samples.tools import Tool

PLACEHOLDER = "\0"  # an answer that shows where a template puts one


class Sample(NamedTuple):
    """A conversation as tokens."""

    tokens: np.ndarray  # int32
    trained: np.ndarray  # bool: the assistant's answers, and the end of those turns


def generation_prompt(chat: ChatTemplate) -> str:
    """Return a conversation of one question, rendered up to where the answer begins.

    Raises DataError if the template adds nothing that asks for an answer.
    """
    question: list[Message] = [{"role": "user", "content": "1+1"}]
    prompt = chat.render(question)
    asks = prompt != chat.render(question, generation_prompt=False)
    if not asks:  # V3-0324 and R1-0528 ask behind every question
        answered = [*question, {"role": "assistant", "content": PLACEHOLDER}]
        behind = prompt.rpartition("1+1")[2].rstrip()
        asks = behind and not behind.endswith(chat.eos)
        asks = asks and chat.render(answered, False).startswith(prompt + PLACEHOLDER)
    need(
        asks,
        "the chat template has no generation prompt, so nothing tells the model to answer: set "
        "another template.",
        DataError,
    )
    return prompt


class ChatFormat:
    """The format in which a template writes prompts and answers.

    Raises DataError if answers in this format cannot be trained on.
    """

    def __init__(self, chat: ChatTemplate, tokenizer: Tokenizer):
        self.chat = chat
        self.tokenizer = tokenizer
        prompt = generation_prompt(chat)
        question: list[Message] = [{"role": "user", "content": "1+1"}]
        answered = [*question, {"role": "assistant", "content": PLACEHOLDER}]
        head, placeholder, tail = chat.render(answered, generation_prompt=False).partition(
            PLACEHOLDER
        )

        # What a finished conversation has between generation prompt and answer, and what the
        # generation prompt writes of the answer: R1's <think>.
        self.opening = thinking_opened(prompt)
        self.closed = prompt.rstrip().endswith(THINK_END)
        before_opening = prompt.removesuffix(self.opening)
        self.lead = "" if self.opening else head[len(prompt) :]
        written = head[len(before_opening) :]
        fits = written.strip() in ("", THINK_END) if self.opening else True
        need(
            placeholder and head.startswith(before_opening) and fits,
            "the chat template does not write an answer behind its generation prompt: set another "
            "template.",
            DataError,
        )
        end = self._encode(tail)
        need(
            end.size and end[0] in tokenizer.stops,
            "the chat template does not end an answer with a token that ends a text, so the model "
            "would never learn to stop: set another template.",
            DataError,
        )
        self.end = np.int32(end[0])

    @cached_property
    def tool_form(self) -> ToolForm:
        """The tools that the template writes, and in which form."""
        return find_tool_form(self.chat)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> np.ndarray:
        """Return the tokens up to where the assistant's next answer begins."""
        return np.array(self.chat.encode(self.tokenizer, messages, tools), np.int32)

    def answer(self, content: str) -> np.ndarray:
        """Return the tokens of an answer, its end included. Raises DataError as fit_thinking."""
        content = fit_thinking(content, self.opening, self.closed)
        plain, mark = self.tokenizer.control.break_names(content)
        text = self.lead + plain
        return np.append(self.tokenizer.encode(text, special=True, mark=mark), self.end)

    def exchange(
        self, messages: Sequence[Message], answer: Message, tools: Sequence[Tool] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of a prompt, and of the assistant's answer to it with its end.

        The calls of tools are part of an answer. Raises DataError as `answer`, and for tools that
        the template does not write.
        """
        if not has_tools([*messages, answer], tools):
            return self.prompt(messages), self.answer(answer["content"])

        messages = self.tool_form.fit([*messages, answer], tools)
        (plain, offered), mark = self.tokenizer.control.break_names((messages, list(tools)))
        ids = self._encode(self._answer_text(plain[:-1], plain[-1], offered), mark)
        ends = np.flatnonzero(np.isin(ids, self.tokenizer.stops))
        need(
            ends.size,
            "the chat template does not end this answer with a token that ends a text: set "
            "another template.",
            DataError,
        )
        return self.prompt(messages[:-1], tools), ids[: ends[0] + 1]

    def _answer_text(self, messages: list[Message], answer: Message, tools: Sequence[Tool]) -> str:
        """Return what the template writes behind the prompt of `messages` for an answer.

        Templates drop thinking, so a placeholder shows where the content belongs.
        """
        prompt = self.chat.render(messages, tools=tools)
        opening = thinking_opened(prompt)
        content = fit_thinking(answer["content"], opening, prompt.rstrip().endswith(THINK_END))

        placed = {**answer, "content": PLACEHOLDER if content else ""}
        written = self.chat.render([*messages, placed], generation_prompt=False, tools=tools)
        start = prompt.removesuffix(opening)
        head, placeholder, tail = written[len(start) :].partition(PLACEHOLDER)
        fits = written.startswith(start) and bool(placeholder) == bool(content)
        if opening:  # the thinking of the content takes the place of what past answers have
            fits = fits and head.strip() in ("", THINK_END)
            head = ""
        need(
            fits,
            "the chat template does not write this answer behind its generation prompt: set "
            "another template.",
            DataError,
        )
        return head + content + tail

    def samples(
        self,
        messages: Sequence[Message],
        learnt: Sequence[bool] | None = None,
        tools: Sequence[Tool] = (),
    ) -> list[Sample]:
        """Return samples that train on every answer once, behind what the model would have read.

        `learnt` says of each message whether it is trained on if it is an answer; None: all are.

        Most conversations are one sample. But templates drop the thinking of past answers, so an
        answer that later turns render differently ends a sample of its own.
        """
        samples: list[Sample] = []
        for turn in reversed(range(len(messages))):
            if messages[turn]["role"] != "assistant" or not (learnt is None or learnt[turn]):
                continue
            prompt, answer = self.exchange(messages[:turn], messages[turn], tools)
            tokens = np.concatenate([prompt, answer])
            sample = _sample_that_begins_with(tokens, samples)
            if sample is None:
                sample = Sample(tokens, np.zeros(len(tokens), bool))
                samples.append(sample)
            sample.trained[len(prompt) : len(tokens)] = True
        return samples[::-1]

    def fingerprint(self) -> str:
        """Return a hash of what the template writes."""
        messages: list[Message] = [
            {"role": role, "content": "<think>1</think>2"}
            for role in ("system", "user", "assistant", "user")
        ]
        return hashlib.sha256(self.chat.render(messages).encode()).hexdigest()

    def _encode(self, text: str, mark: str = "") -> np.ndarray:
        return self.tokenizer.encode(text, special=True, mark=mark)


def thinking_opened(prompt: str) -> str:
    """Return the <think> that a prompt ends with, and the blanks behind it; "" if it has none."""
    end = len(prompt.rstrip())
    if not prompt[:end].endswith(THINK):
        return ""
    return prompt[end - len(THINK) :]


def fit_thinking(content: str, opening: str, closed: bool) -> str:
    """Return an answer for a prompt that ends with `opening`, or with the end of thinking.

    Raises DataError if the answer has thinking that the prompt has closed, or lacks the <think>
    that the prompt writes.
    """
    if opening:
        blanks = opening.removeprefix(THINK)
        content = content.lstrip()
        need(
            content.startswith(THINK),
            f"the chat template begins every answer with {THINK}, and this one has none: set "
            "another template, or a setting of it as template_settings thinking=false.",
            DataError,
        )
        content = content.removeprefix(THINK).removeprefix(blanks)
    elif closed:
        content = without_empty_thinking(content)
        need(
            THINK not in content and THINK_END not in content,
            f"the chat template ends every prompt with {THINK_END}, and this answer has "
            "thinking: set template_settings thinking=true, or leave the thinking out.",
            DataError,
        )
    return content


def without_empty_thinking(content: str) -> str:
    """Return an answer without a thought of no words before it."""
    before, tag, answer = content.partition(THINK_END)
    if tag and before.strip() in ("", THINK):
        return answer.lstrip("\n")
    return content


def _sample_that_begins_with(tokens: np.ndarray, samples: Sequence[Sample]) -> Sample | None:
    for sample in samples:
        if np.array_equal(sample.tokens[: len(tokens)], tokens):
            return sample
    return None
