"""How texts begin and end, in the files of a published checkpoint."""

import json
from pathlib import Path

from seekjax.data.chat import find_template
from seekjax.data.text_ends import SETTINGS, TEMPLATE, is_old_chat_run, read_settings
from seekjax.data.tokenizer import Tokenizer, read_tokenizer
from seekjax.hf.untrusted import read_json

# Of a tokenizer that begins texts as its tokenizer.json says, by a TemplateProcessing.
PLAIN_CLASS = "PreTrainedTokenizerFast"


def tokenizer_to_export(folder: Path, vocab: int) -> Tokenizer:
    """Return the tokenizer in a folder, whose texts begin as the model was last trained.

    Raises:
        DataError: the tokenizer or a file next to it cannot be used.
    """
    tokenizer = read_tokenizer(folder, vocab)
    if is_old_chat_run(folder) and tokenizer.bos is not None:
        return tokenizer.beginning_with(tokenizer.bos)
    return tokenizer


def describe_text(folder: Path, tokenizer: Tokenizer) -> None:
    """Write into a checkpoint's files how texts begin and end, and how chats are written.

    transformers then begins a text as `seekjax generate` does. A tokenizer with a class of its own
    begins as that class does, and its file is left as it is.
    """
    ids = {
        "bos_token_id": tokenizer.begin,
        "eos_token_id": tokenizer.stops[0],
        "pad_token_id": tokenizer.pad,
    }
    described = read_json(folder / "config.json") | ids
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")

    settings = read_settings(folder / SETTINGS)
    if not (folder / TEMPLATE).exists() and "chat_template" not in settings:
        (folder / TEMPLATE).write_text(find_template(folder, tokenizer), encoding="utf-8")
    if settings.get("tokenizer_class") != PLAIN_CLASS:
        return
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    if content.get("post_processor") is None:
        content["post_processor"] = _beginning_with(tokenizer)
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _beginning_with(tokenizer: Tokenizer) -> dict:
    """Return the post-processor of the `tokenizers` library that begins every text."""
    name = tokenizer.name_of(tokenizer.begin)
    first = {"SpecialToken": {"id": name, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    token = {"id": name, "ids": [tokenizer.begin], "tokens": [name]}
    return {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, second],
        "special_tokens": {name: token},
    }
