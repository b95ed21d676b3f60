"""The texts of a fine-tuning row: what may be one, and what may not."""

from typing import Any

from seekjax.data import DataError
from seekjax.data.tokenizer import find_special_token
from seekjax.errors import need


def check_text(value: Any, where: str, may_be_empty: bool = False) -> str:
    """Return the text of a message, checked. Raises DataError."""
    need(value is not None, f"{where} is missing.", DataError)
    need(isinstance(value, str), f"{where} is a {type(value).__name__}, not text.", DataError)
    need(value.strip() or may_be_empty, f"{where} is empty.", DataError)

    # Text that is not what it seems
    special = find_special_token(value)
    need(
        special is None,
        f"{where} spells {special}, which would become that token: write it differently.",
        DataError,
    )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} holds half a character (\\u{ord(value[error.start]):04x}): repair it."
        ) from error
    return value


def join_parts(content: Any) -> Any:
    """Return the text of a content that is a list of texts, and any other as it is."""
    if not isinstance(content, list) or not content:
        return content
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            return content
        texts.append(part.get("text"))
    return "".join(texts) if all(isinstance(text, str) for text in texts) else content
