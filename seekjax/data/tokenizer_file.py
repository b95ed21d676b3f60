"""A tokenizer.json from elsewhere: what it may contain, and what is switched off in it.

The `tokenizers` library does whatever a file says: it cuts texts to a length, fills them up to
another, changes them before they are split, and runs any regular expression. Here a file may hold
only what a byte-level BPE needs, so that decoding gives back each text and the work is bounded.
"""

import json
from pathlib import Path
from typing import Any

import tokenizers

from seekjax.data.split_pattern import check_pattern
from seekjax.errors import DataError, need

MOST_BYTES = 2**26  # of the file: DeepSeek-V3's has 8 MB
MOST_IDS = 2**24
MOST_PARTS = 16  # in a sequence of components
LONGEST_TOKEN = 1024  # characters of an added token

PARTS = {
    "version",
    "truncation",
    "padding",
    "added_tokens",
    "normalizer",
    "pre_tokenizer",
    "post_processor",
    "decoder",
    "model",
}
# The kinds of components that leave texts as they are, and in a sequence the list of its parts.
NORMALIZERS = {"Sequence": "normalizers"}
PRE_TOKENIZERS = {
    "Sequence": "pretokenizers",
    "Split": "",
    "ByteLevel": "",
    "Digits": "",
    "Punctuation": "",
}
# They add tokens to a text, which `Tokenizer` never asks for.
POST_PROCESSORS = {
    "Sequence": "processors",
    "ByteLevel": "",
    "TemplateProcessing": "",
    "BertProcessing": "",
    "RobertaProcessing": "",
}
DECODERS = {"Sequence": "decoders", "ByteLevel": "", "Fuse": ""}

# Texts that show what a tokenizer changes: blanks and line ends, cases, accents in two forms, wide
# letters and ligatures, every byte of UTF-8, control characters, special tokens.
SAMPLES = (
    " Two  blanks,\ttabs \r\nand\n\n\nlines \n ",
    "CamelCase WORDS don't 12345 1.5e-3 {'a': [x_1, ...]} #!/bin/sh ====----",
    "e\u0301 \u00e9 \uff21 \ufb01 \u0130 \u00df \u2126 \u4f60\u597d\u3002 \u0645 \ud55c",
    "\ufe0f \U0001f469\u200d\U0001f680",
    "".join(map(chr, range(0x100))),
    "".join([chr(code) for code in range(0x100, 0xD800, 0x140)]),
    "".join([chr(code) for code in range(0xE000, 0x110000, 0x4011)]),
    "a" * 200 + " " * 200 + "\n" * 200,
    "<｜end▁of▁sentence｜><｜User｜> <think> x </think>",
)


def read_backend(file: Path) -> tokenizers.Tokenizer:
    """Return the tokenizer in a file.

    What would change texts is switched off: cutting to a length, padding, dropout of merges, and
    the blanks that an added token takes from its surroundings.

    Raises:
        DataError: the file is damaged or too large, or holds what a byte-level BPE does not need.
    """
    try:
        need(file.stat().st_size <= MOST_BYTES, f"it has more than {MOST_BYTES} bytes", DataError)
        text = file.read_text(encoding="utf-8")
        return _build(text)
    except DataError as error:
        reason, cause = str(error), error
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        reason, cause = f"it is damaged: {error or type(error).__name__}", error
    except BaseException as error:
        # The library raises bare Exception, and for its own defects a class outside of it.
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        reason, cause = str(error), error
    raise DataError(
        f"{file} is not a readable tokenizer.json ({reason.splitlines()[0].rstrip('.')}); copy it "
        "again, or use a byte-level one like DeepSeek's."
    ) from cause


def _build(text: str) -> tokenizers.Tokenizer:
    """Return the tokenizer of a file's text. Raises DataError with the reason alone."""
    # Empty lists and objects would take twenty times their size in memory.
    brackets = text.count("[") + text.count("{")
    need(brackets <= len(text) // 8 + 64, "it is mostly brackets", DataError)

    content = json.loads(text)
    need(isinstance(content, dict), "it does not hold a JSON object", DataError)
    unknown = sorted(set(content) - PARTS)
    need(not unknown, f"it has the unknown entry {unknown[:1]}", DataError)

    _check_component(content.get("normalizer"), "normalizer", NORMALIZERS)
    _check_component(content.get("pre_tokenizer"), "pre_tokenizer", PRE_TOKENIZERS)
    _check_component(content.get("post_processor"), "post_processor", POST_PROCESSORS)
    _check_component(content.get("decoder"), "decoder", DECODERS)
    need(
        "ByteLevel" in json.dumps(content.get("decoder")),
        "it is not a byte-level tokenizer, so bits per byte cannot be counted",
        DataError,
    )
    _check_model(content.get("model"))
    _check_added_tokens(content.get("added_tokens"))

    if _switch_off(content):
        text = json.dumps(content)
    return tokenizers.Tokenizer.from_str(text)


def _check_component(component: Any, place: str, kinds: dict[str, str]) -> None:
    """Raise DataError unless a component, and each part of a sequence, is of one of the kinds."""
    if component is None:
        return
    kind = component.get("type") if isinstance(component, dict) else None
    need(
        isinstance(kind, str) and kind in kinds,
        f"its {place} {kind} is not one of a byte-level tokenizer, which leaves texts as they are",
        DataError,
    )

    if kind == "Split":
        pattern = component.get("pattern")
        pattern = pattern.get("Regex", "") if isinstance(pattern, dict) else ""
        need(isinstance(pattern, str), "a pattern of it is not text", DataError)
        check_pattern(pattern)

    if kind == "Sequence":
        parts = component.get(kinds[kind])
        if not isinstance(parts, list) or len(parts) > MOST_PARTS:
            raise DataError(f"its {place} is not a sequence of at most {MOST_PARTS} parts")
        for part in parts:
            _check_component(part, place, kinds)


def _check_model(model: Any) -> None:
    """Raise DataError unless the model is a BPE whose ids are small numbers, each used once."""
    need(
        isinstance(model, dict) and model.get("type", "BPE") == "BPE",
        "its model is not a BPE",
        DataError,
    )
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        need(not model.get(name), f"its model has a {name}, which changes texts", DataError)

    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not isinstance(model.get("merges"), list):
        raise DataError("its model has no vocabulary or no merges")
    need(all(map(_is_id, vocab.values())), f"an id is not below {MOST_IDS}", DataError)
    need(len(set(vocab.values())) == len(vocab), "two tokens have one id", DataError)


def _check_added_tokens(tokens: Any) -> None:
    """Raise DataError unless the added tokens are texts with ids."""
    need(isinstance(tokens, list | None), "its added tokens are not a list", DataError)
    for token in tokens or []:
        need(isinstance(token, dict), "an added token is not an object", DataError)
        content = token.get("content")
        need(
            isinstance(content, str) and 0 < len(content) <= LONGEST_TOKEN,
            f"an added token is not a text of 1 to {LONGEST_TOKEN} characters",
            DataError,
        )
        need(_is_id(token.get("id")), f"the id of {content!r} is not below {MOST_IDS}", DataError)


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < MOST_IDS


def _switch_off(content: dict[str, Any]) -> bool:
    """Switch off settings that change texts; return whether there were any."""
    changed = False
    for table, name in (
        (content, "truncation"),
        (content, "padding"),
        (content["model"], "dropout"),
    ):
        changed |= table.get(name) is not None
        table[name] = None

    for token in content.get("added_tokens") or []:
        for name in ("lstrip", "rstrip"):
            changed |= bool(token.get(name))
            token[name] = False
    return changed
