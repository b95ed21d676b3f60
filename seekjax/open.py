"""Open a model by its folder: a run that training or `seekjax convert` wrote, or a published
checkpoint.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax

from seekjax.checkpoint.base import Base, fingerprint, read_base_record
from seekjax.checkpoint.config_json import WEIGHTS, read_config
from seekjax.checkpoint.manifest import damage
from seekjax.checkpoint.read import newest_undamaged, read_step, read_step_config
from seekjax.config import Config, ExtendConfig, KernelConfig, ModelConfig
from seekjax.data import Tokenizer, read_tokenizer
from seekjax.errors import GenerateError, RunError, need
from seekjax.hf.load import described, load
from seekjax.hf.published import open_published
from seekjax.memory import shortage
from seekjax.placement import use_mesh
from seekjax.quant.tree import tree_bytes
from seekjax.storage import kind_of
from sharding.mesh import MeshConfig, make_mesh, platform

# Where a run of adapters is opened to be used; to start from it, it is converted first.
BASE_OPTION = "--base of seekjax generate, chat, eval or convert"

HASHED = 2**20  # bytes at the beginning of each published file that its fingerprint reads


class OpenedModel(NamedTuple):
    """A model with its weights, and what is needed to use it."""

    folder: Path
    model: ModelConfig
    kernel: KernelConfig
    variables: dict  # {"params", "balance"}, placed by the rules on the mesh in use
    tokenizer: Tokenizer | None
    step: Path | None = None  # folder of a run's step that the weights are from

    @property
    def begin(self) -> int:
        """The id that a text begins with; 0 without a tokenizer."""
        return self.tokenizer.begin if self.tokenizer else 0


def open_model(
    path: Path,
    kernel: KernelConfig | None = None,
    *,
    trust: bool = False,
    base: Path | None = None,
) -> OpenedModel:
    """Return the newest weights in a folder and the tokenizer next to them.

    `kernel` replaces a run's own choice of kernels, or that of `published_kernel`.
    `trust` lets a run's config.json name code from outside this package, which is then imported.
    `base` is the folder with the weights that a run's adapters belong to, if it is not where it
    was. Raises GenerateError if the folder holds neither, and RunError, CheckpointError,
    WeightsError or DataError if the run or checkpoint is damaged.
    """
    folder = Path(path).expanduser()
    kind = kind_of(folder)
    step = None
    need(base is None or kind == "run", f"{folder} is not a run: leave --base out.", RunError)
    if kind == "run":
        step, config, variables = open_run(folder, kernel, trust=trust, base=base)
        model, kernel = config.model, config.kernel
    elif kind == "published":
        kernel = kernel or published_kernel(folder)
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

    tokenizer = None
    if (folder / "tokenizer.json").is_file():
        tokenizer = read_tokenizer(folder, model.vocab)
    return OpenedModel(folder, model, kernel, variables, tokenizer, step)


def open_run(
    folder: Path,
    kernel: KernelConfig | None = None,
    *,
    trust: bool = False,
    base: Path | None = None,
) -> tuple[Path, Config, dict]:
    """Return a run's newest undamaged step, its config and its weights {"params", "balance"}.

    `checkpoint.read.read_run` says more. Adapters are added to their base, which is where it was
    when they were trained, or in `base`. Raises RunError, CheckpointError or WeightsError.
    """
    step = newest_undamaged(folder.absolute() / "checkpoints")
    need(
        base is None or read_base_record(step),
        f"{folder} holds all of its weights: leave --base out.",
        RunError,
    )

    def read(record: Base) -> dict:
        return read_base(record, folder, base, BASE_OPTION, trust)

    config, variables = read_step(step, folder, kernel, trust, read)
    return step, config, variables


def read_base(record: Base, run: Path, given: Path | None, option: str, trust: bool) -> dict:
    """Return the weights that a run's adapters belong to, in float32.

    They are in the folder `given`, the value of `option`, or else where they were. Raises RunError
    if they are gone or have another fingerprint, and what reading them raises.
    """
    places = record.places(run) if given is None else [given.expanduser()]
    present = [place for place in places if kind_of(place) is not None]
    need(
        present,
        f"the adapters of {run} belong to {record.words}, and {places[-1]} is not there any more: "
        f"name the folder that has these weights with {option}.",
        RunError,
    )
    others = []
    for place in present:
        words, params = _weights_in(place, record, trust)
        if fingerprint(params) == record.fingerprint:
            return params
        others.append(words)
    raise RunError(
        f"the adapters of {run} belong to {record.words} as it was when they were trained, and "
        f"{' and '.join(others)} has other weights: name the folder that has these weights with "
        f"{option}."
    )


def _weights_in(folder: Path, record: Base, trust: bool) -> tuple[str, dict]:
    """Return what is read of a folder, in words, and its weights in float32."""
    if kind_of(folder) == "run":
        step = _step_of(folder, record.step)
        _, variables = read_step(step, folder, None, trust)
        words = f"step {step.name} of {folder}"
    else:
        _, variables = load(folder, KernelConfig(dtype=record.dtype))
        words = str(folder)
    return words, jax.tree.map(lambda x: x.astype("float32"), variables["params"])


def _step_of(run: Path, step: int | None) -> Path:
    """Return the folder of one step of a run, or of the newest if it is gone or damaged."""
    checkpoints = run.absolute() / "checkpoints"
    wanted = checkpoints / str(step)
    if step is not None and wanted.is_dir() and damage(wanted) is None:
        return wanted
    return newest_undamaged(checkpoints)


def is_of_adapters(opened: OpenedModel) -> bool:
    """Return whether a model's weights are the sum of adapters and their base."""
    if opened.step is None:
        return False
    config = read_config(opened.step / "config.json", trust=True, parts=WEIGHTS)
    return config.lora.rank > 0


def published_kernel(folder: Path) -> KernelConfig:
    """Return the kernels for a published checkpoint: the dtype of its files.

    On a CPU it is float32 while the weights fit into the memory that is free, because products of
    bfloat16 take three times as long there. Raises WeightsError.
    """
    wide = KernelConfig()
    checkpoint = open_published(folder)
    if checkpoint.vocabulary_dtype() == "float32":
        return wide

    # Generation copies each stack of layers once, to lay them out one by one.
    weights, _ = described(checkpoint.config.model, wide)
    largest = max(map(tree_bytes, jax.tree.leaves(weights)))
    if platform() == "cpu" and not shortage(weights, largest):
        return wide
    return KernelConfig(dtype="bfloat16")


def initial_model(config: Config) -> OpenedModel | None:
    """Return the model that a run starts from; None for random weights."""
    if config.init is None:
        return None
    return open_model(config.init, config.kernel, trust=config.trust)


def initial_variables(config: Config) -> dict | None:
    """Return the weights {"params", "balance"} that a run starts from; None for random weights."""
    opened = initial_model(config)
    return None if opened is None else opened.variables


def with_initial_model(config: Config) -> Config:
    """Return the config with the model and the tokenizer of the weights that the run starts from.

    The model gets the longer context of `config.extend`. Without `config.init` the config is
    returned as it is. Raises RunError or WeightsError if that folder holds no model or no
    tokenizer.
    """
    if config.init is None:
        return config

    folder = config.init.expanduser()
    need(
        folder.is_dir(),
        f"there is no folder {folder}: name where the model is now.",
        RunError,
    )
    if kind_of(folder) == "run":
        step = newest_undamaged(folder.absolute() / "checkpoints")
        model = read_step_config(step, trust=config.trust).model
    else:
        model = open_published(folder).config.model

    need(
        (folder / "tokenizer.json").is_file(),
        f"{folder} has no tokenizer.json: copy that of the model there, or name another --init.",
        RunError,
    )
    data = replace(config.data, tokenizer=str(folder))
    return replace(config, model=extended(model, config.extend), data=data)


def extended(model: ModelConfig, extend: ExtendConfig) -> ModelConfig:
    """Return the model with the context and the rotary settings that an extension states."""
    rope = replace(
        model.rope,
        factor=extend.factor or model.rope.factor,
        original_context=extend.original_context or model.rope.original_context,
    )
    return replace(model, context=extend.context or model.context, rope=rope)


def weights_fingerprint(folder: Path) -> str:
    """Return a hash that identifies a folder's weights, without reading all of them.

    Of a run it is the hash of the manifest of the newest step, which holds the SHA-256 of the
    weights; of a published checkpoint it covers the size and first megabyte of each file.
    """
    manifests = {}
    for path in folder.glob("checkpoints/*/manifest.json"):
        if path.parent.name.isdecimal():
            manifests[int(path.parent.name)] = path
    if manifests:
        newest = manifests[max(manifests)]
        return hashlib.sha256(newest.read_bytes()).hexdigest()

    fingerprint = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            fingerprint.update(f"{path.name} {path.stat().st_size} ".encode())
            fingerprint.update(file.read(HASHED))
    return fingerprint.hexdigest()


def need_tokenizer(opened: OpenedModel) -> Tokenizer:
    """Return the model's tokenizer; raises GenerateError if it has none."""
    if opened.tokenizer is None:
        raise GenerateError(f"{opened.folder} has no tokenizer.json: copy that of the model there.")
    return opened.tokenizer


@contextmanager
def on_mesh(mesh: MeshConfig) -> Iterator[None]:
    """Place arrays on this mesh of the available devices within the block.

    Raises GenerateError if there are too few devices, or if it would split sequences.
    """
    need(
        mesh.context == 1,
        f"mesh.context is {mesh.context}: it splits sequences in training, use another axis here.",
        GenerateError,
    )
    try:
        made = make_mesh(mesh)
    except ValueError as error:
        raise GenerateError(str(error)) from error
    with use_mesh(made):
        yield
