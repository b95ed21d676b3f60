"""`seekjax convert --from A --to B`: a published checkpoint into a run folder, a run's newest
weights into a published checkpoint, or either into a GGUF file.
"""

import json
import shutil
from contextlib import closing
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro

from seekjax.checkpoint.config_json import to_json
from seekjax.checkpoint.read import read_run
from seekjax.checkpoint.write import Checkpoints
from seekjax.config import Config, DataConfig, TrainConfig
from seekjax.data import DataError
from seekjax.data.tokenizer import EOS, PAD, read_tokenizer
from seekjax.errors import WeightsError, need
from seekjax.hf.files import TensorFiles
from seekjax.hf.gguf import Type, import_gguf, reader, save_gguf
from seekjax.hf.load import load
from seekjax.hf.published import SCALE, open_published
from seekjax.hf.save import Dtype, check_bias, save
from seekjax.hf.tensor_file import write_file
from seekjax.hf.untrusted import file_size, read_json
from seekjax.model.count import parameters
from seekjax.placement import use_mesh
from seekjax.storage import kind_of, new_folder
from seekjax.train.state import RunSpec
from sharding.mesh import MeshConfig

TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
SCALES = "fp8_scales.safetensors"
TOKENIZER_BYTES = 2**26


@dataclass(frozen=True)
class Convert:
    """A published checkpoint (a folder with config.json and .safetensors files) into a run, a run
    into a published checkpoint, or either for llama.cpp."""

    source: Annotated[Path, tyro.conf.arg(name="from")]  # a checkpoint's folder, or that of a run
    to: Path | None = None  # a new folder
    to_gguf: Path | None = (
        None  # instead: a new file for llama.cpp, without the prediction modules (extra [gguf])
    )
    type: Type = "f32"  # of the matrices in a GGUF file
    dtype: Dtype = "bf16"  # of the matrices in a published checkpoint; a run has float32
    # also give the run an optimizer's moments, so that train.py can go on from it; three times the
    # size
    trainable: bool = False
    mesh: MeshConfig = MeshConfig(data=1)  # where the weights live on their way


def convert(argv: list[str]) -> None:
    """Raises WeightsError, RunError, CheckpointError or DataError, each with one sentence; B
    appears whole or not at all."""
    asked = tyro.cli(
        Convert, prog="seekjax convert", args=argv, config=(tyro.conf.FlagConversionOff,)
    )
    need(
        (asked.to is None) != (asked.to_gguf is None),
        "name either a new folder (--to) or a new file for llama.cpp (--to-gguf).",
        WeightsError,
    )
    need(
        jax.process_count() == 1,
        f"seekjax convert is started on {jax.process_count()} processes, and each would "
        "write the same files: start it on one "
        "that has room for the weights.",
        WeightsError,
    )
    source = asked.source.expanduser()
    if asked.to_gguf:
        to_gguf(source, asked.to_gguf, asked.type, asked.mesh)
        print(
            f"{asked.to_gguf}: {asked.to_gguf.expanduser().stat().st_size / 1e6:,.1f} MB "
            f"of deepseek2 in {asked.type}; "
            f"next: llama-cli -m {asked.to_gguf}"
        )
        return
    to = asked.to.expanduser()
    with use_mesh(asked.mesh):
        if kind_of(source) == "run":
            export(source, to, asked.dtype)
            print(
                f"{to}: the published layout in {asked.dtype}; transformers reads it with "
                f"AutoModelForCausalLM.from_pretrained({str(to)!r})"
            )
        else:
            config = adopt(source, to, asked.trainable)
            then = (
                f"python train.py {to / 'config.py'} --out {to}"
                if asked.trainable
                else f"seekjax generate {to}"
            )
            print(f"{to}: {parameters(config.model).total / 1e6:,.1f}M parameters; next: {then}")


def to_gguf(source: Path, path: Path, kind: Type, mesh: MeshConfig) -> None:
    """A run's newest weights, or a published checkpoint tensor by tensor, as one file for
    llama.cpp."""
    import_gguf()  # before anything is read
    if kind_of(source) != "run":
        checkpoint = open_published(source)
        save_gguf(path, checkpoint.config.model, checkpoint.interleaved_values, kind, source)
        return
    with use_mesh(mesh):
        config, variables = read_run(source)
        need_whole(config)
        check_bias(config.model, variables)
        save_gguf(path, config.model, reader(variables), kind, source)


def need_whole(config: Config) -> None:
    need(
        config.kernel.weights == "float32",
        f"{config.out} has {config.kernel.weights} weights: convert the run that they are from.",
        WeightsError,
    )


def export(run: Path, to: Path, dtype: Dtype) -> None:
    """The newest weights of a run as a published checkpoint, with the run's tokenizer."""
    config, variables = read_run(run)
    need_whole(config)
    with new_folder(to, WeightsError) as folder:
        save(
            folder,
            config.model,
            variables,
            dtype,
            scales=run / SCALES if (run / SCALES).exists() else None,
        )
        copy_tokenizer(run, folder)
        if (folder / "tokenizer.json").exists():
            ours = not (folder / "tokenizer_config.json").exists()
            if ours:
                names = {
                    "bos_token": EOS,
                    "eos_token": EOS,
                    "pad_token": PAD,
                }  # in training a text followed the end of another
                (folder / "tokenizer_config.json").write_text(
                    json.dumps(
                        {"tokenizer_class": "PreTrainedTokenizerFast"} | names, ensure_ascii=False
                    )
                    + "\n"
                )
            ids = token_ids(folder, config.model.vocab)
            described = (
                read_json(folder / "config.json")
                | ids
                | ({"bos_token_id": ids["eos_token_id"]} if ours and ids else {})
            )
            (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n")


def adopt(directory: Path, run: Path, trainable: bool = False) -> Config:
    """A run folder around the weights of a published checkpoint, as step 0. Without `trainable` it
    has weights only: enough for all but training."""
    with new_folder(run, WeightsError) as folder:
        model, variables = load(directory)
        keep_scales(TensorFiles(directory), folder / SCALES)
        copy_tokenizer(directory, folder)
        data = (
            DataConfig(tokenizer=str(run / "tokenizer.json"))
            if (folder / "tokenizer.json").exists()
            else DataConfig()
        )
        config = Config(
            model=model, data=data, mesh=MeshConfig(data=1), train=TrainConfig(), out=run
        )
        state = (
            RunSpec(config).begin(variables["params"]).replace(balance=variables["balance"])
            if trainable
            else variables
        )
        with closing(Checkpoints(folder, keep=1)) as checkpoints:
            checkpoints.save(0, state, data=None, config=to_json(config))
            checkpoints.wait()
        (folder / "config.json").write_text(json.dumps(to_json(config), indent=1))
        if trainable:
            kinds = ", ".join(
                sorted(
                    {
                        type(part).__name__
                        for part in (
                            config,
                            config.model,
                            config.model.rope,
                            config.optimizer.schedule,
                            *vars(config).values(),
                        )
                        if is_dataclass(part)
                    }
                    - {"MeshConfig"}
                )
            )
            (folder / "config.py").write_text(
                f"from seekjax.config import {kinds}\nfrom sharding.mesh import "
                f"MeshConfig\n\nconfig = {replace(config, out=None)}\n"
            )
    return config


def keep_scales(files: TensorFiles, path: Path) -> None:
    """The scales of a checkpoint's FP8 blocks, which its values alone do not tell: writing the run
    out again finds them here."""
    stored = [
        (name, np.dtype(np.float32), entry.shape)
        for name, entry in files.entries.items()
        if name.endswith(SCALE)
    ]
    if stored:
        write_file(path, stored, (files.read(name) for name, _, _ in stored))


def token_ids(folder: Path, vocab: int) -> dict[str, int | None]:
    """What config.json says of the tokenizer beside it; nothing where that is none of DeepSeek's
    kind."""
    try:
        tokenizer = read_tokenizer(folder, vocab)
    except DataError:
        return {}
    return {
        "bos_token_id": tokenizer.bos,
        "eos_token_id": tokenizer.eos,
        "pad_token_id": tokenizer.pad,
    }


def copy_tokenizer(source: Path, to: Path) -> None:
    """The files beside the weights that say how text becomes tokens: copied as they are, never
    run."""
    for name in TOKENIZER:
        if (source / name).exists():
            file_size(source / name, TOKENIZER_BYTES)
            shutil.copyfile(source / name, to / name)
