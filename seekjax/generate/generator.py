"""Writing from prompts: lengths into buckets, device calls of a few steps each, tokens and text as
they come."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.config import KernelConfig, ModelConfig
from seekjax.errors import GenerateError
from seekjax.generate.decode import decode_steps, prefill
from seekjax.generate.detokenizer import Text
from seekjax.generate.sampling import Sampling, keys, sampling_arrays
from seekjax.generate.state import Decoder, decoding_variables
from sharding.rules import platform, split_by

Spell = Callable[
    [Sequence[int]], str
]  # ids to text; ids of consecutive pieces spell the pieces of a text
STOPS = 8  # stop ids a compiled step looks for; more compile anew
CHUNK = 16  # steps per device call


@dataclass
class Row:
    """What one prompt has become so far."""

    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)  # the model's own, of each id
    text: Text | None = None  # where the caller said how ids are spelled
    ended: str = ""  # why: "stop" (an id or a string) or "length"


class Writing:
    """Iterate over it to write on; after every device call `rows` has grown. Ends when all rows
    have."""

    def __init__(self, rows: list[Row], calls: Iterator):
        self.rows, self._calls = rows, calls
        self.rounds = self.accepted = 0  # steps, summed over rows, and those whose draft was right
        self.clock: list[tuple[float, int]] = []  # seconds and tokens after each device call

    def __iter__(self) -> Iterator[list[Row]]:
        began = time.perf_counter()
        for self.rounds, self.accepted in self._calls:
            self.clock.append((time.perf_counter() - began, self.tokens))
            yield self.rows

    @property
    def tokens(self) -> int:
        return sum(len(row.ids) for row in self.rows)

    def rate(self) -> float:
        """Tokens per second, from the second decoding call on where there was one: the first two
        calls may have compiled."""
        (begin, before), (end, tokens) = (
            self.clock[1] if len(self.clock) > 2 else (0.0, 0),
            self.clock[-1],
        )
        return (tokens - before) / (end - begin)

    def report(self) -> str:
        """ "96 tokens, 120.3 tokens/s", and with a draft how often it was right."""
        if not self.clock:
            return "0 tokens"
        line = (
            f"{self.tokens} tokens, {self.rate():.1f} tokens/s, the first after "
            f"{self.clock[0][0]:.2f} s"
        )
        if self.accepted is None or not self.rounds:
            return line
        return (
            f"{line}; draft accepted {self.accepted / self.rounds:.0%}, "
            f"{(self.tokens - len(self.rows)) / self.rounds:.2f} tokens per step"
        )


class Generator:
    """A model ready to write. Make and call it within `use(mesh)` for a mesh."""

    def __init__(
        self,
        model: ModelConfig,
        variables: dict,
        kernel: KernelConfig = KernelConfig(),
        draft: bool | None = None,
        consume: bool = False,
    ):
        """Copies the stacks of layers apart; `consume` frees them on the way.

        draft: whether the first prediction module guesses ahead. None: where there is one, but not
        on a CPU, for which a step of two tokens is twice a step of one.
        """
        has = "mtp_1" in variables["params"]
        if draft and not has:
            raise GenerateError(
                "the model has no prediction module to draft with: leave the draft off."
            )
        self.decoder = Decoder(
            model, kernel, has and platform() != "cpu" if draft is None else draft
        )
        self.variables = decoding_variables(self.decoder, variables, consume)

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling = Sampling(),
        spell: Spell | None = None,
        chunk: int = CHUNK,
    ) -> Writing:
        """Begin to write after each prompt; nothing runs until the result is iterated.

        Raises GenerateError for prompts that are empty, hold unknown ids or fill the context, and
        for stop strings without `spell`.
        """
        check(prompts, self.decoder.model, sampling, spell)
        rows = [Row(text=Text(spell, sampling.stop) if spell else None) for _ in prompts]
        return Writing(rows, self._calls(prompts, rows, sampling, chunk))

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling = Sampling(),
        spell: Spell | None = None,
    ) -> list[Row]:
        """Write all of it, in one device call where no strings can stop it."""
        writing = self.stream(
            prompts, sampling, spell, CHUNK if sampling.stop else sampling.max_new
        )
        for _ in writing:
            pass
        return writing.rows

    def _calls(
        self, prompts, rows: list[Row], sampling: Sampling, chunk: int
    ) -> Iterator[tuple[int, int | None]]:
        count = -(-len(prompts) // split_by("batch")) * split_by(
            "batch"
        )  # every device has as many rows; those added end at once
        length_B = np.array(
            [len(prompt) for prompt in prompts] + [1] * (count - len(prompts)), np.int32
        )
        limit_B = np.minimum(length_B + sampling.max_new, self.decoder.model.context)
        limit_B[len(prompts) :] = 1
        tokens_BT = np.zeros((count, bucket(int(length_B.max()))), np.int32)
        for row, prompt in zip(tokens_BT, prompts):
            row[: len(prompt)] = prompt
        stop_X = np.full(max(STOPS, len(sampling.stop_ids)), -1, np.int32)
        stop_X[: len(sampling.stop_ids)] = sampling.stop_ids
        slots = bucket(int(limit_B.max()) + 1)  # a draft is tried one beyond the limit
        setting = sampling_arrays(sampling)
        state = prefill(
            self.decoder,
            self.variables,
            tokens_BT,
            length_B,
            limit_B,
            keys(sampling, count),
            setting,
            stop_X,
            slots,
        )
        while True:
            seen = jax.device_get(
                (
                    state.tokens_BS,
                    state.log_prob_BS,
                    state.length_B,
                    state.done_B,
                    state.rounds,
                    state.accepted,
                )
            )
            tokens_BS, log_prob_BS, length, done_B, rounds, accepted = seen
            for b, row in enumerate(rows):
                if not row.ended:
                    new = slice(length_B[b] + len(row.ids), length[b])
                    grow(row, tokens_BS[b, new], log_prob_BS[b, new], done_B[b], sampling)
            yield int(rounds), int(accepted) if self.decoder.draft else None
            if all(row.ended for row in rows):
                return
            cut_B = np.array([bool(row.ended) for row in rows] + [True] * (count - len(rows)))
            if (cut_B & ~done_B).any():
                state = state.replace(done_B=jnp.asarray(cut_B | done_B))
            state = decode_steps(self.decoder, self.variables, state, setting, stop_X, chunk)


def grow(row: Row, ids: np.ndarray, log_probs: np.ndarray, done: bool, sampling: Sampling) -> None:
    """Add new tokens to a row, one by one while a string may stop it."""
    for id, log_prob in zip(ids.tolist(), log_probs.tolist()):
        row.ids.append(id)
        row.log_probs.append(log_prob)
        if row.text and id not in sampling.stop_ids and row.text.add(id):
            row.ended = "stop"
            return
    if done:
        row.ended = "stop" if row.ids and row.ids[-1] in sampling.stop_ids else "length"
        if row.text:
            row.text.end()


def check(
    prompts: Sequence[Sequence[int]], model: ModelConfig, sampling: Sampling, spell: Spell | None
) -> None:
    """Raise GenerateError for what cannot be written."""
    if not prompts:
        raise GenerateError("there is no prompt: give at least one.")
    if sampling.stop and not spell:
        raise GenerateError("stop strings need a way to spell ids: pass spell=tokenizer.decode.")
    for b, prompt in enumerate(prompts):
        if not len(prompt):
            raise GenerateError(
                f"prompt {b} is empty: begin it with the token that begins or ends a document."
            )
        if min(prompt) < 0 or max(prompt) >= model.vocab:
            raise GenerateError(
                f"prompt {b} has id {max(prompt) if min(prompt) >= 0 else min(prompt)}: "
                f"the model knows ids from 0 to {model.vocab - 1}."
            )
        if len(prompt) >= model.context:
            raise GenerateError(
                f"prompt {b} has {len(prompt)} tokens and leaves no room in the model's "
                f"context of {model.context}: shorten it."
            )


def bucket(length: int) -> int:
    """The length that is compiled for this one: four per doubling, so at most a quarter is padding
    from 64 on; multiples of 16."""
    step = max(16, 2 ** max(0, (length - 1).bit_length() - 1) // 4)
    return -(-length // step) * step
