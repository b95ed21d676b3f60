"""A new run folder around weights that no training wrote: imported or quantised ones."""

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

from seekjax.checkpoint.config_json import to_json
from seekjax.checkpoint.write import Checkpoints
from seekjax.config import Config, DataConfig
from seekjax.console import progress
from seekjax.data import DataError, Tokenizer
from seekjax.data.text_ends import GENERATION, SETTINGS, TEMPLATE
from seekjax.hf.text import tokenizer_to_export
from seekjax.hf.untrusted import file_size

# The files next to the weights that define how text becomes tokens.
TOKENIZER_FILES = (
    "tokenizer.json",
    SETTINGS,
    "special_tokens_map.json",
    TEMPLATE,
    GENERATION,
)
TOKENIZER_BYTES = 2**26  # at most, of each file


def write_run(folder: Path, config: Config, state: Any) -> None:
    """Write a config and, as the checkpoint of step 0, a training state or weights alone."""
    described = to_json(config)
    with progress("writing the run"), closing(Checkpoints(folder, keep=1)) as checkpoints:
        checkpoints.save(0, state, data=None, config=described)
        checkpoints.wait()
    (folder / "config.json").write_text(json.dumps(described, indent=1))


def data_config(source: Path, run: Path) -> DataConfig:
    """Return the data settings of a run that gets the tokenizer of `source`, if it has one."""
    if (source / "tokenizer.json").exists():
        return DataConfig(tokenizer=str(run / "tokenizer.json"))
    return DataConfig()


def copy_tokenizer(source: Path, to: Path, vocab: int) -> Tokenizer | None:
    """Copy the tokenizer's files as they are, and add what they leave open of how texts begin.

    They are never executed. Returns the tokenizer, or None if it is not one that seekjax can use.
    """
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            file_size(source / name, TOKENIZER_BYTES)
            shutil.copyfile(source / name, to / name)
    try:
        tokenizer = tokenizer_to_export(source, vocab)
    except DataError:
        return None
    tokenizer.ends.save(to, tokenizer.name_of, tokenizer.pad)
    return tokenizer
