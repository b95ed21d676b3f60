"""Text to token ids and back: byte-level BPE in the tokenizer.json format of DeepSeek and of the
`tokenizers` library.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from seekjax.config import DataConfig
from seekjax.data.corpus import Corpus
from seekjax.errors import DataError
from seekjax.storage import cache_folder, write_atomically

# DeepSeek's names, which a published tokenizer.json is searched for and our own ones begin with.
BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
FIM_PREFIX, FIM_HOLE, FIM_END = "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"
USER, ASSISTANT, THINK, THINK_END = "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"
SPECIAL = (BOS, EOS, PAD, FIM_PREFIX, FIM_HOLE, FIM_END, USER, ASSISTANT)  # stand for no text
MARKS = (THINK, THINK_END)  # one token each, yet part of the text
TRAINING_BYTES = 4_000_000  # of text that BPE is trained on: a few seconds on two cores
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def find_special_token(text: str) -> str | None:
    """The name of a special token that a text spells, or None: it would become that token, or came
    from one.
    """
    return next((name for name in SPECIAL if name in text), None)


class Tokenizer:
    """A byte-level tokenizer. Encoding then decoding returns every text unchanged.

    Attributes:
        size: ids in use; at most `vocab`, the rows of the model's embedding.
        eos, pad: ids that end a document and fill a row (pad = eos where the file has no padding token).
        bos, user, assistant, fim_prefix, fim_hole, fim_end: further ids, or None where the file lacks them.
        bytes_V: int32 [vocab], the bytes of text each id stands for; 0 for special and unused ids. `bytes_V[encode(text)].sum()` is the
            size of the text, so that bits per byte = nats / ln 2 / bytes_V[targets].sum().
    """

    def __init__(self, backend: tokenizers.Tokenizer, vocab: int, origin: str):
        """Wraps a tokenizer of the `tokenizers` library; `origin` names it in messages.

        Raises:
            DataError: it is larger than `vocab`, is not byte-level, or has no end-of-document token.
        """
        self._backend, self._vocab, self._origin = backend, vocab, origin
        self._backend.encode_special_tokens = (
            True  # a document that spells a special token does not become one
        )
        self.size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        if self.size > vocab:
            raise DataError(
                f"{origin} has {self.size} tokens but model.vocab={vocab}; set "
                f"model.vocab to at least {self.size}."
            )
        if "ByteLevel" not in json.dumps(json.loads(backend.to_str())["decoder"]):
            raise DataError(
                f"{origin} is not a byte-level tokenizer, so bits per byte cannot be "
                "counted; use one like DeepSeek's."
            )
        self.eos = backend.token_to_id(EOS)
        if self.eos is None:
            raise DataError(
                f"{origin} has no token {EOS}; add DeepSeek's special tokens to it or use "
                "data.tokenizer=bpe."
            )
        self.pad = backend.token_to_id(PAD)
        self.pad = self.eos if self.pad is None else self.pad
        self.bos, self.user, self.assistant = map(backend.token_to_id, (BOS, USER, ASSISTANT))
        self.fim_prefix, self.fim_hole, self.fim_end = map(
            backend.token_to_id, (FIM_PREFIX, FIM_HOLE, FIM_END)
        )
        self._added = {
            token.content: id for id, token in backend.get_added_tokens_decoder().items()
        }
        self.bytes_V = _bytes_per_id(backend, vocab)

    def __reduce__(self):
        """Sent to another process, it is made anew: the library's pickle forgets
        `encode_special_tokens`.
        """
        return Tokenizer, (self._backend, self._vocab, self._origin)

    def encode(self, text: str, *, special: bool = False) -> np.ndarray:
        """int32 ids of a text. With `special`, names of special tokens in the text become those
        tokens: for chat templates, never for documents.
        """
        if not special:
            return np.array(self._backend.encode(text, add_special_tokens=False).ids, np.int32)
        pieces = re.split(f"({'|'.join(map(re.escape, self._added))})", text)
        return np.concatenate(
            [
                np.array([self._added[piece]], np.int32)
                if piece in self._added
                else self.encode(piece)
                for piece in pieces
            ]
        )

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of some ids; special tokens are left out, or with `special` named, and bytes
        that form no character become U+FFFD.
        """
        return self._backend.decode([int(id) for id in ids], skip_special_tokens=not special)

    def save(self, folder: Path) -> Path:
        """Writes folder/tokenizer.json, whole or not at all; returns its path."""
        path = Path(folder) / "tokenizer.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self._backend.to_str())
        return path

    def fingerprint(self) -> str:
        """A hash of everything that decides how text is encoded."""
        return hashlib.sha256(self._backend.to_str().encode()).hexdigest()


def load_tokenizer(config: DataConfig, vocab: int, corpus: Corpus) -> Tokenizer:
    """The tokenizer that data.tokenizer asks for: trained (and cached), bytes, or read from a file.

    Raises:
        DataError: there is no such file, or the tokenizer does not fit `vocab` or this project.
    """
    if config.tokenizer == "byte":
        return Tokenizer(_byte_backend(), vocab, "data.tokenizer=byte")
    if config.tokenizer == "bpe":
        return _cached_bpe(vocab, corpus)
    return read_tokenizer(Path(config.tokenizer), vocab)


def read_tokenizer(path: Path, vocab: int) -> Tokenizer:
    """The tokenizer in a tokenizer.json or in the folder that holds one."""
    path = Path(path).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise DataError(
            f"{file} does not exist; data.tokenizer must be bpe, byte or the path of a "
            "tokenizer.json."
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise DataError(
            f"{file} is not a readable tokenizer.json ({error}); delete it or copy it again."
        ) from error
    return Tokenizer(backend, vocab, str(file))


def _cached_bpe(vocab: int, corpus: Corpus) -> Tokenizer:
    least = len(ALPHABET) + len(SPECIAL) + len(MARKS)
    if vocab < least:
        raise DataError(
            f"data.tokenizer=bpe needs at least {least} tokens but model.vocab={vocab}; "
            f"set model.vocab to at least {least}."
        )
    key = hashlib.sha256(
        f"{corpus.fingerprint()} {vocab} {TRAINING_BYTES} {SPECIAL} and {MARKS}".encode()
    ).hexdigest()[:16]
    folder = cache_folder() / f"bpe-{key}"
    if not (folder / "tokenizer.json").exists():
        Tokenizer(_train_bpe(vocab, corpus), vocab, "the trained tokenizer").save(folder)
    return read_tokenizer(folder, vocab)


def _train_bpe(vocab: int, corpus: Corpus) -> tokenizers.Tokenizer:
    """Learns exactly `vocab` tokens, or fewer where the text is too plain to need them all."""
    backend = _empty_backend(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=_added_tokens(),
        initial_alphabet=ALPHABET,
        show_progress=False,
    )
    backend.train_from_iterator(_training_text(corpus), trainer)
    made = json.loads(backend.to_str())
    for token in made[
        "added_tokens"
        # the trainer calls all of them special, and would have decoding leave the thinking's marks
        # out
    ]:
        token["special"] = token["content"] in SPECIAL
    return tokenizers.Tokenizer.from_str(json.dumps(made))


def _training_text(corpus: Corpus) -> Iterator[str]:
    """Training documents spread evenly over each source, up to its weight's share of
    TRAINING_BYTES.
    """
    for source in corpus.sources:
        room, order = (
            int(source.weight * TRAINING_BYTES),
            np.random.default_rng(0).permutation(len(source.train)),
        )
        for index in order:
            text = source.train[int(index)][:room]
            yield text
            room -= len(text)
            if room <= 0:
                break


def _byte_backend() -> tokenizers.Tokenizer:
    """Ids 0 to 255 are the bytes; the special tokens follow. A BPE without merges, so that it is
    saved and read like any other.
    """
    backend = _empty_backend(
        models.BPE(vocab={_char_of(byte): byte for byte in range(256)}, merges=[])
    )
    backend.add_tokens(_added_tokens())
    return backend


def _empty_backend(model) -> tokenizers.Tokenizer:
    """Digits stand alone, so that arithmetic sees every column; words and runs of spaces are split
    as in GPT-2.
    """
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _added_tokens() -> list[AddedToken]:
    return [AddedToken(name, special=True) for name in SPECIAL] + [
        AddedToken(name, special=False) for name in MARKS
    ]


def _char_of(byte: int) -> str:
    """GPT-2's printable stand-in for a byte: itself if printable in Latin-1, else the next unused
    character from U+0100.
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    return (
        chr(byte)
        if byte in printable
        else chr(256 + sum(other not in printable for other in range(byte)))
    )


def _bytes_per_id(backend: tokenizers.Tokenizer, vocab: int) -> np.ndarray:
    """int32 [vocab]. In a byte-level vocabulary every character of a token's name is one byte; an
    added token's name is its text.
    """
    bytes_V = np.zeros(vocab, np.int32)
    for name, id in backend.get_vocab(with_added_tokens=False).items():
        bytes_V[id] = len(name)
    for id, token in backend.get_added_tokens_decoder().items():
        bytes_V[id] = 0 if token.special else len(token.content.encode())
    return bytes_V


def first_token_id(folder: Path, tokenizer: Tokenizer) -> int:
    """The bos_token that tokenizer_config.json names, as published models have it; without one eos,
    for ours read documents that follow others.
    """
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        named = settings.get("bos_token")
        named = named.get("content") if isinstance(named, dict) else named
    except (OSError, ValueError, AttributeError):
        named = None
    return tokenizer.bos if named == BOS and tokenizer.bos is not None else tokenizer.eos
