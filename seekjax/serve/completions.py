"""OpenAI's /v1/completions: texts or token ids to continue, several at a time."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from seekjax.generate.engine.request import Token
from seekjax.serve.chat import STREAM_FIELDS
from seekjax.serve.conversation import Conversation
from seekjax.serve.errors import need_field
from seekjax.serve.events import Content, Event, Finish, Start, Usage
from seekjax.serve.fields import Field, read_fields
from seekjax.serve.logprobs import finite, token_extras
from seekjax.serve.openai_writer import OpenAIWriter
from seekjax.serve.sampling import SAMPLING_FIELDS, read_sampling
from seekjax.serve.served import ServedModel

MOST_PROMPTS = 256
FIELDS = SAMPLING_FIELDS | {
    "prompt": Field("string|array", required=True),
    "suffix": Field("string"),
    "model": Field("string"),
    "max_tokens": Field("integer", 0),
    "echo": Field("boolean"),
    "logprobs": Field("integer", 0, 20),
    "stream": Field("boolean"),
    "stream_options": Field("object"),
    "add_special_tokens": Field("boolean"),
}
DEFAULT_TOKENS = 16  # OpenAI's
EMPTY = {"text": "", "logprobs": None, "finish_reason": None}  # a choice without anything new


class Texts(NamedTuple):
    """What a request gives to continue."""

    prompts: list[list[int]]
    written: list[str]  # the texts of the prompts, which `echo` repeats


def read(
    body: dict[str, Any],
    served: ServedModel,
) -> tuple[Conversation, Texts, "CompletionWriter"]:
    """Return what a request asks for, its prompts, and the writer of its answer.

    Raises RequestError for a field that is wrong, and for an unknown model.
    """
    values = read_fields(body, FIELDS)
    served.check_name(values.get("model"))
    options = read_fields(values.get("stream_options", {}), STREAM_FIELDS, "stream_options")
    texts = read_prompts(values, served)

    # of no token the engine generates one, which is left out
    conversation = Conversation([])
    read_sampling(values, conversation, served.tokenizer.stops)
    max_tokens = values.get("max_tokens", DEFAULT_TOKENS)
    conversation.max_tokens = max(max_tokens, 1)

    echo = values.get("echo", False)
    log_probs = values.get("logprobs")
    conversation.want_log_probs(log_probs is not None, log_probs or 0)
    if echo and log_probs is not None:
        conversation.sampling = replace(conversation.sampling, prompt_logprobs=True)
    writer = CompletionWriter(
        served,
        conversation,
        texts.written if echo else [""] * len(texts.prompts),
        empty=max_tokens == 0,
        echo=echo,
        stream=values.get("stream", False),
        include_usage=options.get("include_usage", False),
    )
    return conversation, texts, writer


def read_prompts(values: dict[str, Any], served: ServedModel) -> Texts:
    """Return the prompts: a text, ids, or a list of either.

    Names of special tokens in a text are those tokens, as the caller of this protocol writes
    templates; the token that begins a text is added, unless the text has it.
    """
    prompt = values["prompt"]
    several = prompt if isinstance(prompt, list) else [prompt]
    if several and not any(isinstance(part, str | list) for part in several):
        several = [several]
    need_field(
        1 <= len(several) <= MOST_PROMPTS,
        "prompt",
        f"has {len(several)} prompts: it must have 1 to {MOST_PROMPTS}.",
    )

    ids, written = [], []
    for index, part in enumerate(several):
        path = f"prompt[{index}]" if several is prompt else "prompt"
        if isinstance(part, list):
            check_ids(part, path, served)
            ids.append(part)
            written.append(served.tokenizer.decode(part))
        else:
            need_field(isinstance(part, str), path, "must be a string or a list of token ids.")
            ids.append(read_text(part, values, served))
            written.append(part)
    return Texts(ids, written)


def read_text(
    text: str,
    values: dict[str, Any],
    served: ServedModel,
) -> list[int]:
    """Return the ids of a text to continue, or to fill in before `suffix`."""
    tokenizer = served.tokenizer
    ids = tokenizer.encode(text, special=True).tolist()
    if "suffix" in values:
        fim = (tokenizer.fim_prefix, tokenizer.fim_hole, tokenizer.fim_end)
        need_field(None not in fim, "suffix", "needs tokens that this model's tokenizer lacks.")
        begin, hole, end = fim
        ids = [begin, *ids, hole, *tokenizer.encode(values["suffix"], special=True).tolist(), end]
    if values.get("add_special_tokens", True) and ids[:1] != [tokenizer.begin]:
        ids = [tokenizer.begin, *ids]
    return ids


def check_ids(
    ids: Sequence[Any],
    path: str,
    served: ServedModel,
) -> None:
    """Raise RequestError unless a prompt is a list of ids that the model reads.

    These are all rows of its embedding, also those without a token: a model may draw them.
    """
    need_field(ids, path, "is empty: it must have at least one token.")
    size = len(served.tokenizer.bytes_V)
    for id in ids:
        right = isinstance(id, int) and not isinstance(id, bool) and 0 <= id < size
        need_field(right, path, f"has {str(id)[:20]}: token ids are integers from 0 to {size - 1}.")


class CompletionWriter(OpenAIWriter):
    """Writes text_completion objects, whole or as a stream that ends with [DONE].

    before: what precedes each prompt's completion in its text. empty: no token was asked for.
    """

    prefix = "cmpl"
    whole_object = chunk_object = "text_completion"

    def __init__(
        self,
        served: ServedModel,
        conversation: Conversation,
        before: Sequence[str],
        empty: bool = False,
        echo: bool = False,
        stream: bool = False,
        include_usage: bool = False,
    ):
        self._completions: list[Completion] = []
        for text in before:
            for _ in range(conversation.n):
                self._completions.append(Completion(served, text, empty, echo))
        super().__init__(served, self._completions, conversation.n, stream, include_usage)
        self._returned = conversation.returned

    def add(self, choice: int, event: Event) -> Iterable[str]:
        """Return the chunk of an event."""
        completion = self._completions[choice]
        if not self.stream:
            completion.add(event, self._returned)
            return ()

        # a chunk is a completion that has this event alone
        new = completion.take(event, self._returned)
        if new is None:
            return ()
        return (self.chunk(choice, new),)


class Completion:
    """One text_completion as its events come."""

    def __init__(self, served: ServedModel, before: str, empty: bool, echo: bool):
        self.usage = Usage(0, 0)
        self._served = served
        self._text = before
        self._empty = empty
        self._echo = echo
        self._reason: str | None = None
        self._shown = LegacyLogProbs(served)
        self._extras: dict[str, Any] = {}

    def add(self, event: Event, returned: Any) -> None:
        """Take an event in."""
        if isinstance(event, Start):
            if self._echo and returned.log_probs:
                self._shown.add(event.tokens)
            if returned.token_ids:
                self._extras["prompt_token_ids"] = list(event.prompt)
        elif isinstance(event, Content) and not self._empty:
            self._text += event.text
            if returned.log_probs:
                self._shown.add(event.tokens)
            for name, values in token_extras(event.tokens, returned).items():
                self._extras.setdefault(name, []).extend(values)
        elif isinstance(event, Finish):
            self._reason = event.reason
            self.usage = event.usage
            if self._empty:
                self.usage = event.usage._replace(completion=0)

    def take(self, event: Event, returned: Any) -> dict[str, Any] | None:
        """Return the choice of a chunk with what is new, None if nothing is."""
        self.add(event, returned)
        new = self.fields()
        self._text = ""
        self._shown = self._shown.next()
        self._extras = {}
        return None if new == EMPTY else new

    def fields(self) -> dict[str, Any]:
        """Return the choice as JSON, without its index."""
        return {
            "text": self._text,
            "logprobs": self._shown.fields(),
            "finish_reason": self._reason,
            **self._extras,
        }


class LegacyLogProbs:
    """`logprobs` of a completion: four lists with an entry for each token."""

    def __init__(self, served: ServedModel, offset: int = 0):
        self._served = served
        self._tokens: list[str] = []
        self._log_probs: list[float | None] = []
        self._top: list[dict[str, float] | None] = []
        self._offsets: list[int] = []
        self._offset = offset  # characters of the text before the next token
        self._bytes = b""  # of a character that is not complete

    def add(self, tokens: Sequence[Token]) -> None:
        """Append tokens; the first token of a prompt has no log probability."""
        for token in tokens:
            self._tokens.append(self._text(token.id))
            self._offsets.append(self._offset)
            self._advance(token.id)
            if math.isnan(token.log_prob):
                self._log_probs.append(None)
                self._top.append(None)
                continue

            self._log_probs.append(finite(token.log_prob))
            top = {}
            for id, log_prob in token.top:
                top.setdefault(self._text(id), finite(log_prob))
            top.setdefault(self._text(token.id), finite(token.log_prob))
            self._top.append(top)

    def next(self) -> "LegacyLogProbs":
        """Return an empty one for what comes after these tokens."""
        following = LegacyLogProbs(self._served, self._offset)
        following._bytes = self._bytes
        return following

    def fields(self) -> dict[str, Any] | None:
        """Return the lists; None if there are no tokens."""
        if not self._tokens:
            return None
        return {
            "tokens": self._tokens,
            "token_logprobs": self._log_probs,
            "top_logprobs": self._top,
            "text_offset": self._offsets,
        }

    def _text(self, id: int) -> str:
        """Return a token as text; OpenAI writes the bytes of a part of a character so."""
        raw = self._served.texts.bytes(id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def _advance(self, id: int) -> None:
        """Count the characters that a token completes; a special token is not part of the text."""
        if not self._served.tokenizer.bytes_V[id]:
            return
        self._bytes += self._served.texts.bytes(id)
        text = self._bytes.decode("utf-8", "ignore")
        if text.encode() == self._bytes or len(self._bytes) > 8:
            self._offset += len(text)
            self._bytes = b""
