"""A model by its folder: a run that train.py or `seekjax convert` made, or a published
checkpoint."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from seekjax.checkpoint.config_json import read_config
from seekjax.checkpoint.read import newest_whole, read_run
from seekjax.config import Config, KernelConfig, ModelConfig
from seekjax.data import Tokenizer, read_tokenizer
from seekjax.data.tokenizer import first_token_id
from seekjax.errors import GenerateError, RunError
from seekjax.hf.load import load
from seekjax.hf.published import open_published
from seekjax.placement import use_mesh
from seekjax.storage import kind_of
from sharding.mesh import MeshConfig, make_mesh


class OpenedModel(NamedTuple):
    folder: Path
    model: ModelConfig
    kernel: KernelConfig
    variables: dict  # {"params", "balance"}, placed by the rules on the mesh in use
    tokenizer: Tokenizer | None
    begin: int | None  # the id a text begins with


def open_model(path: Path, kernel: KernelConfig | None = None) -> OpenedModel:
    """The newest weights in a folder and the tokenizer beside them.

    `kernel`: instead of a run's own choice, or of the default for a checkpoint. Raises
    GenerateError where there is neither, and RunError, CheckpointError, WeightsError or DataError
    where one is damaged.
    """
    folder = Path(path).expanduser()
    if kind_of(folder) == "run":
        config, variables = read_run(folder, kernel)
        model, kernel = config.model, config.kernel
    elif kind_of(folder) == "published":
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
    return OpenedModel(
        folder, model, kernel, variables, tokenizer, tokenizer and first_token_id(folder, tokenizer)
    )


@contextmanager
def on_mesh(mesh: MeshConfig) -> Iterator[None]:
    """Place arrays on such a mesh of the devices here; raises GenerateError where they are too
    few."""
    try:
        made = make_mesh(mesh)
    except ValueError as error:
        raise GenerateError(str(error)) from error
    with use_mesh(made):
        yield


def need_tokenizer(opened: OpenedModel) -> Tokenizer:
    """The model's tokenizer; raises GenerateError without one."""
    if opened.tokenizer is None:
        raise GenerateError(f"{opened.folder} has no tokenizer.json: copy that of the model there.")
    return opened.tokenizer


HASHED = 2**20  # bytes of each published file, from its beginning, that tell it from others


def with_initial_model(config: Config) -> Config:
    """A run that starts from weights has their model and their tokenizer. Raises RunError or
    WeightsError for a folder without them."""
    if config.init is None:
        return config
    folder = config.init.expanduser()
    if kind_of(folder) == "run":
        model = read_config(newest_whole(folder.absolute() / "checkpoints") / "config.json").model
    else:
        model = open_published(folder).config.model
    if not (folder / "tokenizer.json").is_file():
        raise RunError(
            f"{folder} has no tokenizer.json: copy that of the model there, or name another --init."
        )
    return replace(config, model=model, data=replace(config.data, tokenizer=str(folder)))


def weights_fingerprint(folder: Path) -> str:
    """A hash that tells a folder's weights from others without reading them: of the manifest of a
    run's newest step, which has their SHA-256; of the size and first megabyte of each published
    file.
    """
    steps = {
        int(path.parent.name): path
        for path in folder.glob("checkpoints/*/manifest.json")
        if path.parent.name.isdecimal()
    }
    if steps:
        return hashlib.sha256(steps[max(steps)].read_bytes()).hexdigest()
    found = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            found.update(f"{path.name} {path.stat().st_size} ".encode() + file.read(HASHED))
    return found.hexdigest()


def initial_variables(config: Config) -> dict | None:
    """The weights {"params", "balance"} that a run starts from, if its config names any."""
    return open_model(config.init, config.kernel).variables if config.init else None
