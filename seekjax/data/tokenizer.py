"""Text to token ids and back: byte-level BPE in the tokenizer.json format of DeepSeek and of the
`tokenizers` library.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from seekjax.config import DataConfig
from seekjax.console import progress
from seekjax.data.control_tokens import ControlTokens
from seekjax.data.corpus import Corpus
from seekjax.data.text_ends import TextEnds, read_text_ends
from seekjax.data.tokenizer_file import SAMPLES, read_backend
from seekjax.errors import DataError, need
from seekjax.storage import cache_folder, text_sha256, writable_cache, write_atomically

# DeepSeek's names: looked up in a published tokenizer.json, and the first ids of our own.
BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
FIM_PREFIX, FIM_HOLE, FIM_END = "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"
USER, ASSISTANT, THINK, THINK_END = "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"
# Special tokens stand for no text. A thinking tag is one token too, but part of the text.
SPECIAL = (BOS, EOS, PAD, FIM_PREFIX, FIM_HOLE, FIM_END, USER, ASSISTANT)
THINK_TAGS = (THINK, THINK_END)

TRAINING_BYTES = 4_000_000  # of text that BPE is trained on: a few seconds on two cores
# Training is quadratic in the length of a word, and DNA is a single one: for it, runs of 500
# letters, blanks or signs are cut.
LONG_RUN = re.compile(r"[^\W\d_]{500}|\s{500}|(?:[^\w\s]|_){500}")
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def find_special_token(text: str) -> str | None:
    """Return the name of a special token that the text contains, or None.

    In text, the name cannot be distinguished from the token itself.
    """
    for name in SPECIAL:
        if name in text:
            return name
    return None


class Tokenizer:
    """A byte-level tokenizer. Encoding then decoding returns every text unchanged.

    Attributes:
        size: Number of ids in use; at most `vocab`, the rows of the model's embedding.
        eos: Id that ends a document.
        ends: The ids that a text begins and ends with: `begin`, and any of `stops`.
        pad: Id that fills a row; the same as eos if the file has no padding token.
        bos, user, assistant, fim_prefix, fim_hole, fim_end: Further ids, or None for a token that
            the file lacks.
        bytes_V: int32 [vocab], the bytes of text that each id stands for; 0 for special and unused
            ids. `bytes_V[encode(text)].sum()` is the size of the text, so that bits per byte =
            nats / ln 2 / bytes_V[targets].sum().
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        vocab: int,
        origin: str,
        ends: TextEnds | None = None,
    ):
        """Wrap a tokenizer of the `tokenizers` library; `origin` names it in messages.

        Without `ends` a text begins and ends with the end-of-document token.

        Raises:
            DataError: the tokenizer has more than `vocab` ids, or lacks an end-of-document token.
        """
        self._backend = backend
        self._vocab = vocab
        self._origin = origin
        # A document that contains the name of a special token must not produce that token.
        self._backend.encode_special_tokens = True

        self.size = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        need(
            self.size <= vocab,
            f"{origin} has {self.size} tokens but model.vocab={vocab}; set model.vocab to at least "
            f"{self.size}.",
            DataError,
        )

        eos = backend.token_to_id(EOS)
        if eos is None:
            raise DataError(
                f"{origin} has no token {EOS}; add DeepSeek's special tokens to it or use "
                "data.tokenizer=bpe."
            )
        pad = backend.token_to_id(PAD)
        self.eos: int = eos
        self.pad: int = eos if pad is None else pad
        self.bos: int | None = backend.token_to_id(BOS)
        self.user: int | None = backend.token_to_id(USER)
        self.assistant: int | None = backend.token_to_id(ASSISTANT)
        self.fim_prefix: int | None = backend.token_to_id(FIM_PREFIX)
        self.fim_hole: int | None = backend.token_to_id(FIM_HOLE)
        self.fim_end: int | None = backend.token_to_id(FIM_END)

        self.ends = ends or TextEnds(eos, (eos,))

        added = backend.get_added_tokens_decoder()
        self._added = {token.content: id for id, token in added.items()}
        self.control = ControlTokens(added, self.ends.stops)
        self.bytes_V = _bytes_per_id(backend, vocab)

    def __reduce__(self):
        # Another process constructs it again: the library's pickle drops `encode_special_tokens`.
        return Tokenizer, (self._backend, self._vocab, self._origin, self.ends)

    @property
    def begin(self) -> int:
        """The id that a text begins with."""
        return self.ends.begin

    @property
    def stops(self) -> tuple[int, ...]:
        """The ids that end a text."""
        return self.ends.stops

    def beginning_with(self, id: int) -> "Tokenizer":
        """Return a tokenizer whose texts begin with this id."""
        if id == self.begin:
            return self
        return Tokenizer(self._backend, self._vocab, self._origin, TextEnds(id, self.stops))

    def name_of(self, id: int) -> str | None:
        """Return the name of a token."""
        return self._backend.id_to_token(id)

    def id_of(self, name: str) -> int | None:
        """Return the id of the token with this name, or None."""
        return self._backend.token_to_id(name)

    def encode(self, text: str, *, special: bool = False, mark: str = "") -> np.ndarray:
        """Return the int32 ids of a text.

        With `special`, names of special tokens in the text become those tokens, except where
        `mark` breaks them; it is left out. Use it for chat templates and never for documents.
        """
        if not special:
            return np.array(self._plain_ids(text), np.int32)

        names = "|".join(map(re.escape, self._added))
        ids = []
        for piece in re.split(f"({names})", text):
            if piece in self._added:
                ids.append(np.array([self._added[piece]], np.int32))
            else:
                ids.append(self.encode(piece.replace(mark, "") if mark else piece))
        return np.concatenate(ids)

    def _plain_ids(self, text: str) -> list[int]:
        """The ids of a text without special tokens.

        The library would recognise a control token that the file does not mark as special: its
        name is encoded in two parts.
        """
        ids: list[int] = []
        start = 0
        for name in self.control.unmarked.finditer(text):
            middle = name.start() + 1
            ids += self._library_ids(text[start:middle])
            start = middle
        return ids + self._library_ids(text[start:])

    def _library_ids(self, text: str) -> list[int]:
        """Return the ids that the library gives a text. Raises DataError if it fails."""
        try:
            return self._backend.encode(text, add_special_tokens=False).ids
        except TypeError as error:
            raise DataError(
                "a text holds half a character, which UTF-8 cannot write; repair it."
            ) from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of the library, and no Exception
                raise
            raise DataError(
                f"{self._origin} cannot encode a text of {len(text):,} characters ({error}); use "
                "another tokenizer."
            ) from error

    def check_texts(self) -> None:
        """Raise DataError unless a sample of texts is decoded as it was, and each byte counted."""
        for text in SAMPLES:
            ids = self.encode(text)
            need(
                self.decode(ids) == text and self.bytes_V[ids].sum() == len(text.encode()),
                f"{self._origin} changes texts: it encodes {text[:40]!r} and decodes "
                f"{self.decode(ids)[:40]!r}; use a byte-level tokenizer like DeepSeek's.",
                DataError,
            )

    def decode(self, ids: Sequence[int] | np.ndarray, *, special: bool = False) -> str:
        """Return the text of token ids; bytes that form no character become U+FFFD.

        Special tokens are left out, or named if `special` is true.
        """
        return self._backend.decode([int(id) for id in ids], skip_special_tokens=not special)

    def to_json(self) -> str:
        """Return the text of its tokenizer.json."""
        return self._backend.to_str()

    def save(self, folder: Path) -> Path:
        """Write folder/tokenizer.json, and how texts begin and end; return the path."""
        path = Path(folder) / "tokenizer.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.ends.save(path.parent, self.name_of, self.pad)
        write_atomically(path, self.to_json())
        return path

    def fingerprint(self) -> str:
        """Return a hash of everything that decides how text is encoded."""
        content = self.to_json()
        if "TemplateProcessing" in content:  # for transformers, which begins texts by it
            without = tokenizers.Tokenizer.from_str(content)
            without.post_processor = None  # pyright: ignore[reportAttributeAccessIssue]
            content = without.to_str()
        return text_sha256(content)


def load_tokenizer(
    config: DataConfig,
    vocab: int,
    corpus: Corpus | None,
) -> Tokenizer:
    """Return the tokenizer of data.tokenizer: trained BPE, bytes, or read from a file.

    Raises:
        DataError: the file does not exist, or the tokenizer does not fit `vocab` or this project.
    """
    if config.tokenizer == "byte":
        return Tokenizer(_byte_backend(), vocab, "data.tokenizer=byte")
    if config.tokenizer == "bpe":
        return _cached_bpe(vocab, corpus)
    return read_tokenizer(Path(config.tokenizer), vocab)


def read_tokenizer(path: Path, vocab: int) -> Tokenizer:
    """Return the tokenizer in a tokenizer.json, or in the folder that holds one.

    Raises:
        DataError: the file is missing or damaged, or the tokenizer does not fit `vocab`.
    """
    path = Path(path).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    need(
        file.is_file(),
        f"{file} does not exist; data.tokenizer must be bpe, byte or the path of a tokenizer.json.",
        DataError,
    )

    backend = read_backend(file)
    tokenizer = Tokenizer(backend, vocab, str(file))
    tokenizer.check_texts()
    if file.name != "tokenizer.json":  # the files next to it may belong to anything
        return tokenizer
    ends = read_text_ends(file.parent, tokenizer.id_of, vocab, tokenizer.bos, tokenizer.eos)
    return Tokenizer(backend, vocab, str(file), ends)


def _cached_bpe(vocab: int, corpus: Corpus | None) -> Tokenizer:
    """Return BPE trained on the corpus, from the cache if it was trained before."""
    least = len(ALPHABET) + len(SPECIAL) + len(THINK_TAGS)
    need(
        vocab >= least,
        f"data.tokenizer=bpe needs at least {least} tokens but model.vocab={vocab}; set "
        f"model.vocab to at least {least}.",
        DataError,
    )

    if corpus is None:
        raise DataError("data.tokenizer=bpe is trained on a corpus, and this run has none.")
    settings = f"{corpus.fingerprint()} {vocab} {TRAINING_BYTES} {SPECIAL} and {THINK_TAGS}"
    cache_key = text_sha256(settings)[:16]
    name = f"bpe-{cache_key}"
    if (cache_folder() / name / "tokenizer.json").is_file():
        return read_tokenizer(cache_folder() / name, vocab)

    with progress("training the tokenizer, once for this corpus"):
        trained = Tokenizer(_train_bpe(vocab, corpus), vocab, "the trained tokenizer")
    folder = writable_cache(name)
    if folder is None:
        return trained
    trained.save(folder)
    return read_tokenizer(folder, vocab)


def _train_bpe(vocab: int, corpus: Corpus) -> tokenizers.Tokenizer:
    """Train exactly `vocab` tokens, or fewer if the text has too few different ones."""
    backend = _empty_backend(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=_added_tokens(),
        initial_alphabet=ALPHABET,
        show_progress=False,
    )
    backend.train_from_iterator(_training_text(corpus), trainer)

    # The trainer marks all added tokens as special, so that decoding would drop the thinking tags.
    content = json.loads(backend.to_str())
    for token in content["added_tokens"]:
        token["special"] = token["content"] in SPECIAL
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def _training_text(corpus: Corpus) -> Iterator[str]:
    """Yield training documents spread evenly over each source, cut at LONG_RUN.

    A source gives its weight's share of TRAINING_BYTES.
    """
    for source in corpus.sources:
        room = int(source.weight * TRAINING_BYTES)
        order = np.random.default_rng(0).permutation(len(source.train))

        for index in order:
            text = source.train[int(index)][:room]
            start = 0
            for run in LONG_RUN.finditer(text):
                yield text[start : run.end()]
                start = run.end()
            yield text[start:]

            room -= len(text)
            if room <= 0:
                break


def _byte_backend() -> tokenizers.Tokenizer:
    """Return a tokenizer whose ids 0 to 255 are the bytes, followed by the special tokens.

    It is a BPE without merges, so that it is saved and read like any other.
    """
    vocab = {_char_of(byte): byte for byte in range(256)}
    backend = _empty_backend(models.BPE(vocab=vocab, merges=[]))
    backend.add_tokens(_added_tokens())
    return backend


def _empty_backend(model: models.Model) -> tokenizers.Tokenizer:
    """Return a tokenizer around a model.

    Digits are single tokens, so that arithmetic is aligned by column; words and runs of spaces are
    split as in GPT-2.
    """
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)

    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    backend.decoder = decoders.ByteLevel()
    return backend


def _added_tokens() -> list[AddedToken]:
    special = [AddedToken(name, special=True) for name in SPECIAL]
    tags = [AddedToken(name, special=False) for name in THINK_TAGS]
    return special + tags


def _char_of(byte: int) -> str:
    """Return GPT-2's printable character for a byte.

    It is the byte's own character if that is printable in Latin-1, else the next unused one from
    U+0100.
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    if byte in printable:
        return chr(byte)

    unprintable_before = sum(other not in printable for other in range(byte))
    return chr(256 + unprintable_before)


def _bytes_per_id(backend: tokenizers.Tokenizer, vocab: int) -> np.ndarray:
    """Return the bytes of text that each id stands for, int32 [vocab].

    In a byte-level vocabulary every character of a token's name is one byte; the name of an added
    token is its text.
    """
    bytes_V = np.zeros(vocab, np.int32)
    for name, id in backend.get_vocab(with_added_tokens=False).items():
        bytes_V[id] = len(name)
    for id, token in backend.get_added_tokens_decoder().items():
        bytes_V[id] = 0 if token.special else len(token.content.encode())

    return bytes_V
