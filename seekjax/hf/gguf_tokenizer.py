"""The tokenizer and the chat template of a GGUF file, out of tokenizer.json and the files beside
it."""

import json
from pathlib import Path

from seekjax.data.chat import find_template
from seekjax.data.tokenizer import first_token_id, read_tokenizer
from seekjax.errors import WeightsError, need
from seekjax.hf.files import file_size

LARGEST = 2**26  # bytes of a tokenizer.json
NORMAL, CONTROL, DEFINED, UNUSED = (
    1,
    3,
    4,
    5,
)  # llama.cpp's kinds of tokens: text, no text, text that is never merged, none
SPLITS = {  # what tells a way to cut text before merging -> llama.cpp's name for it
    r"\p{N}{1,3}": "deepseek-v3",
    r"\s?[!-/:-~！-／：-～‘-‟　-。]+": "deepseek-llm",
}


def add_tokenizer(writer, vocab: int, folder: Path | None) -> None:
    """Tokens, merges, special ids and chat template; without tokenizer.json the word that there are
    none. Raises WeightsError or DataError."""
    if folder is None or not (folder / "tokenizer.json").is_file():
        writer.add_tokenizer_model("no_vocab")
        return
    tokenizer = read_tokenizer(folder, vocab)
    file_size(folder / "tokenizer.json", LARGEST)
    described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    merges = [
        pair if isinstance(pair, str) else " ".join(pair)
        for pair in described["model"].get("merges", [])
    ]
    need(
        bool(merges),
        f"{folder / 'tokenizer.json'} merges nothing, and llama.cpp reads no such "
        "tokenizer: train with data.tokenizer=bpe.",
        WeightsError,
    )
    tokens, kinds = (
        [f"[PAD{id}]" for id in range(vocab)],
        [UNUSED] * vocab,
    )  # the model may have more rows than there are tokens
    for text, id in described["model"]["vocab"].items():
        tokens[id], kinds[id] = text, NORMAL
    for added in described.get("added_tokens", []):
        reserved = added["content"].startswith("<｜") and added["content"].endswith(
            "｜>"
        )  # R1's file leaves its turns and tools unmarked
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = (
            CONTROL if added["special"] or reserved else DEFINED
        )  # llama.cpp reads DEFINED ones in anybody's text
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split_name(described.get("pre_tokenizer"), folder))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(first_token_id(folder, tokenizer))
    writer.add_eos_token_id(tokenizer.eos)
    writer.add_pad_token_id(tokenizer.pad)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(find_template(folder, tokenizer))


def split_name(described: dict | None, folder: Path) -> str:
    """llama.cpp knows no patterns, only names of tokenizers whose way of cutting text it has built
    in."""
    steps = (described or {}).get("pretokenizers", [described or {}])
    for step in steps:
        if (name := SPLITS.get((step.get("pattern") or {}).get("Regex"))) is not None:
            return name
    kinds = [step.get("type") for step in steps]
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "starcoder"  # digits alone, then as GPT-2
    if kinds == ["ByteLevel"]:
        return "gpt-2"
    raise WeightsError(
        f"{folder / 'tokenizer.json'} cuts text in a way that llama.cpp has no name for: "
        "it knows DeepSeek's own and seekjax's."
    )
