"""`seekjax convert --from A --to B`: a published checkpoint into a run folder, a run's newest
weights into a published checkpoint, either into a GGUF file, or a run's adapters into PEFT's files.
"""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seekjax.checkpoint.base import Base, read_base_record
from seekjax.checkpoint.read import read_adapters
from seekjax.commands.new_run import copy_tokenizer, data_config, write_run
from seekjax.commands.settings import Convert
from seekjax.config import Config
from seekjax.config.formats import Dtype, Type
from seekjax.errors import RunError, WeightsError, need
from seekjax.hf.files import TensorFiles
from seekjax.hf.gguf import import_gguf, reader, save_gguf
from seekjax.hf.load import load
from seekjax.hf.peft import has_halves, save_adapters
from seekjax.hf.published import SCALE, open_published
from seekjax.hf.save import check_bias, write_published
from seekjax.hf.tensor_file import write_file
from seekjax.hf.text import describe_text
from seekjax.model.count import parameters
from seekjax.open import open_run
from seekjax.placement import use_mesh
from seekjax.storage import kind_of, new_folder
from seekjax.train.state import RunSpec
from sharding.mesh_config import MeshConfig

SCALES = "fp8_scales.safetensors"  # in a run folder that was imported from FP8


def convert(options: Convert) -> None:
    """Run the command; the new folder or file appears complete or not at all.

    Raises WeightsError, RunError, CheckpointError or DataError.
    """
    targets = (options.to, options.to_gguf, options.to_peft)
    need(
        sum(target is not None for target in targets) == 1,
        "name either a new folder (--to), a new file for llama.cpp (--to-gguf), or a new folder "
        "for PEFT (--to-peft).",
        WeightsError,
    )
    need(
        jax.process_count() == 1,
        f"seekjax convert is started on {jax.process_count()} processes, and each would "
        "write the same files: start it on one that has room for the weights.",
        WeightsError,
    )

    source = options.source.expanduser()
    if options.to_gguf is not None:
        _convert_to_gguf(source, options.to_gguf, options)
        return

    if options.to_peft is not None:
        to_peft(source, options.to_peft.expanduser(), options.trust, options.base)
        return

    assert options.to is not None
    to = options.to.expanduser()
    with use_mesh(options.mesh):
        if kind_of(source) == "run":
            _convert_to_published(source, to, options)
        else:
            _convert_to_run(source, to, options)


def _convert_to_gguf(source: Path, path: Path, options: Convert) -> None:
    """Write a GGUF file and print how to run it."""
    to_gguf(source, path, options.type, options.mesh, options.trust, options.base)
    megabytes = path.expanduser().stat().st_size / 1e6
    print(f"{path}: {megabytes:,.1f} MB of deepseek2 in {options.type}; next: llama-cli -m {path}")


def _convert_to_published(source: Path, to: Path, options: Convert) -> None:
    """Write a published checkpoint and print how to open it."""
    export_run(source, to, options.dtype, options.trust, options.base)
    print(
        f"{to}: the published layout in {options.dtype}; transformers reads it with "
        f"AutoModelForCausalLM.from_pretrained({str(to)!r})"
    )


def _convert_to_run(source: Path, to: Path, options: Convert) -> None:
    """Write a run folder and print what to do with it."""
    config = import_checkpoint(source, to, options.trainable)
    command = f"seekjax generate {to}"
    if options.trainable:
        command = f"python train.py {to / 'config.py'} --out {to}"
    millions = parameters(config.model).total / 1e6
    print(f"{to}: {millions:,.1f}M parameters; next: {command}")


def to_gguf(
    source: Path,
    path: Path,
    kind: Type,
    mesh: MeshConfig,
    trust: bool = False,
    base: Path | None = None,
) -> None:
    """Write a run's newest weights, or a published checkpoint tensor by tensor, as one GGUF file.

    Raises WeightsError, RunError or CheckpointError.
    """
    import_gguf()  # before anything is read
    if kind_of(source) != "run":
        checkpoint = open_published(source)
        save_gguf(path, checkpoint.config.model, checkpoint.interleaved_values, kind, source)
        return

    with use_mesh(mesh):
        _, config, variables = open_run(source, trust=trust, base=base)
        _check_float32(config)
        check_bias(config.model, variables)
        save_gguf(path, config.model, reader(variables), kind, source)


def _check_float32(config: Config) -> None:
    """Raise WeightsError for a run with quantised weights."""
    need(
        config.kernel.weights == config.kernel.vocabulary == "float32",
        f"{config.out} has {config.kernel.weights} weights: convert the run that they are from.",
        WeightsError,
    )


def export_run(
    run: Path, to: Path, dtype: Dtype, trust: bool = False, base: Path | None = None
) -> None:
    """Write the newest weights of a run as a published checkpoint, with the run's tokenizer.

    Raises WeightsError, RunError or CheckpointError.
    """
    _, config, variables = open_run(run, trust=trust, base=base)
    _check_float32(config)
    scales = run / SCALES
    with new_folder(to, WeightsError) as folder:
        write_published(
            folder,
            config.model,
            variables,
            dtype,
            scales=scales if scales.exists() else None,
        )
        tokenizer = copy_tokenizer(run, folder, config.model.vocab)
        if tokenizer is not None:
            describe_text(folder, tokenizer)


def to_peft(run: Path, to: Path, trust: bool = False, base: Path | None = None) -> None:
    """Write the newest adapters of a run for PEFT, and print what they belong to.

    Raises WeightsError, RunError or CheckpointError.
    """
    need(
        kind_of(run) == "run",
        f"{run} is not a run: PEFT's files are written from a run that trained adapters "
        "(--lora.rank).",
        WeightsError,
    )
    step, config, params = read_adapters(run, trust=trust)
    folder, halves = _base_folder(run, config, read_base_record(step), base)
    notes = save_adapters(to, config.model, config.lora, params, str(folder or ""), halves)

    moves_bias = config.train.balance_rate > 0 and (config.grpo is None or config.grpo.move_bias)
    if moves_bias and config.model.experts and config.model.scoring == "sigmoid":
        notes.append(
            f"the balance biases moved as well (train.balance_rate {config.train.balance_rate:g}), "
            "and PEFT has no place for them: write whole weights with --to if that matters."
        )
    for note in notes:
        print(f"note: {note}")
    print(
        f"{to}: adapters of rank {config.lora.rank} of {folder or 'random weights'}; "
        f"peft reads them with PeftModel.from_pretrained(model, {str(to)!r})"
    )


def _base_folder(
    run: Path, config: Config, record: Base | None, given: Path | None
) -> tuple[Path | None, bool]:
    """Return the folder that a run's adapters belong to, and whether it has rotary halves.

    Its weights are not read. Raises RunError if it is gone.
    """
    if given is not None:
        places = [given.expanduser()]
    elif record is not None:
        places = record.places(run)
    else:
        places = [config.init.expanduser()] if config.init else []
    if not places:
        return None, False

    for place in places:
        kind = kind_of(place)
        if kind is not None:
            return place, kind == "published" and has_halves(place)
    raise RunError(
        f"the adapters of {run} belong to {places[-1]}, which is not there any more: name where it "
        "is now with --base."
    )


def import_checkpoint(source: Path, run: Path, trainable: bool = False) -> Config:
    """Write a run folder with the weights of a published checkpoint as step 0; return its config.

    Without `trainable` the folder has the weights only, which is enough for all but training.
    Raises WeightsError or DataError.
    """
    with new_folder(run, WeightsError) as folder:
        model, variables = load(source)
        keep_scales(TensorFiles(source), folder / SCALES)
        copy_tokenizer(source, folder, model.vocab)

        data = data_config(source, run)
        config = Config(model=model, data=data, mesh=MeshConfig(data=1), out=run)
        if not trainable:
            write_run(folder, config, variables)
            return config

        state = RunSpec(config).begin(variables["params"])
        write_run(folder, config, state.replace(balance=variables["balance"]))
        (folder / "config.py").write_text(config_source(replace(config, out=None)))
    return config


def keep_scales(files: TensorFiles, path: Path) -> None:
    """Write the scales of a checkpoint's FP8 blocks, if it has some.

    The values alone do not determine the scales; exporting the run finds them here.
    """
    names = [name for name in files.entries if name.endswith(SCALE)]
    if not names:
        return
    stored = [(name, np.dtype(np.float32), files.entries[name].shape) for name in names]
    write_file(path, stored, map(files.read, names))


def config_source(config: Config) -> str:
    """Return a Python file that defines `config`, naming only what differs from the defaults."""
    classes: set[str] = set()
    expression = _expression(config, classes)
    imports = ", ".join(sorted(classes))
    return f"from seekjax.config import {imports}\n\nconfig = {expression}\n"


def _expression(value: Any, classes: set[str], indent: str = "") -> str:
    """A value as Python source, one field a line; adds the names of the classes that it uses."""
    if not is_dataclass(value):
        return repr(value)

    name = type(value).__name__
    classes.add(name)
    defaults = type(value)()
    lines = []
    for field in fields(value):
        inner = getattr(value, field.name)
        if inner != getattr(defaults, field.name):
            source = _expression(inner, classes, indent + "    ")
            lines.append(f"{indent}    {field.name}={source},\n")
    return f"{name}(\n{''.join(lines)}{indent})" if lines else f"{name}()"
