"""A model by its folder: a run that train.py or `seekjax convert` made, or a published
checkpoint."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from seekjax.config import KernelConfig, ModelConfig
from seekjax.data import Tokenizer, read_tokenizer
from seekjax.data.tokenizer import BOS
from seekjax.train.saved import read_run
from sharding.mesh import MeshConfig, make_mesh
from sharding.rules import use

from .sampling import GenerateError


class Opened(NamedTuple):
    folder: Path
    model: ModelConfig
    kernel: KernelConfig
    variables: dict  # {"params", "balance"}, placed by the rules on the mesh in use
    tokenizer: Tokenizer | None
    begin: int | None  # the id a text begins with


def open_model(path: Path, kernel: KernelConfig | None = None) -> Opened:
    """The newest weights in a folder and the tokenizer beside them.

    `kernel`: instead of a run's own choice, or of the default for a checkpoint. Raises
    GenerateError where there is neither, and RunError, CheckpointError, WeightsError or DataError
    where one is damaged.
    """
    folder = Path(path).expanduser()
    if (folder / "checkpoints").is_dir():
        config, variables = read_run(folder, kernel)
        model, kernel = config.model, config.kernel
    elif (folder / "config.json").is_file():
        from seekjax.hf.load import load

        kernel = kernel or KernelConfig()
        model, variables = load(folder, kernel)
    elif folder.is_dir():
        raise GenerateError(
            f"{folder} holds no model: name a run folder (with checkpoints/) or a "
            "published checkpoint (config.json, *.safetensors)."
        )
    else:
        raise GenerateError(
            f"there is no folder {folder}: name that of a run, by default runs/CONFIG, or "
            "of a published checkpoint."
        )
    tokenizer = (
        read_tokenizer(folder, model.vocab) if (folder / "tokenizer.json").is_file() else None
    )
    return Opened(
        folder, model, kernel, variables, tokenizer, tokenizer and first_id(folder, tokenizer)
    )


@contextmanager
def on(mesh: MeshConfig) -> Iterator[None]:
    """Place arrays on such a mesh of the devices here; raises GenerateError where they are too
    few."""
    try:
        made = make_mesh(mesh)
    except ValueError as error:
        raise GenerateError(str(error)) from error
    with use(made):
        yield


def need_tokenizer(opened: Opened) -> Tokenizer:
    """The model's tokenizer; raises GenerateError without one."""
    if opened.tokenizer is None:
        raise GenerateError(f"{opened.folder} has no tokenizer.json: copy that of the model there.")
    return opened.tokenizer


def first_id(folder: Path, tokenizer: Tokenizer) -> int:
    """The bos_token that tokenizer_config.json names, as published models have it; without one eos,
    for ours read documents that follow others."""
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        named = settings.get("bos_token")
        named = named.get("content") if isinstance(named, dict) else named
    except (OSError, ValueError, AttributeError):
        named = None
    return tokenizer.bos if named == BOS and tokenizer.bos is not None else tokenizer.eos
