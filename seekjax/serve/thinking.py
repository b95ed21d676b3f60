"""How long an answer may think, and what its grammar applies to: the part behind the thinking."""

import numpy as np

from seekjax.data.tokenizer import THINK_END, Tokenizer
from seekjax.generate.engine.request import TokenFilter
from seekjax.serve.errors import need_field


class ThinkingFilter:
    """The tokens that may come next in an answer that begins inside its thinking.

    While it lasts every token may come but those that end the answer, and after `budget` tokens
    only the end of the thinking. Behind it another filter says what may come.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        behind: TokenFilter | None,
        budget: int | None,
    ):
        """Raises RequestError if the tokenizer has no token for the end of thinking."""
        think_end = tokenizer.id_of(THINK_END)
        need_field(
            think_end is not None,
            "thinking",
            f"ends with {THINK_END}, for which the tokenizer has no token: a grammar or a budget "
            "needs one, so switch thinking off.",
        )
        everything = np.ones(len(tokenizer.bytes_V), np.uint8)
        unfinished = everything.copy()
        unfinished[list(tokenizer.stops)] = 0
        only_end = np.zeros_like(everything)
        only_end[think_end] = 1

        self._think_end = think_end
        self._thinking = True
        self._left = budget  # tokens of thinking; None = any number
        self._behind = behind
        self._everything = _packed(everything)
        self._unfinished = _packed(unfinished)
        self._only_end = _packed(only_end)

    def mask(self) -> np.ndarray:
        """Return the allowed tokens, uint32 [ceil(V / 32)]."""
        if self._thinking:
            return self._only_end if self._left == 0 else self._unfinished
        return self._everything if self._behind is None else self._behind.mask()

    def accept(self, id: int) -> None:
        """Advance by one token."""
        if not self._thinking:
            if self._behind is not None:
                self._behind.accept(id)
        elif id == self._think_end:
            self._thinking = False
        elif self._left:
            self._left -= 1


def _packed(allowed_V: np.ndarray) -> np.ndarray:
    """Return 32 tokens to a number, the first one its lowest bit."""
    padded = np.zeros(32 * ((len(allowed_V) + 31) // 32), np.uint8)
    padded[: len(allowed_V)] = allowed_V
    return np.packbits(padded, bitorder="little").view(np.uint32)
