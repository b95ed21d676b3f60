"""Tasks of lm-eval on a model without a server: `seekjax eval MODEL --lm-eval TASK`.

lm-eval is the package lm_eval (extra `lm-eval`), and this module imports it.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, cast

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from seekjax.config.generation import Sampling
from seekjax.data.chat import ChatTemplate, ReasoningParser
from seekjax.data.tokenizer import Tokenizer
from seekjax.errors import DataError
from seekjax.eval.scoring import Continuation, Scorer
from seekjax.generate.generator import Generator
from seekjax.post.samples.template import thinking_opened

MAX_NEW = 256  # tokens of an answer, if the task does not say
Show = Callable[[float], object]

# Settings of a task's answers, as lm-eval names them, and what they are here.
SETTINGS = {
    "max_gen_toks": "max_new",
    "max_tokens": "max_new",
    "max_new_tokens": "max_new",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "seed": "seed",
}


class HarnessModel(TemplateLM):
    """A generator as lm-eval's model. Use it within the generator's mesh.

    chat: the template of lm-eval's --apply_chat_template; None: texts as they are.
    bare: texts do not begin with the token that a text begins with in training. So lm-eval's
    local-completions sends them.
    """

    def __init__(
        self,
        generator: Generator,
        tokenizer: Tokenizer,
        rows: int,
        chat: ChatTemplate | None = None,
        bare: bool = False,
        show: Show = lambda share: None,
    ):
        """rows: texts at a time; `show` is given the share of a kind of request that is done."""
        super().__init__()
        self._generator = generator
        self._tokenizer = tokenizer
        self._scorer = Scorer(generator, rows)
        self._rows = rows
        self._chat = chat
        self._bare = bare
        self._show = show
        self._conversations: dict[str, list[int]] = {}  # ids of each text from the template

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return self._tokenizer.eos

    @property
    def prefix_token_id(self) -> int:
        """The id before the first token of a text."""
        return self._tokenizer.begin

    @property
    def tokenizer_name(self) -> str:
        """The fingerprint of the tokenizer, by which lm-eval keeps requests."""
        return self._tokenizer.fingerprint()

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the source of the template, for lm-eval's record."""
        return self._chat.source if self._chat else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return a conversation as text; its ids are kept for `tok_encode`.

        Without `add_generation_prompt` the last message is the beginning of an answer.
        """
        assert self._chat is not None
        begun = ""
        messages = chat_history
        if not add_generation_prompt and messages[-1]["role"] == "assistant":
            *messages, last = messages
            begun = last["content"]

        text = self._chat.render(messages) + begun
        ids = self._chat.encode(self._tokenizer, messages)
        self._conversations[text] = [*ids, *self._tokenizer.encode(begun).tolist()]
        return text

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Return the ids of a text, begun as in training unless `bare` or without special ones."""
        if string in self._conversations:
            return self._conversations[string]
        ids = self._tokenizer.encode(string).tolist()
        if self._bare or add_special_tokens is False:
            return ids
        return [self.prefix_token_id, *ids]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return the ids of a context and of its continuation.

        The continuation of a conversation begins a token of its own; otherwise tokens are those of
        the whole text, as everywhere in lm-eval.
        """
        if context in self._conversations:
            ids = self._tokenizer.encode(continuation).tolist()
            return self._conversations[context], ids
        return super()._encode_pair(context, continuation)

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Return log p of each continuation, and whether it is what greedy decoding returns."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        continuations = [Continuation(context, tokens) for _, context, tokens in requests]
        scores = self._scorer(continuations, self._show)
        return [(score.log_prob, score.greedy) for score in scores]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """Return log p of each text, in windows of the context that overlap by one token."""
        windows: list[Continuation] = []
        numbers: list[int] = []  # of each window's text
        longest = self._generator.context
        for number, request in enumerate(requests):
            [string] = request.args
            ids = self._tokenizer.encode(string).tolist()
            pairs = get_rolling_token_windows(ids, self.prefix_token_id, longest, 1)
            for pair in pairs:
                context, tokens = make_disjoint_window(pair)
                windows.append(Continuation(context, tokens))
                numbers.append(number)

        totals = [0.0] * len(requests)
        scores = self._scorer(windows, self._show)
        for number, score in zip(numbers, scores):
            totals[number] += score.log_prob
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Return the text that follows each context, before a stop string of the task."""
        # requests of equal settings share a batch, the longest contexts first
        contexts: list[str] = []
        groups: dict[str, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            context, settings = cast(tuple[str, dict[str, Any]], request.args)
            contexts.append(context)
            key = json.dumps(settings, sort_keys=True)
            groups[key].append(number)

        answers: dict[int, str] = {}
        for settings, numbers in groups.items():
            numbers.sort(key=lambda number: -len(contexts[number]))
            sampling = answer_settings(json.loads(settings), self._tokenizer.stops)
            for start in range(0, len(numbers), self._rows):
                batch = numbers[start : start + self._rows]
                texts = self._generate([contexts[number] for number in batch], sampling)
                answers |= zip(batch, texts)
                self._show(len(answers) / len(requests))
        return [answers[number] for number in range(len(requests))]

    def _generate(self, contexts: list[str], sampling: Sampling) -> list[str]:
        """Return completions; a context that leaves no room loses its beginning."""
        context = self._generator.context
        room = max(context - sampling.max_new, context // 2)
        prompts = []
        for text in contexts:
            ids = self.tok_encode(text) or [self.prefix_token_id]
            prompts.append(ids[-room:])

        # every batch is of one size
        missing = self._rows - len(prompts)
        prompts += [prompts[0]] * missing
        completions = self._generator(prompts, sampling, self._tokenizer.decode)
        texts = [str(completion.text) for completion in completions]
        if self._chat is None:
            return texts
        return [without_thinking(text, begun) for text, begun in zip(texts, contexts)]


def answer_settings(settings: dict[str, Any], stop_ids: Sequence[int]) -> Sampling:
    """Return the settings of a task's answers; without do_sample they are greedy.

    Raises DataError for a setting that does not exist here.
    """
    until = settings.get("until") or []
    fields: dict[str, Any] = {
        "max_new": MAX_NEW,
        "temperature": 0.0,
        "stop": tuple(filter(None, [until] if isinstance(until, str) else until)),
        "stop_ids": tuple(stop_ids),
    }
    for name, value in settings.items():
        if name in SETTINGS:
            fields[SETTINGS[name]] = value
        elif name not in ("until", "do_sample") and (name, value) != ("num_beams", 1):
            raise DataError(f"the task asks for {name}={value}, and seekjax has no such setting.")
    if not settings.get("do_sample", fields["temperature"] > 0):
        fields["temperature"] = 0.0
    return Sampling(**fields)


def without_thinking(text: str, prompt: str) -> str:
    """Return what follows the thinking of an answer, as a server's `content` does."""
    pieces = ReasoningParser(bool(thinking_opened(prompt))).feed(text, last=True)
    return "".join([piece for thinking, piece in pieces if not thinking])
