"""The tokenizer and the chat template of a GGUF file, from tokenizer.json and the files next to
it.
"""

import json
from pathlib import Path
from typing import Any

from seekjax.data.chat import find_template
from seekjax.errors import WeightsError, need
from seekjax.hf.text import tokenizer_to_export
from seekjax.hf.untrusted import file_size

MOST_BYTES = 2**26  # of a tokenizer.json

# llama.cpp's kinds of tokens: text; control; text that is never merged; unused.
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5

# A pattern of the pre-tokenizer -> llama.cpp's name for the tokenizer that has it.
SPLITS = {
    r"\p{N}{1,3}": "deepseek-v3",
    r"\s?[!-/:-~！-／：-～‘-‟　-。]+": "deepseek-llm",
}


def add_tokenizer(
    writer: Any,
    vocab: int,
    folder: Path | None,
) -> None:
    """Add tokens, merges, special ids and chat template to a GGUF file.

    Without a tokenizer.json the file gets the entry that it has no vocabulary. Raises WeightsError
    or DataError.
    """
    if folder is None or not (folder / "tokenizer.json").is_file():
        writer.add_tokenizer_model("no_vocab")
        return

    tokenizer = tokenizer_to_export(folder, vocab)
    file_size(folder / "tokenizer.json", MOST_BYTES)
    described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))

    merges = _merges(described["model"])
    need(
        bool(merges),
        f"{folder / 'tokenizer.json'} merges nothing, and llama.cpp does not read such a "
        "tokenizer: train with data.tokenizer=bpe.",
        WeightsError,
    )
    tokens, kinds = _tokens(described, vocab)

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split_name(described.get("pre_tokenizer"), folder))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokenizer.begin)
    writer.add_eos_token_id(tokenizer.stops[0])
    if len(tokenizer.stops) > 1:  # llama.cpp has one more key for a token that ends a turn
        writer.add_eot_token_id(tokenizer.stops[1])
    writer.add_pad_token_id(tokenizer.pad)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(find_template(folder, tokenizer))


def _merges(described: dict[str, Any]) -> list[str]:
    """The pairs that the tokenizer merges, each as "a b"."""
    merges = []
    for pair in described.get("merges", []):
        merges.append(pair if isinstance(pair, str) else " ".join(pair))
    return merges


def _tokens(described: dict[str, Any], vocab: int) -> tuple[list[str], list[int]]:
    """Text and kind of each token."""
    # The model may have more rows than there are tokens.
    tokens = [f"[PAD{id}]" for id in range(vocab)]
    kinds = [UNUSED] * vocab
    for text, id in described["model"]["vocab"].items():
        tokens[id] = text
        kinds[id] = NORMAL

    for added in described.get("added_tokens", []):
        text = added["content"]
        # R1's file does not mark its tokens for turns and tools as special, but llama.cpp would
        # recognise user-defined tokens in any user's text.
        reserved = text.startswith("<｜") and text.endswith("｜>")
        tokens[added["id"]] = text
        kinds[added["id"]] = CONTROL if added["special"] or reserved else USER_DEFINED
    return tokens, kinds


def split_name(described: dict[str, Any] | None, folder: Path) -> str:
    """Return llama.cpp's name for the pre-tokenizer of a tokenizer.json.

    llama.cpp has no patterns, only names of tokenizers whose splitting is built in. Raises
    WeightsError if none of them fits.
    """
    described = described or {}
    steps = described.get("pretokenizers", [described])
    for step in steps:
        pattern = step.get("pattern") or {}
        name = SPLITS.get(pattern.get("Regex", ""))
        if name is not None:
            return name

    kinds = [step.get("type") for step in steps]
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "starcoder"  # single digits, then as GPT-2
    if kinds == ["ByteLevel"]:
        return "gpt-2"
    raise WeightsError(
        f"{folder / 'tokenizer.json'} splits text in a way that llama.cpp has no name for: "
        "it has DeepSeek's own and seekjax's."
    )
