"""How a model's texts begin and end, by the files next to its tokenizer.json.

tokenizer_config.json names the first token and the last one, generation_config.json has their ids,
as published models and transformers have them. Run folders get the same two files, so that a
model's texts are the same wherever it is used: in training, here, and in every exported format.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seekjax.errors import DataError, need
from seekjax.storage import kind_of, write_atomically

SETTINGS, GENERATION, TEMPLATE = (
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
)
MOST_BYTES = 2**26  # of each file


@dataclass(frozen=True)
class TextEnds:
    """The ids that a text begins and ends with, and the files that were read."""

    begin: int
    stops: tuple[int, ...]  # a text ends with one of these; the first is the one to write
    files: dict[str, str] = field(default_factory=dict)  # name -> content

    def save(
        self,
        folder: Path,
        name_of: Callable[[int], str | None],
        pad: int,
    ) -> None:
        """Write the files that were read, and generated ones where there was none.

        A run of version 0.1 on chats is left as it is: see `is_old_chat_run`.
        """
        if is_old_chat_run(folder):
            return

        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": name_of(self.begin),
            "eos_token": name_of(self.stops[0]),
            "pad_token": name_of(pad),
        }
        generation = {
            "bos_token_id": self.begin,
            "eos_token_id": self.stops[0] if len(self.stops) == 1 else list(self.stops),
            "pad_token_id": pad,
        }
        files = {SETTINGS: _to_json(settings), GENERATION: _to_json(generation)} | self.files
        for name, content in files.items():
            path = folder / name
            # the template is that of the run's chats, if it is trained on some
            present = path.is_file() and (name == TEMPLATE or read_text(path) == content)
            if not present:
                write_atomically(path, content)


def read_text_ends(
    folder: Path,
    id_of: Callable[[str], int | None],
    vocab: int,
    bos: int | None,
    eos: int,
) -> TextEnds:
    """Return how the texts of the model in a folder begin and end.

    Without a file that names the first token, a published model begins with `bos`, and a run with
    `eos`, because it was trained on documents that follow others. Whatever the files declare,
    `eos` ends a text.

    Raises:
        DataError: a file is not JSON, or declares ids that are not numbers.
    """
    settings = read_settings(folder / SETTINGS)
    ids = [read_settings(folder / GENERATION)]
    is_published = kind_of(folder) == "published"
    if is_published:
        ids.append(read_settings(folder / "config.json"))

    begins = [id_of(token_text(settings.get("bos_token")) or "")]
    stops = [id_of(token_text(settings.get("eos_token")) or "")]
    for described, name in zip(ids, (GENERATION, "config.json")):
        begins += _ids(described.get("bos_token_id"), folder / name)
        stops += _ids(described.get("eos_token_id"), folder / name)
    begins += [bos, eos] if is_published else [eos]

    files = {}
    for name in (SETTINGS, GENERATION, TEMPLATE):
        if (folder / name).is_file():
            files[name] = read_text(folder / name)
    return TextEnds(_used(begins, vocab)[0], _used([*stops, eos], vocab), files)


def is_old_chat_run(folder: Path) -> bool:
    """Return whether version 0.1 trained a run on chats here.

    It began every chat with the begin-of-sentence token, and any other text with the end of one.
    """
    tuned = (folder / "tokenizer.json").is_file() and (folder / TEMPLATE).is_file()
    return tuned and kind_of(folder) == "run" and not (folder / SETTINGS).exists()


def read_settings(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or {} if there is no such file or it holds no object.

    Raises:
        DataError: the file is not JSON, or is too large.
    """
    if not path.is_file():
        return {}

    need(
        path.stat().st_size <= MOST_BYTES,
        f"{path} is larger than {MOST_BYTES // 2**20} MiB: copy it again.",
        DataError,
    )
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = str(error) or "too deep"
        raise DataError(f"{path} is not JSON ({reason}): copy it again.") from error
    return settings if isinstance(settings, dict) else {}


def read_text(path: Path) -> str:
    """Return the text of a file. Raises DataError if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: copy it again.") from error


def token_text(value: Any) -> str | None:
    """Return a token's text, in either form that tokenizer_config.json allows."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _ids(value: Any, path: Path) -> list[int]:
    """Return declared ids: one, a list of them, or none."""
    ids = value if isinstance(value, list) else [value]
    ids = [id for id in ids if id is not None]
    need(
        {type(id) for id in ids} <= {int},
        f"{path} declares {str(value)[:80]!r} as the id of a token: it must be a number or a list "
        "of numbers.",
        DataError,
    )
    return ids


def _used(ids: Iterable[int | None], vocab: int) -> tuple[int, ...]:
    """Return the ids that the model has, each once, in order."""
    used = [id for id in ids if id is not None and 0 <= id < vocab]
    return tuple(dict.fromkeys(used))


def _to_json(settings: dict[str, Any]) -> str:
    return json.dumps(settings, ensure_ascii=False, indent=1) + "\n"
