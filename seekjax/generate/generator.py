"""Generation from prompts, streamed: bucketed lengths and device calls of a few steps."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.config import KernelConfig, ModelConfig
from seekjax.errors import GenerateError, need
from seekjax.generate.decode import decode_steps, prefill
from seekjax.generate.detokenizer import Decode, Detokenizer
from seekjax.generate.sampling import Sampling, sampling_arrays
from seekjax.generate.state import Decoder, State, decoding_variables
from seekjax.seeds import row_keys
from sharding.mesh import platform
from sharding.rules import split_by

STOPS = 8  # stop ids that a compiled step compares with; more of them compile again
CHUNK = 16  # steps per device call


@dataclass
class Completion:
    """What has been generated after one prompt."""

    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)  # of each id, under the model itself
    text: Detokenizer | None = None  # if the caller passed a way to decode ids
    finish_reason: str = ""  # "stop" (an id or a string) or "length"; "" while unfinished


def choose_draft(variables: dict, draft: bool | None) -> bool:
    """Return whether the first prediction module drafts; None leaves it to where that pays.

    Raises GenerateError if it must and the model has none.
    """
    can_draft = "mtp_1" in variables["params"]
    need(
        can_draft or not draft,
        "the model has no prediction module to draft with: leave the draft off.",
        GenerateError,
    )
    if draft is None:
        return can_draft and platform() != "cpu"
    return draft


class Generation:
    """A generation in progress: each iteration is one device call.

    Iteration ends when all completions have a finish reason.
    """

    def __init__(
        self,
        completions: list[Completion],
        calls: Iterator[tuple[int, int | None]],
        clock: Callable[[], float] = time.perf_counter,
    ):
        """`calls` extends the completions and yields row steps and accepted drafts."""
        self.completions = completions
        self.row_steps = 0  # steps, summed over rows
        self.accepted: int | None = 0  # how many of these accepted their draft; None without drafts
        # seconds and tokens after each device call that brought any
        self.timings: list[tuple[float, int]] = []
        self._calls = calls
        self._clock = clock

    def __iter__(self) -> Iterator[list[Completion]]:
        began = self._clock()
        for row_steps, accepted in self._calls:
            self.row_steps = row_steps
            self.accepted = accepted
            if self.tokens:
                self.timings.append((self._clock() - began, self.tokens))
            yield self.completions

    def finish(self) -> list[Completion]:
        """Run to the end and return the completions."""
        for _ in self:
            pass
        return self.completions

    @property
    def tokens(self) -> int:
        """The number of tokens generated so far."""
        return sum(len(completion.ids) for completion in self.completions)

    def rate(self) -> float:
        """Return tokens per second.

        The first two calls may have compiled, so they are left out if there are more.
        """
        begin, before = self.timings[1] if len(self.timings) > 2 else (0.0, 0)
        end, tokens = self.timings[-1]
        return (tokens - before) / (end - begin)

    def report(self) -> str:
        """Return "96 tokens, 120.3 tokens/s, ...", and the share of accepted drafts."""
        if not self.timings:
            return "0 tokens"

        first = self.timings[0][0]
        line = f"{self.tokens} tokens, {self.rate():.1f} tokens/s, the first after {first:.2f} s"
        if self.accepted is None or not self.row_steps:
            return line

        # prefill generates the first token of each row without a step
        accepted = self.accepted / self.row_steps
        per_step = (self.tokens - len(self.completions)) / self.row_steps
        return f"{line}; draft accepted {accepted:.0%}, {per_step:.2f} tokens per step"


class Generator:
    """A model ready to generate. Construct and call it within `use_mesh(mesh)`."""

    def __init__(
        self,
        model: ModelConfig,
        variables: dict,
        kernel: KernelConfig = KernelConfig(),
        draft: bool | None = None,
        consume: bool = False,
    ):
        """Copy each layer out of the stacks; `consume` frees the stacks meanwhile.

        draft: whether the first prediction module drafts tokens. None: if the model has the module,
        except on a CPU, where a step of two tokens takes twice as long as a step of one.
        """
        # what FP8 trains computes in bfloat16 here
        self.decoder = Decoder(model, kernel.without_fp8(), choose_draft(variables, draft))
        self.variables = decoding_variables(self.decoder, variables, consume)

    @property
    def context(self) -> int:
        """Tokens of a prompt and its completion at most."""
        return self.decoder.model.context

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling = Sampling(),
        decode: Decode | None = None,
        chunk: int = CHUNK,
    ) -> Generation:
        """Return a generation after each prompt; nothing runs until it is iterated.

        `chunk` is the number of steps per device call. Raises GenerateError for prompts that are
        empty, hold unknown ids or fill the context, and for stop strings without `decode`.
        """
        check(prompts, self.decoder.model, sampling, decode)
        completions = [Completion() for _ in prompts]
        if decode is not None:
            for completion in completions:
                completion.text = Detokenizer(decode, sampling.stop)
        return Generation(completions, self._calls(prompts, completions, sampling, chunk))

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling = Sampling(),
        decode: Decode | None = None,
    ) -> list[Completion]:
        """Generate to the end, in one device call unless stop strings can end it earlier."""
        chunk = CHUNK if sampling.stop else sampling.max_new
        return self.stream(prompts, sampling, decode, chunk).finish()

    def _calls(
        self,
        prompts: Sequence[Sequence[int]],
        completions: list[Completion],
        sampling: Sampling,
        chunk: int,
    ) -> Iterator[tuple[int, int | None]]:
        """Extend the completions call by call; yield row steps and accepted drafts."""
        batch = pad_prompts(prompts, sampling, self.decoder.model.context)
        settings = sampling_arrays(sampling)
        state = prefill(
            self.decoder,
            self.variables,
            batch.tokens_BT,
            batch.length_B,
            batch.limit_B,
            row_keys(sampling.seed, len(batch.length_B)),
            settings,
            batch.stop_X,
            batch.slots,
        )
        while True:
            host = to_host(state)
            read_new_tokens(host, batch.length_B, completions, sampling)
            yield int(host.row_steps), int(host.accepted) if self.decoder.draft else None

            finished = [bool(completion.finish_reason) for completion in completions]
            if all(finished):
                return

            # a stop string is found on the host: the device must end that row too
            done_B = np.array(host.done_B)
            done_B[: len(finished)] |= np.array(finished)
            if (done_B != host.done_B).any():
                state = state.replace(done_B=jnp.asarray(done_B))
            state = decode_steps(self.decoder, self.variables, state, settings, batch.stop_X, chunk)


class PaddedPrompts(NamedTuple):
    """Prompts in arrays of bucketed shapes."""

    tokens_BT: np.ndarray
    length_B: np.ndarray
    limit_B: np.ndarray  # length at which a row ends
    stop_X: np.ndarray  # stop ids, -1 where there are fewer
    slots: int  # positions of the cache


def pad_prompts(
    prompts: Sequence[Sequence[int]], sampling: Sampling, context: int
) -> PaddedPrompts:
    """Pad prompts to a bucketed length, and their number to a multiple of the batch axis."""
    split = split_by("batch")
    rows = -(-len(prompts) // split) * split

    # added rows have one token, and end at once
    length_B = np.ones(rows, np.int32)
    limit_B = np.ones(rows, np.int32)
    for row, prompt in enumerate(prompts):
        length_B[row] = len(prompt)
        limit_B[row] = min(len(prompt) + sampling.max_new, context)

    width = bucket(int(length_B.max()))
    tokens_BT = np.zeros((rows, width), np.int32)
    for row, prompt in enumerate(prompts):
        tokens_BT[row, : len(prompt)] = prompt

    stops = len(sampling.stop_ids)
    stop_X = np.full(max(STOPS, stops), -1, np.int32)
    stop_X[:stops] = sampling.stop_ids

    # a draft is tried one position beyond the limit
    slots = bucket(int(limit_B.max()) + 1)
    return PaddedPrompts(tokens_BT, length_B, limit_B, stop_X, slots)


def to_host(state: State) -> State:
    """Return the part of the state that the host reads, as NumPy arrays fetched at once."""
    on_device = {"cache": None, "draft": None, "record": None, "key_B": None, "limit_B": None}
    return jax.device_get(state.replace(**on_device))


def read_new_tokens(
    host: State,
    prompt_B: np.ndarray,
    completions: list[Completion],
    sampling: Sampling,
) -> None:
    """Extend unfinished completions by their new tokens; prompt_B is the length of each prompt."""
    for row, completion in enumerate(completions):
        if completion.finish_reason:
            continue
        new = slice(prompt_B[row] + len(completion.ids), host.length_B[row])
        ids = np.asarray(host.tokens_BS[row, new])
        log_probs = np.asarray(host.log_prob_BS[row, new])
        extend(completion, ids, log_probs, bool(host.done_B[row]), sampling)


def extend(
    completion: Completion,
    ids: np.ndarray,
    log_probs: np.ndarray,
    done: bool,
    sampling: Sampling,
) -> None:
    """Append new tokens to a completion, one by one because a stop string may end it."""
    text = completion.text
    for id, log_prob in zip(ids.tolist(), log_probs.tolist()):
        completion.ids.append(id)
        completion.log_probs.append(log_prob)
        if text is not None and id not in sampling.stop_ids and text.add(id):
            completion.finish_reason = "stop"
            return

    if done:
        stopped = bool(completion.ids) and completion.ids[-1] in sampling.stop_ids
        completion.finish_reason = "stop" if stopped else "length"
        if text is not None:
            text.finish()


def check(
    prompts: Sequence[Sequence[int]],
    model: ModelConfig,
    sampling: Sampling,
    decode: Decode | None,
) -> None:
    """Raise GenerateError if a completion cannot be generated."""
    if not prompts:
        raise GenerateError("there is no prompt: give at least one.")
    if sampling.stop and decode is None:
        raise GenerateError("stop strings need a way to decode ids: pass decode=tokenizer.decode.")

    for b, prompt in enumerate(prompts):
        if not len(prompt):
            raise GenerateError(
                f"prompt {b} is empty: begin it with the token that begins or ends a document."
            )

        unknown = min(prompt) if min(prompt) < 0 else max(prompt)
        if not 0 <= unknown < model.vocab:
            raise GenerateError(
                f"prompt {b} has id {unknown}: the model has ids from 0 to {model.vocab - 1}."
            )

        if len(prompt) >= model.context:
            raise GenerateError(
                f"prompt {b} has {len(prompt)} tokens and leaves no room in the model's "
                f"context of {model.context}: shorten it."
            )


def bucket(length: int) -> int:
    """Return the compiled length for this one, a multiple of 16.

    There are four per doubling, so from 64 on at most a quarter is padding.
    """
    power = max(0, (length - 1).bit_length() - 1)  # of the largest power of 2 below the length
    step = max(16, 2**power // 4)
    return -(-length // step) * step
