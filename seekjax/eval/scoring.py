"""Log-probabilities of given continuations, in batches of a few compiled lengths."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seekjax.generate.generator import Generator, bucket
from seekjax.generate.sampling import log_prob, take_per_row
from seekjax.generate.state import Decoder, output_logits
from sharding.rules import constrain, split_by

POSITIONS = 16  # of each row whose logits are held at once; every length is a multiple of it


class Continuation(NamedTuple):
    """Tokens to score, and what comes before them: at least one token."""

    context: list[int]
    tokens: list[int]

    @property
    def length(self) -> int:
        """Tokens of both."""
        return len(self.context) + len(self.tokens)


class Score(NamedTuple):
    """The log-probability of a continuation, and whether each token is the most likely one."""

    log_prob: float
    greedy: bool


class Scorer:
    """Scores continuations with a generator's model. Use it within the generator's mesh."""

    def __init__(self, generator: Generator, rows: int):
        """rows: continuations at a time, rounded up to the batch axis of the mesh."""
        split = split_by("batch")
        self.rows = -(-rows // split) * split
        self._decoder = generator.decoder
        self._variables = generator.variables
        self._context = generator.context

    def __call__(
        self,
        continuations: Sequence[Continuation],
        show: Callable[[float], object] = lambda share: None,
    ) -> list[Score]:
        """Return the score of each continuation; `show` is given the share that is done.

        What is longer than the model's context loses its beginning.
        """
        # of similar length next to each other, the longest first
        numbered = list(enumerate(continuations))
        numbered.sort(key=lambda pair: -pair[1].length)

        scores = [Score(0.0, True)] * len(continuations)
        done = 0
        while group := numbered[done : done + self.rows]:
            batch = [continuation for _, continuation in group]
            for (number, _), score in zip(group, self._score(batch)):
                scores[number] = score
            done += len(group)
            show(done / len(numbered))
        return scores

    def _score(self, group: list[Continuation]) -> list[Score]:
        """Score at most `rows` continuations in one call of the device."""
        longest = max([continuation.length for continuation in group])
        width = bucket(min(longest, self._context))
        tokens_BT = np.zeros((self.rows, width), np.int32)
        next_BT = np.zeros((self.rows, width), np.int32)

        # position t is given ids[:t + 1] and scores ids[t + 1]
        scored = []
        for row, (context, tokens) in enumerate(group):
            ids = [*context, *tokens]
            ids = ids[-self._context - 1 :]
            end = len(ids) - 1
            tokens_BT[row, :end] = ids[:-1]
            next_BT[row, :end] = ids[1:]
            scored.append(slice(max(0, end - len(tokens)), end))

        scores = score_next(self._decoder, self._variables, tokens_BT, next_BT)
        log_prob_BT, greedy_BT = jax.device_get(scores)
        result = []
        for row, positions in enumerate(scored):
            log_prob_T = log_prob_BT[row, positions]
            greedy_T = greedy_BT[row, positions]
            total = log_prob_T.sum(dtype=np.float64)
            result.append(Score(float(total), bool(greedy_T.all())))
        return result


@partial(jax.jit, static_argnames="decoder")
def score_next(
    decoder: Decoder, variables: dict, tokens_BT: jax.Array, next_BT: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return log p(next_BT[b, t] | tokens_BT[b, :t + 1]), and whether it is the greatest.

    Logits are held for POSITIONS positions of each row at a time.
    """
    B, T = tokens_BT.shape
    output = decoder.forward(variables, tokens_BT, None, 0, attend=None)
    tiles = T // POSITIONS

    def cut(x: jax.Array) -> jax.Array:
        x = x.reshape(B, tiles, POSITIONS, *x.shape[2:])
        x = jnp.moveaxis(x, 1, 0)
        whole = " -" * (x.ndim - 2)
        return constrain(x, "- batch" + whole)

    def of_tile(tile: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        hidden_BTD, next_BT = tile
        hidden_MD = hidden_BTD.reshape(-1, hidden_BTD.shape[-1])
        logit_MV = output_logits(hidden_MD, output.head_DV)
        next_M = next_BT.reshape(-1)

        greatest_M = logit_MV.max(-1)
        chosen_M = take_per_row(logit_MV, next_M)
        greedy_M = chosen_M >= greatest_M
        log_prob_M = log_prob(logit_MV, next_M)
        return log_prob_M.reshape(B, -1), greedy_M.reshape(B, -1)

    def join(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(B, T)

    pieces = cut(output.hidden_BTD), cut(next_BT)
    log_probs, greedy = jax.lax.map(of_tile, pieces)
    return join(log_probs), join(greedy)
