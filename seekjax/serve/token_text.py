"""The text of single tokens, for log probabilities and for a page that colours them."""

from tokenizers import pre_tokenizers

from seekjax.data.tokenizer import Tokenizer


class TokenTexts:
    """The bytes and the text of each token; looked up once and kept."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._kept: dict[int, bytes] = {}

    def bytes(self, id: int) -> bytes:
        """Return the bytes that a token stands for; of a special one, those of its name."""
        if id not in self._kept:
            self._kept[id] = token_bytes(self._tokenizer, id)
        return self._kept[id]

    def text(self, id: int) -> str:
        """Return the text of a token; bytes of a part of a character become U+FFFD."""
        return self.bytes(id).decode("utf-8", "replace")


def token_bytes(tokenizer: Tokenizer, id: int) -> bytes:
    """Return the bytes that a token stands for; of a special one, those of its name.

    The name of a token of a byte-level vocabulary has one character of GPT-2's alphabet per byte.
    """
    name = tokenizer.name_of(id)
    if name is None:  # a row of the embedding without a token
        return b""
    if tokenizer.bytes_V[id] == len(name) and all(map(_BYTE_OF.__contains__, name)):
        return bytes(map(_BYTE_OF.__getitem__, name))
    return name.encode()


def _byte_of_character() -> dict[str, int]:
    """Return the byte that each character of GPT-2's byte-level alphabet stands for.

    A byte that prints in Latin-1 is its own character; the others follow from U+0100 in order.
    """
    byte_of = {}
    others = 0
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    for byte in range(256):
        if chr(byte) in alphabet:
            byte_of[chr(byte)] = byte
        else:
            byte_of[chr(256 + others)] = byte
            others += 1
    return byte_of


_BYTE_OF = _byte_of_character()
