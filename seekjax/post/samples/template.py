"""How a chat template writes conversations: which tokens it makes, and which are the assistant's.

A sample is what the model meets when it is used: the prompt exactly as `seekjax chat` and the
rollouts render it, the answer, and the end of the turn.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from seekjax.data import DataError, Tokenizer
from seekjax.data.chat import ChatTemplate, Message
from seekjax.data.tokenizer import THINK
from seekjax.errors import need

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
    need(
        prompt != chat.render(question, generation_prompt=False),
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
        self.lead = head[len(prompt) :]
        self.opening = prompt[len(head) :]
        writes_opening = prompt.startswith(head) and self.opening.strip() == THINK
        need(
            placeholder and (head.startswith(prompt) or writes_opening),
            "the chat template does not write an answer behind its generation prompt: set another "
            "template.",
            DataError,
        )
        end = self._encode(tail)
        need(
            end.size and end[0] == tokenizer.eos,
            "the chat template does not end an answer with the tokenizer's end of text, so the "
            "model would never learn to stop: set another template.",
            DataError,
        )

    def prompt(self, messages: Sequence[Message]) -> np.ndarray:
        """Return the tokens up to where the assistant's next answer begins."""
        return self._encode(self.chat.render(messages))

    def answer(self, content: str) -> np.ndarray:
        """Return the tokens of an answer, its end included.

        Raises DataError if the answer lacks the <think> that the generation prompt writes.
        """
        if self.opening:
            tag = self.opening.strip()
            blanks = self.opening[len(self.opening.rstrip()) :]
            content = content.lstrip()
            need(
                content.startswith(tag),
                f"the chat template begins every answer with {tag}, and this one has none: set "
                "another template.",
                DataError,
            )
            content = content.removeprefix(tag).removeprefix(blanks)
        return np.append(self._encode(self.lead + content), np.int32(self.tokenizer.eos))

    def samples(self, messages: Sequence[Message]) -> list[Sample]:
        """Return samples that train on every answer once, behind what the model would have read.

        Most conversations are one sample. But templates drop the thinking of past answers, so an
        answer that later turns render differently ends a sample of its own.
        """
        samples: list[Sample] = []
        for turn in reversed(range(len(messages))):
            if messages[turn]["role"] != "assistant":
                continue
            prompt = self.prompt(messages[:turn])
            tokens = np.concatenate([prompt, self.answer(messages[turn]["content"])])
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

    def _encode(self, text: str) -> np.ndarray:
        return self.tokenizer.encode(text, special=True)


def _sample_that_begins_with(tokens: np.ndarray, samples: Sequence[Sample]) -> Sample | None:
    for sample in samples:
        if np.array_equal(sample.tokens[: len(tokens)], tokens):
            return sample
    return None
